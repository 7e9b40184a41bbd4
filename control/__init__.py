"""The control plane: reads resources, resolves them to what tunnels need, serves it over xDS, and signs certificates.

Touches no packets."""
