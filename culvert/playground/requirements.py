"""What this machine must have before anything is made: each missing thing in one sentence that says what to do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from culvert.config import Config


def missing(config: Config, *, mesh: bool) -> list[str]:
    """Sentences; empty if everything is there."""
    if sys.platform != "linux":
        return ["The playground needs Linux; on another system, run it in a virtual machine."]
    if os.geteuid() != 0:
        return ["The playground makes network namespaces and must run as root: try again with sudo."]
    found = []
    if not Path("/proc/net/if_inet6").exists():
        found.append("IPv6 is switched off in this kernel (ipv6.disable=1): the playground's pods have addresses of both families.")
    if config.tool("nft") is None:
        found.append("The program nft is not installed: apt-get install nftables.")
    try:
        import pyroute2  # noqa: F401
    except ImportError:
        found.append("The Python package pyroute2 is not installed: pip install culvert-mesh brings it.")
    if mesh:
        objects = bpf_objects(config)
        if not objects:
            found.append("The kernel programs are not built: run `make -C bpf` in the checkout (or start with --no-mesh).")
    return found


def bpf_objects(config: Config) -> list[Path]:
    return sorted((config.source / "agent" / "bpf").glob("*.bpf.o"))
