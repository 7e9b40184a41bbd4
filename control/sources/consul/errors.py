"""What an answer of Consul means for who asked. The type says what helps: wait, ask again, or tell a person.

Every foreign exception of a request (h11's, TLS, time) becomes one of these at the client's door (`translated`).
"""

# ruff: noqa: N818 - each is one kind of answer, and is called what the answer says

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import h11
import msgspec

from control.sources.consul.http import TooLongError
from mesh.model.errors import CulvertError

LONGEST_WAIT = 120.0
"""Seconds: what a Retry-After can ask for at most. A broken proxy must not silence us for a day."""
MAX_MESSAGE = 300


class ConsulError(CulvertError):
    """A request did not do what was asked. `after`: seconds that the other side asked us to wait."""

    after = 0.0

    @property
    def word(self) -> str:
        """For metrics."""
        return type(self).__name__.lower()


class Unreachable(ConsulError):
    """No answer: refused, reset, timed out, or no TLS. Ask again, later and later."""


class Busy(ConsulError):
    """429, or 503 with Retry-After: ask again after `after` seconds, not before."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


class NoLeader(ConsulError):
    """The servers have no leader, or the agent no server: nobody can say how things are. It passes."""


class Failed(ConsulError):
    """Any other 5xx. Ask again, later and later."""


class Garbled(ConsulError):
    """An answer that no Consul gives: half of one, no JSON, no index, too long. Ask again, later and later."""


class Denied(ConsulError):
    """The token is not accepted, or may not read what is needed. A person has to act; asking again finds out when."""


class Rejected(ConsulError):
    """Any other 4xx: what was asked is not acceptable, such as a namespace of a Consul that has none. A person has to act."""


class Unusable(ConsulError):
    """A file of ours, token or certificate, cannot be read. A person has to act, or a mount to come."""


# What Consul says, in answers of status 500, where there is nobody who could answer: its own words (agent/structs/errors.go).
LEADERLESS = (
    "No cluster leader",
    "No known Consul servers",
    "Raft leader not found",
    "Not ready to serve consistent reads",
    "leadership lost",
)
NEEDED = "the token needs service:read and node:read for what it is to show"


def failure(status: int, headers: Mapping[str, str], body: bytes) -> ConsulError:
    """What an answer that is not 200 means."""
    said = " ".join(body[:MAX_MESSAGE].decode(errors="replace").split()) or "no reason given"
    message = f"{status} {said}"
    if status in (401, 403):
        return Denied(f"Consul denies it ({message}); {NEEDED}")
    after = min(_seconds(headers.get("retry-after", "")), LONGEST_WAIT)
    if status == 429 or (status == 503 and after):
        return Busy(f"Consul asks to wait ({message})", after)
    if status >= 500:
        if any(words in said for words in LEADERLESS):
            return NoLeader(f"Consul has no leader ({message})")
        return Failed(f"Consul failed ({message})")
    if status >= 400:
        return Rejected(f"Consul does not accept the question ({message})")
    return Garbled(f"an answer that Consul does not give ({message})")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Run a request; what it raises becomes a `ConsulError`. A cancellation passes."""
    try:
        yield
    except TimeoutError as error:
        raise Unreachable(f"{what}: no answer in time") from error
    except OSError as error:
        raise Unreachable(f"{what}: {_reason(error)}") from error
    except h11.RemoteProtocolError as error:
        raise Garbled(f"{what}: no HTTP: {_reason(error)}") from error
    except TooLongError as error:
        raise Garbled(f"{what}: {_reason(error)}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Garbled(f"{what}: the answer cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:MAX_MESSAGE]


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
