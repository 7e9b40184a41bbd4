"""Before the first pass: what an earlier supervisor left is either whole and taken over, or removed. Runs in the worker's thread."""

from __future__ import annotations

import os
from contextlib import suppress

from culvert.playground import netns, network
from culvert.playground.files import read_json, write_in_place, write_json
from culvert.playground.hosts import RESOLVER
from culvert.playground.layout import Layout
from culvert.playground.processes import ProcessId, end_all, settled_in_namespaces
from culvert.playground.records import load_records
from culvert.playground.spec import PlaygroundSpec


def prepare(layout: Layout, spec: PlaygroundSpec) -> None:
    for directory in layout.directories(spec.nodes):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_in_place(layout.resolver, RESOLVER)
    base = [layout.wire, layout.control, *(layout.node(node) for node in spec.nodes)]
    if not _whole(layout, base):
        _remove_all(layout)
        _build(layout, spec)
        write_json(layout.network, {name: netns.inode(name) for name in base})
        return
    keep = set(base) | {record.netns for record in load_records(layout.pods)}
    for name in netns.with_prefix(layout.prefix):
        if name not in keep:
            _remove(name)
    end_all(_strays(layout), 1.0)


def known_processes(layout: Layout) -> list[ProcessId]:
    """Everyone in the pid files, alive or not."""
    found = []
    with suppress(FileNotFoundError):
        for path in layout.pids.glob("*.json"):
            raw = read_json(path)
            if isinstance(raw, dict) and "pid" in raw:
                found.append(ProcessId(int(raw["pid"]), int(raw["start"])))
    return found


def _whole(layout: Layout, base: list[str]) -> bool:
    marks = read_json(layout.network)
    return isinstance(marks, dict) and all(marks.get(name) is not None and netns.inode(name) == marks[name] for name in base)


def _build(layout: Layout, spec: PlaygroundSpec) -> None:
    network.make_wire(layout)
    network.make_control(layout)
    for number, node in enumerate(spec.nodes, 1):
        network.make_node(layout, node, number, len(spec.nodes))


def _remove_all(layout: Layout) -> None:
    """Every namespace of this playground with everyone inside; records of pods stay, to be made anew."""
    names = netns.with_prefix(layout.prefix)
    inodes = {inode for inode in map(netns.inode, names) if inode is not None}
    # Also those whose namespace has lost its name: they are known by their pid files only.
    end_all({*known_processes(layout), *settled_in_namespaces(inodes)}, 2.0)
    for name in names:
        netns.delete(name)


def _remove(name: str) -> None:
    inode = netns.inode(name)
    if inode is not None:
        end_all(settled_in_namespaces({inode}), 1.0)
    netns.delete(name)


def _strays(layout: Layout) -> list[ProcessId]:
    """Programs that we started and died before writing down: leaders of their own session in one of our namespaces, in no pid file.

    What `culvert exec` runs is in its caller's session and is left alone.
    """
    inodes = {inode for inode in map(netns.inode, netns.with_prefix(layout.prefix)) if inode is not None}
    strays = []
    for process in settled_in_namespaces(inodes, known_processes(layout)):
        with suppress(OSError):
            if os.getsid(process.pid) == process.pid:
                strays.append(process)
    return strays
