"""What this kernel and this machine lack for the programs, each in one sentence. The agent prints them and exits 2."""

from __future__ import annotations

import os
from pathlib import Path

from agent.bpf import libbpf
from agent.bpf.cgroups import find_cgroup2
from agent.bpf.libbpf import BpfError
from agent.bpf.objects import Loaded, ObjectFile
from agent.bpf.pins import is_bpffs

OBJECT = str(Path(__file__).with_name("culvert.bpf.o"))
ADOPTER = "cvt_adopt_listeners"

# bpffs and cgroup2 are mounted by the agent where they are missing, so only a kernel that does not know them is a lack.
_NEEDS = {
    "cvt_connect4": "cgroup/connect4 with bpf_setsockopt, socket storage and bpf_set_retval: Linux 5.18",
    "cvt_connect6": "cgroup/connect6 with bpf_setsockopt, socket storage and bpf_set_retval: Linux 5.18",
    "cvt_getpeername4": "cgroup/getpeername4 with socket storage: Linux 5.8",
    "cvt_getpeername6": "cgroup/getpeername6 with socket storage: Linux 5.8",
    "cvt_getsockname4": "cgroup/getsockname4 with socket storage: Linux 5.8",
    "cvt_getsockname6": "cgroup/getsockname6 with socket storage: Linux 5.8",
    "cvt_getsockopt": "cgroup/getsockopt with bpf_get_netns_cookie: Linux 5.15",
    "cvt_sockops": "sockops with bpf_get_netns_cookie and socket storage: Linux 5.15",
    "cvt_sk_lookup": "sk_lookup with ingress_ifindex: Linux 5.17",
    ADOPTER: "iter/tcp over socket maps: Linux 6.5",
}


def adopts_listeners(release: str | None = None) -> bool:
    """Whether iter/tcp may be used: before Linux 6.5 it holds the socket's spin lock, and our program would wait for itself for ever."""
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in ((release or os.uname().release) + ".0").split(".")[:2])
    return (major, minor) >= (6, 5)


def probe(object_path: str = OBJECT) -> list[str]:
    """One sentence for each thing that is missing; empty: everything is there. Loads the programs and lets them go."""
    if os.geteuid() != 0:
        return [
            "not root: loading BPF programs and entering network namespaces needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN"
        ]
    missing = []
    try:
        libbpf.library()
    except (OSError, AttributeError) as error:
        missing.append(f"{libbpf.LIBRARY} 1.1 or newer cannot be used ({error}); on Debian install the package libbpf1")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        missing.append("the kernel has no BTF (/sys/kernel/btf/vmlinux): CONFIG_DEBUG_INFO_BTF is needed to relocate the programs")
    if not Path(object_path).exists():
        missing.append(f"{object_path} is not there: build it with `make -C bpf`")
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines() if line.split()}
    if "cgroup2" not in known and find_cgroup2() is None:
        missing.append("the kernel has no cgroup2 file system: CONFIG_CGROUP_BPF is needed to attach the programs")
    if "bpf" not in known and not is_bpffs(Path("/sys/fs/bpf")):
        missing.append("the kernel has no BPF file system: CONFIG_BPF_SYSCALL is needed to pin maps and links")
    return missing or _refused(object_path)


def _refused(object_path: str) -> list[str]:
    """Load all; where that fails load one by one, to name which."""
    names, error = _try(object_path, None)
    if error is None:
        return []
    missing = []
    for name in names:
        _, why = _try(object_path, name)
        if why is not None:
            missing.append(f"the kernel refuses the program {name} (it needs {_NEEDS.get(name, 'a newer kernel')}): {_last_words(why)}")
    return missing or [f"the kernel refuses the maps or the programs together: {_last_words(error)}"]


def _try(object_path: str, only: str | None) -> tuple[list[str], BpfError | None]:
    with ObjectFile(object_path) as opened:
        names = [name for name in opened.program_names() if name != ADOPTER or adopts_listeners()]
        opened.leave_out(*(name for name in opened.program_names() if name not in names or (only is not None and name != only)))
        try:
            _release(opened.load())
        except BpfError as error:
            return names, error
    return names, None


def _release(loaded: Loaded) -> None:
    for program in loaded.programs.values():
        os.close(program.fd)
    for fd in loaded.maps.values():
        os.close(fd)


def _last_words(error: BpfError) -> str:
    """The verifier's complaint is the last line before its statistics."""
    lines = [line for line in error.log if not line.startswith(("processed ", "-- ", "libbpf: "))]
    return lines[-1].strip() if lines else str(error.args[1])
