"""`culvert down` and `culvert uninstall`."""

from __future__ import annotations

import os

from culvert.cli.output import FailedError, UsageError, count, note
from culvert.cli.target import must_be_here, name_option
from culvert.playground import netns
from culvert.playground.control import elsewhere, exclusive
from culvert.playground.kernelobjects import installed_instances, uninstall_instance
from culvert.playground.layout import STATE_ROOT, Layout
from culvert.playground.teardown import take_down


def run_down(layout: Layout) -> None:
    if os.geteuid() != 0:
        raise UsageError("Taking a playground away needs root: try again with sudo.")
    must_be_here(layout)
    with exclusive(layout):
        removed = take_down(layout, uninstall_instance, note)
    if removed.left:
        raise FailedError("not everything could be removed: " + "; ".join(removed.left) + f"; try again: culvert down{name_option(layout)}")
    if removed.nothing:
        note(f"no playground {layout.name}: nothing to remove")
        return
    kernel = f", kernel programs of {count(len(removed.instances), 'node')}" if removed.instances else ""
    note(f"playground {layout.name} removed: {count(removed.processes, 'process')}, {count(removed.namespaces, 'namespace')}{kernel}")


def run_uninstall() -> None:
    """Every playground that has a state directory or a wire, then whatever kernel objects are still pinned."""
    if os.geteuid() != 0:
        raise UsageError("Removing Culvert needs root: try again with sudo.")
    names = {name.removesuffix("-wire") for name in netns.with_prefix("") if name.endswith("-wire")}
    if STATE_ROOT.is_dir():
        names |= {entry.name for entry in STATE_ROOT.iterdir() if entry.is_dir()}
    for name in sorted(names):
        here = Layout(name, STATE_ROOT / name)
        other = elsewhere(here)
        run_down(here if other is None else Layout(name, other))
    for instance in installed_instances():
        if uninstall_instance(instance):
            note(f"kernel programs of {instance} removed")
    note("Culvert is not installed on this machine any more")
