"""Admission: the API server asks before it stores an object, and is answered by the same parser that reads it afterwards.

    POST /validate     an AdmissionReview (admission.k8s.io/v1) → the same with a response

What the parser refuses is refused here, in its words; what it takes but cannot honour is a warning. Kinds that are none of ours are let
through, since nobody here would read them. What cannot be read at all is refused: a policy must not get in because its review was odd.
Deletions are not asked about. A status alone (the subresource) is let through: it is written by programs, and never read as an object.

Whoever can connect may ask. So what is large is judged on a thread, one at a time: the largest that is read costs seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
LARGE = 16 << 10
"""Bytes from which on a review is judged on a thread."""
OTHER = "other"
"""Stands in metrics for kinds that are none of ours: anybody may make up any number of them."""

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
    thread = ThreadPoolExecutor(1, "admission")

    def validate(request: Request) -> Response | Awaitable[Response]:
        if len(request.body) < LARGE:
            return answered(*_judged(request.body))
        return judged_beside(request.body)

    async def judged_beside(body: bytes) -> Response:
        return answered(*await asyncio.get_running_loop().run_in_executor(thread, _judged, body))

    def answered(asked: Mapping[str, Any] | None, answer: Answer) -> Response:
        if asked is None:
            counts.validated("unreadable", False)
            return text(f"expected an AdmissionReview of {API_VERSION} in JSON\n", 400)
        kind = asked.get("kind") or {}
        name = str(kind.get("kind") or "")
        counts.validated(name if served(str(kind.get("group") or ""), name) else OTHER, answer.allowed)
        if not answer.allowed:
            where = f"{asked.get('namespace') or ''}/{asked.get('name') or ''}".strip("/")
            log.warning("refused at admission", kind=name[:100], object=where[:1000], error=answer.message[:1000])
        return Response(200, json.dumps(_review(asked["uid"], answer)).encode(), JSON)

    return {("POST", "/validate"): validate, ("GET", "/ready"): lambda _: text("ready\n")}


def _judged(body: bytes) -> tuple[Mapping[str, Any] | None, Answer]:
    """What a review asks, None where it is no review, and the answer."""
    try:
        review = json.loads(body)
        asked = review["request"]
        if review.get("apiVersion") != API_VERSION or not isinstance(asked["uid"], str) or not isinstance(asked.get("kind") or {}, dict):
            return None, Answer(False)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, Answer(False)
    return asked, judge(asked)


def _review(uid: str, answer: Answer) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": uid, "allowed": answer.allowed}
    if not answer.allowed:
        response["status"] = {"code": INVALID, "reason": "Invalid", "message": answer.message}
    if answer.warnings:
        response["warnings"] = list(answer.warnings)
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
