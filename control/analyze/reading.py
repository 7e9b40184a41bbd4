"""What the parser refused, two objects of one name, and fields that are known but do nothing."""

from __future__ import annotations

import re

from control.analyze.codes import Code
from control.analyze.codes import reading as codes
from control.analyze.findings import Findings
from control.analyze.given import Refusals, Subject, about
from control.analyze.near import near
from control.analyze.unread import UNREAD
from control.analyze.world import World
from mesh.model.errors import Flaw, Refusal
from mesh.model.manifest import Key, unsupported
from mesh.model.manifest.kinds import SERVED

CODE_OF: dict[Flaw, Code] = {
    Flaw.UNREADABLE: codes.UNREADABLE,
    Flaw.UNKNOWN_KIND: codes.UNKNOWN_KIND,
    Flaw.UNSERVED_VERSION: codes.UNSERVED_VERSION,
    Flaw.VALUE: codes.BAD_VALUE,
    Flaw.UNKNOWN_FIELD: codes.UNKNOWN_FIELD,
    Flaw.MISSING_FIELD: codes.MISSING_FIELD,
    Flaw.RULE: codes.BROKEN_RULE,
    Flaw.SAME_NAME: codes.SAME_NAME,
}
_PLACE = re.compile(r"(?:.* \()?(.+:\d+)\)?")


def check(world: World, found: Findings) -> None:
    consequences = {id(refused): text for refused, text in world.mesh.refused()}
    for refusals in world.given.refusals:
        _refused(refusals, consequences.get(id(refusals.refused), ""), found)
    _same_names(world, found)
    for foreign in world.given.foreign:
        if why := UNREAD.get((foreign.group, foreign.kind)):
            message = f"{foreign.kind} is not read here: {why}"
            found.add(codes.UNREAD_KIND, foreign.subject, "kind", message, "remove it, or leave it to a mesh that reads it")
    for entry in world.objects.values():
        for field, why in unsupported(entry):
            found.add(codes.NOT_HONOURED, about(entry), field, f"this has no effect: {why}", "remove it")


def _refused(refusals: Refusals, consequence: str, found: Findings) -> None:
    for index, refusal in enumerate(refusals.refused.refusals):
        message, hint = _words(refusal)
        if consequence and not index:
            message += f"; until the object is accepted, {consequence}"
        place = _PLACE.fullmatch(refusal.where)
        at = place.group(1) if place is not None else ""
        found.add(CODE_OF[refusal.flaw], refusals.subject, refusal.field, message, hint, at=at)


def _words(refusal: Refusal) -> tuple[str, str]:
    """Message and hint."""
    value, accepted = refusal.value, refusal.accepted
    name = refusal.field.rpartition(".")[2]
    match refusal.flaw:
        case Flaw.UNREADABLE:
            return f"this cannot be read: {value}", f"write {accepted}"
        case Flaw.UNKNOWN_KIND:
            kinds = list(dict.fromkeys(kind for _, kind in SERVED))
            meant = near(value, kinds)
            return f"{value} is no kind that the mesh knows", f"did you mean {meant}?" if meant else f"known: {', '.join(kinds)}"
        case Flaw.UNSERVED_VERSION:
            return f"{value} does not serve this kind", f"write apiVersion: {accepted}"
        case Flaw.UNKNOWN_FIELD:
            known = accepted.removeprefix("one of the fields ").split(", ")
            meant = near(name, known)
            return f"there is no field {name} here", f"did you mean {meant}?" if meant else f"fields here: {', '.join(known)}"
        case Flaw.MISSING_FIELD:
            return f"{name} is missing", f"add {name}: {accepted}"
        case Flaw.RULE:
            return f"{value} is not accepted beside the other fields", f"accepted: {accepted}"
        case _:
            return f"{value} is not accepted", f"accepted: {accepted}"


def _same_names(world: World, found: Findings) -> None:
    """One that was refused for itself counts as well."""
    copies: dict[Key, list[Subject]] = {}
    for entry in world.given.objects:
        copies.setdefault(entry.key, []).append(about(entry))
    for refusals in world.given.refusals:
        if refusals.refused.key is not None:
            copies.setdefault(refusals.refused.key, []).append(refusals.subject)
    for key, (first, *others) in copies.items():
        for other in others:
            message = f"{key} is written at {first.where} as well, and neither counts"
            found.add(codes.SAME_NAME, other, "metadata.name", message, "rename or remove one of them", related=[first])
