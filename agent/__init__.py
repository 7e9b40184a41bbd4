"""The node agent: loads the BPF programs, enrols pods, keeps the kernel's maps true, and hands network namespaces to the tunnel.

Holds no keys and relays no bytes. Only this room touches BPF."""
