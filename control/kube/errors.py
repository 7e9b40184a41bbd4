"""What an API server's answer means for who asked. The type says what helps: wait, ask again, read anew, or tell a person.

Every foreign exception of a request (httpx2's, lightkube's, TLS, time) becomes one of these at the client's door (`translated`).
"""

# ruff: noqa: N818 - each is one kind of answer, and is called what the answer says

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx2
import lightkube.core.exceptions as lightkube_errors
import msgspec

from mesh.model.errors import CulvertError

LONGEST_WAIT = 120.0
"""Seconds: what a Retry-After can ask for at most. A broken proxy must not silence us for a day."""
MAX_MESSAGE = 500


class KubeError(CulvertError):
    """A request did not do what was asked."""


class Unreachable(KubeError):
    """No answer: refused, reset, timed out, or no TLS. Ask again, later and later."""


class Busy(KubeError):
    """429, or 5xx with Retry-After: ask again after `after` seconds, not before."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


class ServerFailed(KubeError):
    """5xx: the server's own trouble. Ask again, later and later."""


class Garbled(KubeError):
    """An answer that no API server gives: half a line, no JSON, too long. Ask again, later and later."""


class TooLong(Garbled):
    """The answer is longer than the caller can take. A smaller page may help."""


class Unauthorized(KubeError):
    """401: the credential is not accepted (any more). It has been read anew; ask again."""


class Forbidden(KubeError):
    """403: the role lacks something. A person has to act; asking again finds out when."""


class Missing(KubeError):
    """404: no such object, or no such kind. `name`: of the object that the API server itself says is not there; "" where it names none, or
    where somebody else answers, such as a proxy.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Conflict(KubeError):
    """409: somebody else was faster (`exists`: has made it). Read anew, decide anew."""

    def __init__(self, message: str, exists: bool = False) -> None:
        super().__init__(message)
        self.exists = exists


class Expired(KubeError):
    """410: what was referred to is too old. List anew."""


class Behind(KubeError):
    """504 "Too large resource version": the server has not seen what we have. It lags, or its history was set back."""


class Invalid(KubeError):
    """Any other 4xx: the request itself is not acceptable. Asking again does not help."""


class Status(msgspec.Struct):
    """What the API server says of a failure (meta/v1 Status)."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None

    @property
    def too_large_version(self) -> bool:
        causes = self.details.causes if self.details is not None else ()
        return any(cause.reason == "ResourceVersionTooLarge" for cause in causes) or "Too large resource version" in self.message


class StatusCause(msgspec.Struct):
    reason: str = ""


class StatusDetails(msgspec.Struct):
    name: str = ""
    causes: tuple[StatusCause, ...] = ()
    retry_after: int = msgspec.field(name="retryAfterSeconds", default=0)


_status = msgspec.json.Decoder(Status)


def read_status(body: bytes, code: int) -> Status:
    """The Status object of a failure; of what is none (a proxy's page) its beginning."""
    try:
        status = _status.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Status(code, "", body[:MAX_MESSAGE].decode(errors="replace").strip())
    return status if status.code else Status(code, status.reason, status.message, status.details)


def failure(status: Status, headers: Mapping[str, str], verb: str, resource: str) -> KubeError:
    """What a failed answer means. `verb` and `resource` as RBAC names them."""
    code, said = status.code, (status.message or status.reason or "no reason given")[:MAX_MESSAGE]
    message = f"{verb} {resource}: {code} {said}"
    if code == 401:
        return Unauthorized(f"the API server does not accept our credential ({message})")
    if code == 403:
        return Forbidden(f"permission is missing: the role needs the verb {verb!r} on {resource!r} ({said})")
    if code == 404:
        return Missing(message, status.details.name if status.reason == "NotFound" and status.details is not None else "")
    if code == 409:
        return Conflict(message, status.reason == "AlreadyExists")
    if code == 410:
        return Expired(message)
    if status.too_large_version:
        return Behind(message)
    if code == 429 or code >= 500:
        after = _seconds(headers.get("retry-after", "")) or float(status.details.retry_after if status.details else 0)
        if code == 429 or after:
            return Busy(message, min(max(after, 0.0), LONGEST_WAIT))
        return ServerFailed(message)
    return Invalid(message)


@contextmanager
def translated(verb: str, resource: str) -> Iterator[None]:
    """Run a request; what it raises becomes a `KubeError`. A cancellation passes."""
    try:
        yield
    except httpx2.HTTPStatusError as error:
        raise _of_response(error, verb, resource) from error
    except TimeoutError as error:
        raise Unreachable(f"{verb} {resource}: no answer in time") from error
    except httpx2.HTTPError as error:
        raise Unreachable(f"{verb} {resource}: {_reason(error)}") from error
    except (OSError, httpx2.InvalidURL, httpx2.StreamClosed) as error:  # a token file that is gone, a client that was closed under a watch
        raise Unreachable(f"{verb} {resource}: {_reason(error)}") from error
    except lightkube_errors.ConfigError as error:
        raise Unauthorized(f"{verb} {resource}: {error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise Garbled(f"{verb} {resource}: the answer cannot be read: {_reason(error)}") from error


def _of_response(error: httpx2.HTTPStatusError, verb: str, resource: str) -> KubeError:
    response = error.response
    return failure(read_status(response.content, response.status_code), response.headers, verb, resource)


def is_certificate_failure(error: BaseException | None) -> bool:
    """Whether TLS failed because the server's certificate is not by the CA that we were given; that file may have changed since."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:MAX_MESSAGE]


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
