"""The node tunnel: mutual TLS, HBONE, L4 policy and L4 telemetry for the pods of one node.

Parses no HTTP of users and loads no BPF."""
