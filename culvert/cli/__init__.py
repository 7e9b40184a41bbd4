"""The commands, as people type them: arguments in, text and exit codes out. What they do lives in culvert.playground.

Exit codes: 0 done, 1 failed or refused, 2 used wrongly or not possible on this machine.
"""
