"""What is missing on this machine, each thing in one sentence: asked once, before anything is changed."""

from __future__ import annotations

import os
from collections.abc import Iterable

from agent import bpf, routing
from mesh.io.netns import Namespace

_NEEDED = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


def missing(status: str = "/proc/self/status") -> list[str]:
    """One sentence per thing that this node lacks; empty where the agent can work."""
    found = list(_capabilities(status))
    if found:
        return found  # without them everything else would fail too, for that one reason
    try:
        _ = Namespace.current().cookie
    except OSError as error:
        found.append(f"The kernel tells no network namespace cookies (SO_NETNS_COOKIE, Linux 5.14): {error}.")
    absent = [path for path in routing.needed_sysctls() if not os.path.exists(path)]
    found += [f"The kernel has no {path}, without which replies of apps do not find the way back." for path in absent]
    return found + bpf.probe()


def _capabilities(status: str) -> Iterable[str]:
    with open(status) as file:
        effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    for name, bit in _NEEDED.items():
        if not effective >> bit & 1:
            yield f"The agent runs without {name}; run it as root with this capability."
