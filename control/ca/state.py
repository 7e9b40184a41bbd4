"""All that a CA must remember, as one value, and the files that it is kept in. Pure.

    phase        current   next      retiring   what peers trust      what signs
    steady       M         -         -          roots of M            M
    introduced   M         N         -          roots of M and N      M
    switched     N         -         root of M  roots of N and of M   N

`rotation` moves from one to the next. What is kept, whether in a directory or as the data of a Secret, is a set of named files:

    state.json          all that is no certificate and no key
    root.pem root.key   what is trusted, and the key that makes intermediates (may be taken away and put back)
    intermediate.pem intermediate.key
    next-*.pem next-*.key   the same of what is introduced
    retiring.pem        roots that sign nothing any more
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from control.ca.material import Material
from control.ca.pem import certificates
from mesh.model.errors import ConfigError, Refusal

FORMAT = 1
MAX_HOLDERS = 10_000
DOUBT = " (gone?)"
"""Follows a name in `held` of which a replica asks whether anybody knows it. For versions that do not know the question it is somebody who
never renews.
"""


class Phase(Enum):
    STEADY = "steady"
    INTRODUCED = "introduced"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True)
class State:
    """Times in Unix seconds.

    epoch: counts the demands to renew all leaves. since: when what peers must renew for last changed. held: callers that may hold leaves
    from before that, as replicas which know of them have said since; with DOUBT, who was among them, and is gone for one of them.
    confirmed: callers all of whose leaves are from after that.
    longest: the longest life of a leaf, in seconds, since `ceiling` was set; ceiling: until when leaves from before may live.
    """

    trust_domain: str
    current: Material
    next: Material | None = None
    retiring: tuple[str, ...] = ()
    epoch: int = 0
    since: float = 0.0
    held: frozenset[str] = frozenset()
    confirmed: frozenset[str] = frozenset()
    longest: int = 0
    ceiling: float = 0.0

    @property
    def phase(self) -> Phase:
        return Phase.INTRODUCED if self.next is not None else Phase.SWITCHED if self.retiring else Phase.STEADY

    @property
    def bundle(self) -> tuple[str, ...]:
        """Every root that peers are to trust, what signs first."""
        roots = (*self.current.roots, *(self.next.roots if self.next is not None else ()), *self.retiring)
        return tuple(dict.fromkeys(roots))

    @property
    def token(self) -> str:
        """Names what a leaf must be from: this epoch, this root, this bundle. A renewed intermediate is no reason to renew leaves."""
        text = "\n".join((str(self.epoch), self.current.roots[0], *sorted(self.bundle)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def outlived(self) -> float:
        """When the last leaf from before `since` has expired."""
        return max(self.ceiling, self.since + self.longest)


def to_files(state: State) -> dict[str, bytes]:
    """Names and contents. Those that end in `.key` are secret."""
    head = {
        "format": FORMAT,
        "trustDomain": state.trust_domain,
        "epoch": state.epoch,
        "since": state.since,
        "held": sorted(state.held),
        "confirmed": sorted(state.confirmed),
        "longest": state.longest,
        "ceiling": state.ceiling,
    }
    files = {"state.json": json.dumps(head, indent=1).encode() + b"\n"}
    files |= _material_to("", state.current)
    if state.next is not None:
        files |= _material_to("next-", state.next)
    if state.retiring:
        files["retiring.pem"] = "".join(state.retiring).encode()
    return files


def from_files(files: Mapping[str, bytes], where: str) -> State:
    """Raises ConfigError. Certificates are read but not checked: `material.check` does that, with the time of day."""
    try:
        head = json.loads(files["state.json"])
        if head["format"] != FORMAT:
            raise _refusal(where, "format", repr(head["format"]), f"{FORMAT}: this was written by another version")
        state = State(
            trust_domain=_typed(head["trustDomain"], str),
            current=_material_from("", files, where),
            next=_material_from("next-", files, where) if "next-root.pem" in files else None,
            retiring=certificates(_text(files, "retiring.pem"), where, "retiring.pem"),
            epoch=_typed(head["epoch"], int),
            since=float(head["since"]),
            held=frozenset(_typed(name, str) for name in head.get("held", ())),
            confirmed=frozenset(_typed(name, str) for name in head["confirmed"]),
            longest=_typed(head["longest"], int),
            ceiling=float(head["ceiling"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _refusal(where, "state.json", f"{type(error).__name__}: {error}", "what this program writes there") from error
    if state.next is not None and state.retiring:
        raise _refusal(where, "retiring.pem", "a root that retires beside one that is introduced", "one change of the root at a time")
    return state


def _material_to(prefix: str, material: Material) -> dict[str, bytes]:
    parts = {
        "root.pem": "".join(material.roots),
        "root.key": material.root_key,
        "intermediate.pem": "".join(material.chain),
        "intermediate.key": material.key,
    }
    return {prefix + name: text.encode() for name, text in parts.items() if text}


def _material_from(prefix: str, files: Mapping[str, bytes], where: str) -> Material:
    roots = certificates(_text(files, f"{prefix}root.pem"), where, f"{prefix}root.pem")
    if not roots:
        raise _refusal(where, f"{prefix}root.pem", "no certificate", "the root, PEM")
    chain = certificates(_text(files, f"{prefix}intermediate.pem"), where, f"{prefix}intermediate.pem")
    return Material(_text(files, f"{prefix}intermediate.key"), chain, roots, _text(files, f"{prefix}root.key"))


def _text(files: Mapping[str, bytes], name: str) -> str:
    return files.get(name, b"").decode("ascii")


def _typed(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _refusal(where: str, field: str, value: str, accepted: str) -> ConfigError:
    return ConfigError(Refusal(where, "", field, value, accepted))
