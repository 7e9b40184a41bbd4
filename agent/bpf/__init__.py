"""libbpf by ctypes, and the typed view of the programs and maps of `bpf/`. The only module that loads anything into the kernel."""
