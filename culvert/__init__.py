"""The command line: the playground, status, verify."""
