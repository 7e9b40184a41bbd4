"""What was refused, with what could still be read of it.

A refused policy must be known to deny what it would have covered. Where even its namespace cannot be read, that is None, and stands for
all of the mesh.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import NamedTuple

from mesh.model.errors import Refusal
from mesh.model.manifest.core import Key, Object
from mesh.model.manifest.targets import TargetRef

DEFAULT_NAMESPACE = "default"


class Doubt(Flag):
    """What of a document's own words on which object it is cannot be right."""

    NONE = 0
    KIND = auto()
    NAMESPACE = auto()
    NAME = auto()


class Guise(NamedTuple):
    """The objects that a document may be a new version of, as it is misspelt. None: any."""

    kind: str | None
    namespace: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """What was refused, with what could still be read of it.

    `kind` is the object's type, as in its key. It and `name` are empty and `namespace` is None where they could not be read. `selector` is
    None where it could not; empty selects all. `policy`: it is one, or may be one. `dry_run`: whatever it says, it asks for no enforcement.
    `generation`: which version of an object of an API it was; 0 where that does not say. `words`: a digest of what it says, if it cannot be
    told to be one object (of this process; no text of it is kept); 0 where nothing of it could be read.
    """

    refusals: tuple[Refusal, ...]
    file: str
    kind: str = ""
    namespace: str | None = None
    name: str = ""
    policy: bool = False
    selector: Mapping[str, str] | None = None
    targets: tuple[TargetRef, ...] = ()
    dry_run: bool = False
    generation: int = 0
    doubt: Doubt = Doubt.NONE
    words: int = 0

    @property
    def key(self) -> Key | None:
        """None where the object cannot be told from others."""
        return Key(self.kind, self.namespace, self.name) if self.kind and self.name and self.namespace is not None else None

    @property
    def guise(self) -> Guise | None:
        """None where it is the object of its key and no other."""
        if self.key is not None and not self.doubt:
            return None
        kind = None if Doubt.KIND in self.doubt else self.kind or None
        # Of a kind that nobody knows, who knows whether it lives in a namespace.
        anywhere = Doubt.NAMESPACE in self.doubt or (kind is None and not self.namespace)
        return Guise(kind, None if anywhere else self.namespace, None if Doubt.NAME in self.doubt else self.name or None)


@dataclass(frozen=True, slots=True)
class Parsed:
    """One file, or many: what was taken and what was not."""

    objects: tuple[Object, ...] = ()
    refused: tuple[Refused, ...] = ()


def guises(key: Key, among: Collection[Guise]) -> list[Guise]:
    """Those of them that an object of this key may go in. `among` is a set or a mapping: its size costs nothing."""
    namespaces = {key.namespace or DEFAULT_NAMESPACE, key.namespace, None}
    every = ((kind, namespace, name) for kind in (key.kind, None) for namespace in namespaces for name in (key.name, None))
    return [Guise(*guise) for guise in every if guise in among]
