"""What is in force: the objects that were accepted, and for what was refused, which earlier version stays. Kept change by change.

Kubernetes refuses a bad update at the door and the object stays as it was; files have no door, so this keeps the last accepted
version of whatever an origin now says wrongly; also where that is so wrong that it cannot be told to be that object (`held`). Where
nothing was ever accepted, nothing is in force, and a refused policy denies what it would cover.

Objects of one name from several origins refuse each other, all of them, since none can be told to be the one that is meant; one that was
refused for itself counts as well, and so does one that is held.

`put` and `remove` take note of what a source says; `update` decides what that means. What is put between two updates counts as said at
once, so that of two copies that are read one after the other neither was in force before. But what was gone meanwhile has no past, as if
`update` had seen that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from control.held import NOTHING, Held, Said, held
from mesh.model.errors import Flaw, Refusal
from mesh.model.manifest import Key, Object, Parsed, Refused, refused_object

MANY = 8
"""Of an origin that holds more than so many objects, an index is made before they are decided on."""

KEPT = "the last accepted version stays in force"
KEPT_FILE = "what this file held before stays in force"


class Origin(NamedTuple):
    """One place of one source that is read as a whole."""

    source: str
    name: str


Subject = Key | Origin
"""What was refused: an object, or, where none can be told, the origin that it was in."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """What is refused now of one subject. `kept` says what stays in force instead, "" where nothing does."""

    refused: tuple[Refused, ...]
    kept: str = ""


class Catalog:
    """`objects` are in force and `rejections` are refused as of the last `update`."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.rejections: dict[Subject, Rejection] = {}
        self.rejected = 0
        """How often anything of `rejections` changed."""
        self._origins: dict[Origin, Parsed] = {}
        self._found: dict[Key, Origin | tuple[Origin, ...]] = {}  # where anything of a name is, accepted or refused; mostly one place
        self._held: dict[Origin, Held] = {}  # what an origin held before that cannot be read now
        self._holders: dict[Key, set[Origin]] = {}
        self._recalled: dict[Key, Object] = {}
        self._gone: set[Key] = set()  # nothing said anything of it for a moment since the last update
        self._touched: set[Subject] = set()
        self._indexes: dict[Origin, dict[Key, tuple[list[Object], list[Refused]]]] = {}

    def put(self, origin: Origin, parsed: Parsed) -> bool:
        """`origin` holds `parsed` now and nothing else. Whether that is anything new."""
        before = self._origins.get(origin, Parsed())
        if parsed == before and [entry.where for entry in parsed.objects] == [entry.where for entry in before.objects]:
            return False
        was, has = Said.of(before), Said.of(parsed)
        touched = was.keys | has.keys | self._hold(origin, was, has)
        self._locate(origin, was.keys, has.keys)
        if parsed.objects or parsed.refused:
            self._origins[origin] = parsed
        else:
            self._origins.pop(origin, None)
        self._touched |= touched
        self._touched.add(origin)
        return True

    def remove(self, origin: Origin) -> bool:
        return self.put(origin, Parsed())

    def recall(self, parsed: Parsed) -> None:
        """These objects were the last that an earlier life accepted of their names. To be said before what is put of them."""
        self._recalled.update((entry.key, entry) for entry in parsed.objects)
        self._gone.difference_update(entry.key for entry in parsed.objects)

    def update(self) -> set[Subject]:
        """Decide anew on everything that was touched. What is different now of `objects` and of `rejections`."""
        touched, self._touched = self._touched, set()
        changed = {subject for subject in touched if (self._decide(subject) if isinstance(subject, Key) else self._unread(subject))}
        self._indexes.clear()
        self._recalled.clear()
        self._gone.clear()
        return changed

    @property
    def holding(self) -> int:
        """How many names stay in force only because a misspelt or unreadable document may be what they are now."""
        return len(self._holders)

    def origins(self, source: str) -> Iterable[str]:
        """The origins of one source that hold anything."""
        return [origin.name for origin in self._origins if origin.source == source]

    def _hold(self, origin: Origin, before: Said, said: Said) -> set[Key]:
        """Note what of an origin stays in force as long as it cannot be read. The keys that are concerned."""
        had = self._held.get(origin, NOTHING)
        now = held(had, before, said, lambda key: key in self.objects and key not in self._gone)
        for key in had.keys.keys() - now.keys.keys():
            self._holders[key].discard(origin)
            if not self._holders[key]:
                del self._holders[key]
                if key not in self._found and key not in said.keys:
                    self._gone.add(key)
        for key in now.keys.keys() - had.keys.keys():
            self._holders.setdefault(key, set()).add(origin)
        if now.keys:
            self._held[origin] = now
        else:
            self._held.pop(origin, None)
        return set(had.keys) ^ set(now.keys)

    def _decide(self, key: Key) -> bool:
        """Bring one key up to date; whether anything of it changed."""
        copies, broken = self._said_of(key)
        holders = self._holders.get(key, ())
        before = self.objects.get(key)
        if len(copies) == 1 and not broken and not holders:
            now: Object | None = copies[0]
            refused: list[Refused] = []
        else:
            last = None if key in self._gone else before or self._recalled.get(key)
            now = last if copies or broken or holders else None
            misspelt = sorted(f"{self._origins[place].refused[0].file}, where it is misspelt" for place in holders)
            refused = [*broken, *_rivals(key, copies, broken, misspelt)]
        if now is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = now
        changed = now != before or (now is not None and before is not None and now.where != before.where)
        kept = KEPT if now is not None else KEPT_FILE if broken and not copies and self._excused(key) else ""
        return self._reject(key, tuple(refused), kept) or changed

    def _excused(self, key: Key) -> bool:
        """Whether what is refused under a name is taken for new versions of objects that stay in force."""
        return all(place in self._held and self._held[place].excuses(self._said_in(place, key)[1]) for place in self._places(key))

    def _locate(self, origin: Origin, had: set[Key], has: set[Key]) -> None:
        """Note where names are."""
        for key in had - has:
            left = tuple(place for place in self._places(key) if place != origin)
            if not left:
                del self._found[key]
                if key not in self._holders:
                    self._gone.add(key)
            else:
                self._found[key] = left if len(left) > 1 else left[0]
        for key in has - had:
            places = self._places(key)
            self._found[key] = (*places, origin) if places else origin

    def _places(self, key: Key) -> tuple[Origin, ...]:
        found = self._found.get(key)
        return () if found is None else (found,) if isinstance(found, Origin) else found

    def _said_of(self, key: Key) -> tuple[list[Object], list[Refused]]:
        """Everything that any origin holds under a name."""
        copies: list[Object] = []
        broken: list[Refused] = []
        for place in self._places(key):
            found = self._said_in(place, key)
            copies += found[0]
            broken += found[1]
        return copies, broken

    def _said_in(self, place: Origin, key: Key) -> tuple[Sequence[Object], Sequence[Refused]]:
        parsed = self._origins[place]
        if len(parsed.objects) + len(parsed.refused) > MANY:
            return self._index(place, parsed).get(key, ((), ()))
        return [entry for entry in parsed.objects if entry.key == key], [entry for entry in parsed.refused if entry.key == key]

    def _index(self, place: Origin, parsed: Parsed) -> dict[Key, tuple[list[Object], list[Refused]]]:
        """What an origin of many objects holds, by name. Made for one `update`."""
        index = self._indexes.get(place)
        if index is None:
            index = self._indexes[place] = {}
            for entry in parsed.objects:
                index.setdefault(entry.key, ([], []))[0].append(entry)
            for refused in parsed.refused:
                if refused.key is not None:
                    index.setdefault(refused.key, ([], []))[1].append(refused)
        return index

    def _unread(self, origin: Origin) -> bool:
        """As `_decide`, of what an origin holds that cannot be told to be any object."""
        unreadable = tuple(entry for entry in self._origins.get(origin, Parsed()).refused if entry.key is None)
        now = self._held.get(origin, NOTHING)
        if now.excuses(unreadable):
            return self._reject(origin, unreadable, KEPT_FILE)
        return self._reject(origin, tuple(replace(entry, policy=False) if now.excuses((entry,)) else entry for entry in unreadable), "")

    def _reject(self, subject: Subject, refused: tuple[Refused, ...], kept: str) -> bool:
        before = self.rejections.get(subject)
        now = Rejection(refused, kept) if refused else None
        if now is None:
            self.rejections.pop(subject, None)
        else:
            self.rejections[subject] = now
        self.rejected += now != before
        return now != before


def _rivals(key: Key, copies: list[Object], broken: list[Refused], misspelt: list[str]) -> list[Refused]:
    """The refusals of several objects of one name. `misspelt`: where else one may be that cannot be told to be it."""
    found = []
    bad = [*(entry.refusals[0].where for entry in broken[-1:]), *misspelt]
    for copy in copies:
        others = ", ".join([other.where for other in copies if other is not copy] + bad)
        refusal = Refusal(copy.where, str(key), "metadata.name", f"{key.name}, as in {others}", f"one object called {key}", Flaw.SAME_NAME)
        found.append(refused_object(copy, refusal))
    return found
