"""What an origin lacks now, and may only lack because it is misspelt. Pure; the catalog keeps it in force.

A document whose kind or group is nobody's, whose name is none, or that is no YAML, is told to be no object. It may be a new version of one
that its origin held before and lacks since. It is held to be one of those that it could be by what can be read of it: of its name and
namespace, else of any. One that was there beside the object in these words is another; so a file from which an object is taken loses it,
also if it has always held somebody else's kinds. What cannot be known again (a text that is no YAML) may be anything at any time.

A refused document that is taken for a new version is *excused* by the last one, which stays in force: for itself it denies nothing. One
that denied before, since it was never accepted, is not excused later by others that go wrong beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.model.manifest import Guise, Key, Parsed, Refused, guises


class Claim(NamedTuple):
    """A document that may be a new version of what is gone: what it would be called if it were not misspelt, and what it may be."""

    key: Key | None
    guise: Guise


@dataclass(frozen=True, slots=True)
class Held:
    """Of one origin: what stays in force, and for which documents; and those of them that deny nothing for that."""

    keys: Mapping[Key, frozenset[Claim]] = field(default_factory=dict)
    excused: frozenset[Claim] = frozenset()

    def excuses(self, refused: Iterable[Refused]) -> bool:
        """Whether all that these documents could deny is made up for by what stays in force."""
        claims = [(_claim(entry), entry.policy) for entry in refused]
        excused = [claim in self.excused for claim, policy in claims if policy or claim in self.excused]
        return bool(excused) and all(excused)


def held(had: Held, before: Parsed, now: Parsed, counts: Callable[[Key], bool]) -> Held:
    """What an origin that held `before`, and of which `had` was held, makes stay in force with what it says now. `counts`: whether
    anything is in force under a name.
    """
    claims = Counter(claim for entry in now.refused if (claim := _claim(entry)) is not None)
    if not claims:
        return NOTHING
    has = keys_of(now)
    earlier = Counter(claim for entry in before.refused if (claim := _claim(entry)) is not None)
    new: dict[Guise, set[Claim]] = {}
    for claim, count in claims.items():
        if claim.key is None or count > earlier[claim]:
            new.setdefault(claim.guise, set()).add(claim)
    kept: dict[Key, frozenset[Claim]] = {}
    gone = {key for key in keys_of(before) if counts(key)}
    for key in (gone | had.keys.keys()) - has:
        by = {claim for guise in guises(key, new) for claim in new[guise]}
        by.update(claim for claim in had.keys.get(key, ()) if claim in claims)
        if by:
            kept[key] = frozenset(by)
    denied = {_claim(entry) for entry in before.refused if entry.policy} - had.excused
    return Held(kept, frozenset().union(*kept.values()) - denied)


NOTHING = Held()


def keys_of(parsed: Parsed) -> set[Key]:
    """The names that an origin says anything of."""
    return {entry.key for entry in parsed.objects} | {entry.key for entry in parsed.refused if entry.key is not None}


def _claim(entry: Refused) -> Claim | None:
    """None of what is told to be the object of its key."""
    guise = entry.guise
    return Claim(entry.key, guise) if guise is not None else None
