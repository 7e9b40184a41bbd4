"""What an origin lacks now, and may only lack because it is misspelt. Pure; the catalog keeps it in force.

A document whose kind or group is nobody's, whose name is none, or that is no YAML, is told to be no object. It may be a new version of one
that its origin held before and lacks since. It is held to be one of those that it could be by what can be read of it: of its name and
namespace, else of any. One that was there in the same words when the object went is another; so a file from which an object is taken loses
it, also if it has always held somebody else's kinds, or a text that is no YAML.

A refused document that is taken for a new version is *excused* by the last one, which stays in force: for itself it denies nothing. Each
object excuses one document, and only a policy one that may be a policy. Where there are more documents than objects that they could be, or
one goes that denied, none of them is excused, since one of them is new and nobody knows which. One that denies is never excused as long as
it stays as it is.

Of an origin of which nothing can be read (a disk's error, no UTF-8), all that it held stays, and excuses it: that something new is in it is
less likely than that a mesh should stand still for a file of Services. Not where something of it denied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.model.manifest import POLICY_KINDS, Guise, Key, Parsed, Refused, guises


class Claim(NamedTuple):
    """A document that may be a new version of what is gone: what it may be, whether a policy, and a digest of its words."""

    guise: Guise
    policy: bool
    words: int


@dataclass(frozen=True, slots=True)
class Held:
    """Of one origin: what stays in force, and since which of its edits (counted from 1) it is gone; since which edit documents are as they
    are that may be it; and which are excused, by what. Of a document that is there several times, that is for all of them.
    """

    edit: int = 0
    keys: Mapping[Key, int] = field(default_factory=dict)
    came: Mapping[Claim, int] = field(default_factory=dict)
    excused: Mapping[Claim, tuple[Key, ...]] = field(default_factory=dict)

    def excuses(self, refused: Iterable[Refused]) -> bool:
        """Whether all that these documents could deny is made up for by what stays in force."""
        claims = [(_claim(entry), entry.policy) for entry in refused]
        excused = [claim in self.excused for claim, policy in claims if policy or claim in self.excused]
        return bool(excused) and all(excused)


class Said(NamedTuple):
    """What an origin says, with the names that it says anything of."""

    parsed: Parsed
    keys: set[Key]

    @classmethod
    def of(cls, parsed: Parsed) -> Said:
        return cls(parsed, {entry.key for entry in parsed.objects} | {entry.key for entry in parsed.refused if entry.key is not None})


def held(had: Held, before: Said, now: Said, counts: Callable[[Key], bool]) -> Held:
    """What an origin that held `before`, and of which `had` was held, makes stay in force with what it says now. `counts`: whether
    anything is in force under a name.
    """
    claims = Counter(claim for entry in now.parsed.refused if (claim := _claim(entry)) is not None)
    if not claims:
        return NOTHING
    refused = [(entry, _claim(entry)) for entry in before.parsed.refused]
    earlier = Counter(claim for _, claim in refused)
    edit = had.edit + 1
    came = {claim: edit if count > earlier[claim] else had.came.get(claim, 0) for claim, count in claims.items()}
    latest: dict[Guise, int] = {}
    for claim, since in came.items():
        latest[claim.guise] = max(since, latest.get(claim.guise, 0))
    gone = {**had.keys, **{key: edit for key in before.keys if counts(key)}}
    keys = {key: since for key, since in gone.items() if key not in now.keys and _found(key, since, latest)}
    if not keys:
        return NOTHING
    # What is refused as one object denies nothing where a version of that is in force.
    denied = [
        (entry, claim)
        for entry, claim in refused
        if entry.policy and claim not in had.excused and (entry.key is None or not counts(entry.key))
    ]
    barred = {claim for _, claim in denied}
    # One of those is there no more as it was; that it was mended is only known where it had a name.
    lost = any(claims[claim] < earlier[claim] if claim is not None else entry.key not in now.keys for entry, claim in denied)
    excused: dict[Claim, tuple[Key, ...]] = {}
    asking: dict[Claim, int] = {}
    contested: dict[Guise, int] = {}
    for claim, count in claims.items():
        by = had.excused.get(claim)
        if not claim.words and claim not in barred and not lost:
            excused[claim] = ()
        elif by is not None and came[claim] < edit and all(key in keys for key in by):
            excused[claim] = by
        elif (by is not None or came[claim] == edit) and claim not in barred and not (lost and claim.policy):
            asking[claim] = count
        else:
            # It may be the one that is meant, and whoever comes later is not.
            contested[claim.guise] = max(came[claim], contested.get(claim.guise, 0))
    used = {key for by in excused.values() for key in by}
    free = {key: since for key, since in keys.items() if key not in used and not _found(key, since, contested)}
    return Held(edit, keys, came, {**excused, **_matched(asking, came, free)})


NOTHING = Held()


def _matched(asking: Mapping[Claim, int], came: Mapping[Claim, int], free: Mapping[Key, int]) -> dict[Claim, tuple[Key, ...]]:
    """To each of the documents that ask, as many objects as there are of it, none of them twice; in a group of documents and objects that
    hang together by what could be what, to all of them or to none. Those with the least choice come first. That may miss that all could
    have been served; then more is denied than must be.
    """
    groups = _Groups()
    choice: dict[Guise, list[Key]] = {claim.guise: [] for claim in asking}
    # Taken from the end: policies, those that went first before others.
    for key in sorted(free, key=lambda key: (key.kind in POLICY_KINDS, -free[key])):
        for guise in groups.join(guises(key, choice)):
            choice[guise].append(key)
    found: dict[Claim, tuple[Key, ...]] = {}
    unserved: set[Guise] = set()
    used: set[Key] = set()
    sizes = {guise: len(keys) for guise, keys in choice.items()}
    for claim in sorted(asking, key=lambda claim: (not claim.policy, sizes[claim.guise])):
        taken: list[Key] = []
        left = choice[claim.guise]
        while left and len(taken) < asking[claim]:
            if left[-1] in used:
                left.pop()
                continue
            if free[left[-1]] > came[claim] or (claim.policy and left[-1].kind not in POLICY_KINDS):
                break
            taken.append(left.pop())
            used.add(taken[-1])
        if len(taken) < asking[claim]:
            unserved.add(groups.of(claim.guise))
        found[claim] = tuple(taken)
    return {claim: keys for claim, keys in found.items() if groups.of(claim.guise) not in unserved}


class _Groups:
    """Guises that have an object in common, and those that have one in common with them."""

    def __init__(self) -> None:
        self._up: dict[Guise, Guise] = {}

    def of(self, guise: Guise) -> Guise:
        """The one that stands for its group."""
        while (up := self._up.get(guise, guise)) != guise:
            self._up[guise] = guise = self._up.get(up, up)
        return guise

    def join(self, several: Collection[Guise]) -> Collection[Guise]:
        first: Guise | None = None
        for guise in several:
            top = self.of(guise)
            if first is None:
                first = top
            elif top != first:
                self._up[top] = first
        return several


def _found(key: Key, since: int, latest: Mapping[Guise, int]) -> bool:
    """Whether there is a document that may be what is gone since then. `latest`: since when the youngest of each guise is as it is."""
    return any(latest[guise] >= since for guise in guises(key, latest))


def _claim(entry: Refused) -> Claim | None:
    """None of what is told to be the object of its key."""
    guise = entry.guise
    return Claim(guise, entry.policy, entry.words) if guise is not None else None
