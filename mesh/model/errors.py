"""Three families of failure that are never mixed: the user's mistake, the peer's fault, and our own bug."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as attribute
from enum import StrEnum

from mesh.model.reasons import Reason


class CulvertError(Exception):
    """Root of every exception that this project raises on purpose."""


class Flaw(StrEnum):
    """What is wrong with what was refused, for programs: the words are stable."""

    UNREADABLE = "unreadable"
    UNKNOWN_KIND = "unknown-kind"
    UNSERVED_VERSION = "unserved-version"
    VALUE = "value"
    UNKNOWN_FIELD = "unknown-field"
    MISSING_FIELD = "missing-field"
    RULE = "rule"
    """Each field is good by itself; together they are not."""
    SAME_NAME = "same-name"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an object was refused whole.

    `where` is a file (with `:line` where known) or a resource name; `subject` is `Kind namespace/name`; `field` is a path
    such as `spec.rules[0].to[0].operation.ports[1]`; `value` is what was found; `accepted` says what would be taken.
    `flaw` follows from these and is no part of equality.
    """

    where: str
    subject: str
    field: str
    value: str
    accepted: str
    flaw: Flaw = attribute(default=Flaw.VALUE, compare=False)

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.subject, self.field) if part)
        return f"{place}: {self.value} is not accepted; accepted: {self.accepted}"


class ConfigError(CulvertError):
    """The user's mistake: a manifest, a flag or an environment variable. Carries every refusal found in one object."""

    def __init__(self, *refusals: Refusal) -> None:
        super().__init__("\n".join(str(refusal) for refusal in refusals))
        self.refusals = refusals


class PeerError(CulvertError):
    """The other side of a wire broke its protocol or failed its checks. The connection ends with `reason`; we go on."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.word}: {detail}" if detail else reason.word)
        self.reason = reason
        self.detail = detail


class BugError(CulvertError):
    """Our own code is wrong: a caller broke a contract. Never caught to go on; the connection is closed and counted."""
