"""Node tunnels side by side in one run: the same client, server and namespaces, one worker each, in turn. See bench/README.md."""
