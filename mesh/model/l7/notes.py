"""What a translation has to say beside its result: for status conditions, `analyze` and the log. None of them is an exception: an object
that cannot be used at all never gets past the door, and what is left is done as far as it can be, on the closed side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from mesh.model.manifest.core import Key

T = TypeVar("T")


class Problem(Enum):
    """Stable words: they are reasons of conditions and codes of `analyze`."""

    UNKNOWN_DESTINATION = "UnknownDestination"
    UNKNOWN_PORT = "UnknownPort"
    MISSING_SUBSET = "MissingSubset"
    NOT_GRANTED = "NotGranted"
    UNSUPPORTED = "Unsupported"
    CONFLICT = "Conflict"
    UNREACHABLE = "Unreachable"
    IGNORED = "Ignored"
    NO_EFFECT = "NoEffect"
    DENIES_ALL = "DeniesAll"
    DENIES_MORE = "DeniesMore"
    ALLOWS_LESS = "AllowsLess"
    MISSING_DELEGATE = "MissingDelegate"
    BAD_DELEGATE = "BadDelegate"
    NO_KEYS = "NoKeys"


@dataclass(frozen=True, slots=True)
class Note:
    """`subject` is the object, `field` a path in it, `message` half a sentence for people."""

    problem: Problem
    subject: Key
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.subject} {self.field}: {self.message}"


@dataclass(frozen=True, slots=True)
class Translated(Generic[T]):
    value: T
    notes: tuple[Note, ...] = ()


class Notes:
    """Collects notes while a translation runs, each once."""

    def __init__(self) -> None:
        self._found: dict[Note, None] = {}

    def add(self, problem: Problem, subject: Key, field: str, message: str) -> None:
        self._found.setdefault(Note(problem, subject, field, message))

    def extend(self, notes: Iterable[Note]) -> None:
        for note in notes:
            self._found.setdefault(note)

    def done(self, value: T) -> Translated[T]:
        return Translated(value, tuple(self._found))
