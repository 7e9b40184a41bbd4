"""The agents' kernel objects, from outside: only to remove what a killed agent left pinned."""

from __future__ import annotations

import os
import time
from pathlib import Path

BUSY_SECONDS = 0.5
PINS = Path("/sys/fs/bpf/culvert")


def installed_instances() -> list[str]:
    """Every agent instance that has something pinned on this machine."""
    try:
        return sorted(entry.name for entry in os.scandir(PINS) if entry.is_dir())
    except FileNotFoundError:
        return []


def uninstall_instance(instance: str) -> bool:
    """Detach and unpin everything of one instance. False if it had nothing."""
    if not (PINS / instance).is_dir():
        return False
    from agent.bpf import BusyError, uninstall

    try:
        return uninstall(instance)
    except BusyError:
        # Its agent was just killed; the kernel closes a dead process's locks a moment later.
        time.sleep(BUSY_SECONDS)
        return uninstall(instance)
