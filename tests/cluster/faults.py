"""What may go wrong between a client and the API server, and with which requests: the vocabulary of `faultproxy`. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11


@dataclass(frozen=True)
class Call:
    """One request. `verb`: GET, LIST (of a collection), WATCH, POST, PUT, PATCH, DELETE."""

    verb: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @classmethod
    def of(cls, request: h11.Request) -> Call:
        target = urlsplit(request.target.decode())
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        verb = request.method.decode()
        if verb == "GET" and query.get("watch") in ("1", "true"):
            verb = "WATCH"
        elif verb == "GET" and _is_collection(target.path):
            verb = "LIST"
        return cls(verb, target.path, query, {name.decode(): value.decode() for name, value in request.headers})


When = Callable[[Call], bool]


def _is_collection(path: str) -> bool:
    """/api/v1/pods, /apis/G/V/things, and the same below namespaces/NAME."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    return len(parts) == 1 or (len(parts) == 3 and parts[0] == "namespaces")


def call(verb: str = "", path: str = "") -> When:
    """Matches by verb and exact path; an empty one matches all."""
    return lambda seen: verb in ("", seen.verb) and path in ("", seen.path)


@dataclass(frozen=True)
class Answer:
    """This instead of the server's answer."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cut:
    """Pass on so many lines (events of a watch) or bytes, then reset the connection. `half_line`: and a piece of the next line."""

    events: int | None = None
    after_bytes: int | None = None
    half_line: bool = False

    def keep(self, seen_lines: int, seen_bytes: int, data: bytes) -> int | None:
        """How much of `data` still passes before the cut; None if all does and nothing is cut yet."""
        if self.after_bytes is not None:
            left = self.after_bytes - seen_bytes
            return left if len(data) >= left else None
        end = 0
        for _ in range((self.events or 0) - seen_lines):
            end = data.find(b"\n", end) + 1
            if not end:
                return None
        if not self.half_line:
            return end
        next_line = data[end:].partition(b"\n")[0]
        return end + max(1, len(next_line) // 2) if next_line else None


@dataclass(frozen=True)
class Delay:
    """So many seconds before the request goes on to the server."""

    seconds: float


@dataclass(frozen=True)
class Silence:
    """A watch that was accepted and then never says anything, nor ends."""


@dataclass(frozen=True)
class Stale:
    """The first answer to each target passes and is kept; every later one is that answer again."""


Fault = Answer | Cut | Delay | Silence | Stale


def status(code: int, reason: str, message: str = "injected", headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(code, json.dumps(_status(code, reason, message)).encode(), headers)


def too_many(retry_after: int = 1) -> Answer:
    return status(429, "TooManyRequests", headers=(("Retry-After", str(retry_after)),))


def error() -> Answer:
    return status(500, "InternalError")


def gone() -> Answer:
    """410 as an HTTP status: what a list with an expired `continue` token gets."""
    return status(410, "Expired", "too old resource version")


def gone_event() -> Answer:
    """410 as a watch gets it: 200, and an event that says so."""
    event = {"type": "ERROR", "object": _status(410, "Expired", "too old resource version: 1 (2)")}
    return Answer(200, json.dumps(event).encode() + b"\n")


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}


@dataclass(eq=False)
class Rule:
    """`hits` counts the requests that met it; with `times`, it ends after so many."""

    fault: Fault
    when: When
    times: int | None
    hits: int = 0
    kept: dict[bytes, tuple[h11.Response, bytes]] = field(default_factory=dict)

    def remove(self) -> None:
        self.times = 0

    def meets(self, seen: Call) -> bool:
        if (self.times is not None and self.hits >= self.times) or not self.when(seen):
            return False
        self.hits += 1
        return True
