"""Taking a playground away: everything that carries its name, whether the state directory still knows of it or not.

Works on any wreck: a killed supervisor, a killed `up`, a state directory that is gone. Processes are known from pid files and found by
the network namespace they are in; namespaces, with their links, by the prefix of their names; kernel programs by the instance names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from culvert.playground import netns
from culvert.playground.bootstrap import known_processes
from culvert.playground.control import stop_supervisor
from culvert.playground.layout import STATE_ROOT, Layout
from culvert.playground.processes import end_all, settled_in_namespaces
from mesh.model.errors import CulvertError

GRACE_SECONDS = 3.0


@dataclass(slots=True)
class Removed:
    """What was taken away, and what could not be (sentences)."""

    processes: int = 0
    namespaces: int = 0
    instances: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    state: bool = False

    @property
    def nothing(self) -> bool:
        return not (self.processes or self.namespaces or self.instances or self.left or self.state)


def take_down(layout: Layout, uninstall: Callable[[str], bool], say: Callable[[str], None]) -> Removed:
    """`uninstall` removes one agent instance's kernel objects and says whether there were any."""
    removed = Removed()
    stop_supervisor(layout)
    names = netns.with_prefix(layout.prefix)
    inodes = {inode for inode in map(netns.inode, names) if inode is not None}
    processes = {*known_processes(layout), *settled_in_namespaces(inodes)}
    if processes:
        say(f"ending {len(processes)} processes")
        stubborn = end_all(processes, GRACE_SECONDS)
        # Children that were born or left behind meanwhile.
        stubborn += end_all(settled_in_namespaces(inodes), 0.5)
        removed.left += [f"process {process.pid} does not end" for process in stubborn]
        removed.processes = len(processes)
    for instance in _instances(layout, names):
        try:
            if uninstall(instance):
                removed.instances.append(instance)
        except (OSError, ImportError, CulvertError) as error:
            removed.left.append(f"the kernel programs of {instance} are still there ({error})")
    for name in names:
        netns.delete(name)
    removed.namespaces = len(names)
    removed.left += [f"namespace {name} is still there" for name in netns.with_prefix(layout.prefix)]
    if layout.state.exists():
        removed.state = True
        shutil.rmtree(layout.state)
    layout.lock.unlink(missing_ok=True)
    if layout.state.parent == STATE_ROOT:
        with suppress(OSError):  # other playgrounds live there
            STATE_ROOT.rmdir()
    return removed


def _instances(layout: Layout, namespaces: list[str]) -> list[str]:
    """Names of the nodes' agents: from the state directory and from the namespaces, whichever is left."""
    found = set()
    nodes = layout.state / "nodes"
    if nodes.is_dir():
        found |= {layout.instance(entry.name) for entry in os.scandir(nodes)}
    others = (layout.wire, layout.control)
    found |= {name for name in namespaces if name not in others and "." not in name}
    return sorted(found)
