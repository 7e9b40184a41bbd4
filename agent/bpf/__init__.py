"""libbpf by ctypes, and the typed view of the programs and maps of `bpf/`. The only module that loads anything into the kernel.

Reading order: `abi` (what the kernel and we both know), `libbpf` (prototypes), `maps`, `links`, `objects`, `pins`, then `programs`,
which is all that the agent itself calls, beside `probe` and `uninstall`.
"""

from agent.bpf.events import KernelEvent
from agent.bpf.libbpf import BpfError
from agent.bpf.pins import AdoptionError, BusyError, uninstall
from agent.bpf.probe import probe
from agent.bpf.programs import AddressTakenError, Programs

__all__ = ["AddressTakenError", "AdoptionError", "BpfError", "BusyError", "KernelEvent", "Programs", "probe", "uninstall"]
