"""xDS as a server: `store` is what there is, `stream` is one client's state without I/O, `server` carries it over gRPC; `tunnels` says what
node tunnels are served.
"""
