"""The edge to the system: the event loop, TLS, sockets inside namespaces, the byte relay, drain, clock, gRPC channels, logs."""
