"""Admission: the API server asks before it stores an object, and is answered by the same parser that reads it afterwards.

    POST /validate     an AdmissionReview (admission.k8s.io/v1) → the same with a response

What the parser refuses is refused here, in its words; what it takes but cannot honour is a warning. Kinds that are none of ours are let
through, since nobody here would read them. What cannot be read at all is refused: a policy must not get in because its review was odd.
Deletions are not asked about. A status alone (the subresource) is let through: it is written by programs, and never read as an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.io.http import JSON, HttpLimits, Request, Response, Routes, text
from mesh.io.log import Log
from mesh.model.errors import Refusal
from mesh.model.manifest import Parsed, parse_object, unsupported
from mesh.model.manifest.kinds import served

API_VERSION = "admission.k8s.io/v1"
LIMITS = HttpLimits(body_bytes=8 << 20, read_timeout=10.0, connections=128)
LONGEST_WARNING = 256  # characters; the API server cuts longer ones, and drops all where they are 4096 together
MOST_WARNINGS = 12
INVALID = 422

log = Log("admission")


class Counts(Protocol):
    def validated(self, kind: str, passed: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether an object may be stored. `message`: why not. `warnings`: what of it will have no effect."""

    allowed: bool
    message: str = ""
    warnings: tuple[str, ...] = ()


ALLOWED = Answer(True)


def judge(request: Mapping[str, Any]) -> Answer:
    """Decide on the `request` of an AdmissionReview."""
    if request.get("operation") not in ("CREATE", "UPDATE") or request.get("subResource"):
        return ALLOWED
    kind = request.get("kind") or {}
    group, name, version = (str(kind.get(part) or "") for part in ("group", "kind", "version"))
    if not served(group, name):
        return ALLOWED
    entry = request.get("object")
    if not isinstance(entry, dict):
        return Answer(False, f"the review holds no {name}")
    parsed: Parsed = parse_object(entry, f"{version} {name}" if not group else f"{group}/{version} {name}")
    if parsed.refused:
        return Answer(False, "; ".join(_words(refusal) for one in parsed.refused for refusal in one.refusals))
    found = [f"{path} has no effect: {why}" for made in parsed.objects for path, why in unsupported(made)]
    return Answer(True, warnings=tuple(_short(sentence) for sentence in found[:MOST_WARNINGS]))


def _words(refusal: Refusal) -> str:
    """As the parser says it, without where: whoever gets this has just written it."""
    place = f"{refusal.field}: " if refusal.field else ""
    return f"{place}{refusal.value} is not accepted; accepted: {refusal.accepted}"


def _short(sentence: str) -> str:
    return sentence if len(sentence) <= LONGEST_WARNING else f"{sentence[: LONGEST_WARNING - 1]}…"


def routes(counts: Counts) -> Routes:
    def validate(request: Request) -> Response:
        try:
            review = json.loads(request.body)
            asked = review["request"]
            uid = asked["uid"]
            if review.get("apiVersion") != API_VERSION or not isinstance(uid, str):
                raise ValueError(review.get("apiVersion"))
        except (ValueError, KeyError, TypeError, RecursionError):
            counts.validated("unreadable", False)
            return text(f"expected an AdmissionReview of {API_VERSION} in JSON\n", 400)
        answer = judge(asked)
        kind = str((asked.get("kind") or {}).get("kind") or "")
        counts.validated(kind, answer.allowed)
        if not answer.allowed:
            where = f"{asked.get('namespace') or ''}/{asked.get('name') or ''}".strip("/")
            log.warning("refused at admission", kind=kind, object=where, error=answer.message[:1000])
        return Response(200, json.dumps(_review(uid, answer)).encode(), JSON)

    return {("POST", "/validate"): validate, ("GET", "/ready"): lambda _: text("ready\n")}


def _review(uid: str, answer: Answer) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": uid, "allowed": answer.allowed}
    if not answer.allowed:
        response["status"] = {"code": INVALID, "reason": "Invalid", "message": answer.message}
    if answer.warnings:
        response["warnings"] = list(answer.warnings)
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
