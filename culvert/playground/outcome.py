"""What follows from a refusal, and what mends it, in sentences. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from culvert.playground.documents import Document, dump
from mesh.model.errors import Refusal
from mesh.model.manifest import POLICY_KINDS, parse, unsupported
from mesh.model.manifest.authorization import compile_policy
from mesh.model.manifest.security import AuthorizationPolicy

ROOT_NAMESPACE = "istio-system"
STDIN = "stdin"  # what manifests from standard input are said to come from
KEPT = "the last accepted version stays in force"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one refused object. `subject` is what names it: `Kind namespace/name`, or the file where that could not be read."""

    subject: str
    consequence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.subject}, until it is accepted: {self.consequence}\n  {self.fix}"


def is_policy(subject: str) -> bool:
    return subject.partition(" ")[0] in POLICY_KINDS


def notes_of(document: Document) -> list[tuple[str, str]]:
    """Where an accepted object says what has no effect, or does not do all that it says: which object, and what of it."""
    found = parse(dump(document.body), document.where)
    ignored = [(str(item.key), f"{path} has no effect: {why}") for item in found for path, why in unsupported(item)]
    return ignored + policy_notes(document)


def policy_notes(document: Document) -> list[tuple[str, str]]:
    """Where an accepted policy does not do all that it says: which, and what it does instead."""
    if document.key.kind != AuthorizationPolicy.KIND:
        return []
    found = parse(dump(document.body), document.where)
    notes = [note for item in found if isinstance(item, AuthorizationPolicy) for note in compile_policy(item, ROOT_NAMESPACE).notes]
    return [(str(document.key), note) for note in notes]


def outcomes(
    refusals: Iterable[Refusal], in_force: Collection[str], said: Mapping[str, str], option: str = "", *, mesh: bool = True
) -> list[Outcome]:
    """One per refused object. `in_force` are subjects of which there is an accepted version; `said` is what the control plane says of
    subjects; `option` names the playground in commands."""
    found: dict[tuple[str, str], Outcome] = {}
    for refusal in refusals:
        file = refusal.where.rpartition(":")[0] if refusal.where.rpartition(":")[2].isdigit() else refusal.where
        known = bool(refusal.subject.partition(" ")[2])
        key = (refusal.subject, "" if known else file)
        if key in found:
            continue
        again = f"mend it and: culvert apply{option} -f {'-' if file == STDIN else shlex.quote(file)}"
        if refusal.subject in in_force:
            found[key] = Outcome(refusal.subject, KEPT, again)
            continue
        consequence = said.get(refusal.subject, "")
        if not consequence and is_policy(refusal.subject):
            consequence = "all traffic that it covers is denied" if mesh else "nothing: there is no mesh to enforce it"
        subject = refusal.subject if known else f"{refusal.subject or 'what could not be read'} in {file}"
        drop = f"culvert delete{option} {_drop(refusal.subject, file)}"
        found[key] = Outcome(
            subject, consequence or ("it does not exist" if known else "nothing of it is applied"), f"{again}, or drop it: {drop}"
        )
    return list(found.values())


def _drop(subject: str, file: str) -> str:
    """What `culvert delete` takes to let go of one refusal and of nothing else; where it has no name, of all of its file."""
    kind, _, name = subject.partition(" ")
    namespace, slash, bare = name.rpartition("/")
    if not bare or "/" in namespace:
        return f"refused {shlex.quote(file)}"
    return f"{kind.lower()} {shlex.quote(bare)}" + (f" -n {shlex.quote(namespace)}" if slash else "")
