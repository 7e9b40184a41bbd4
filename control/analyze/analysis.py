"""Everything that is found in what was given. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from control.analyze import (
    attached,
    authorization,
    destinationrules,
    entries,
    gateways,
    namespaces,
    peers,
    reading,
    routes,
    services,
    through,
    virtualservices,
    waypoints,
)
from control.analyze.destinations import Subsets
from control.analyze.findings import Finding, Findings
from control.analyze.given import Given
from control.analyze.unread import UNREAD
from control.analyze.world import World
from control.resolve import MeshSettings

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """`namespace`: only what is found in objects of it. `ignored`: codes that nobody wants to hear of."""

    settings: MeshSettings = field(default_factory=MeshSettings)
    namespace: str = ""
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Analysis:
    """`findings` in the order of files and lines. `suppressed`: how many there were beside them. `unread`: kinds that the mesh has nothing
    to do with, and how many objects of each there are. `unchecked`: (what, namespace) that the input says nothing of, though something in
    it refers to that.
    """

    findings: tuple[Finding, ...]
    objects: int
    suppressed: int = 0
    unread: tuple[tuple[str, int], ...] = ()
    unchecked: tuple[tuple[str, str], ...] = ()
    mended: tuple[Finding, ...] = ()
    """Found in the cluster as it is, and no more when the files are applied."""


def analyze(given: Given, options: Options, tell: Tell = lambda _: None) -> Analysis:
    """`tell` hears what is being done."""
    tell("resolving")
    world = World(given, options.settings)
    found = Findings()
    tell("looking at what was refused")
    reading.check(world, found)
    tell("looking at pods and services")
    namespaces.check(world, found)
    waypoints.check(world, found)
    entries.check(world, found)
    tell("looking at routes")
    subsets = Subsets(world)
    virtualservices.check(world, subsets, found)
    routes.check(world, subsets, found)
    gateways.check(world, found)
    destinationrules.check(world, found)
    services.check(world, found, attached.check(world, found))
    tell("looking at policies")
    authorization.check(world, found)
    through.check(world, found)
    peers.check(world, found)
    wanted = [finding for finding in found.all() if options.namespace in ("", finding.namespace)]
    kept = [finding for finding in wanted if not _is_ignored(finding, given, options)]
    return Analysis(_sorted(kept), given.count, len(wanted) - len(kept), _unread(given), tuple(sorted(world.unchecked)))


def changed(files: Given, cluster: Given, options: Options, tell: Tell = lambda _: None) -> Analysis:
    """As if the files were applied to the cluster: what is found in their objects, and elsewhere what was not found before."""
    before = {finding.same: finding for finding in analyze(cluster, options, tell).findings}
    after = analyze(files.over(cluster), options, tell)
    written = {str(entry.key) for entry in files.objects} | {entry.subject.name for entry in files.refusals}
    findings = tuple(finding for finding in after.findings if finding.subject in written or finding.same not in before)
    still = {finding.same for finding in after.findings}
    mended = tuple(finding for finding in before.values() if finding.same not in still)
    return Analysis(findings, files.count, after.suppressed, _unread(files), after.unchecked, mended)


def _unread(given: Given) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(entry.kind for entry in given.foreign if (entry.group, entry.kind) not in UNREAD).items()))


def _is_ignored(finding: Finding, given: Given, options: Options) -> bool:
    return finding.code.name in options.ignored or finding.code.name in given.ignored.get(finding.subject, ())


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: (*_place(finding.at or finding.where), finding.code.name, finding.field)))


def _place(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (where, 0)
