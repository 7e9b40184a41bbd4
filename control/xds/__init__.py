"""Delta xDS as a server: `delta` is one stream's state without I/O, `server` carries it over gRPC."""
