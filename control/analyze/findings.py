"""What is found, and how it is collected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from control.analyze.codes import Code
from control.analyze.given import Subject


@dataclass(frozen=True, slots=True)
class Finding:
    """`where` is where the object stands: `file:line`, or its origin in a cluster; `field` a path in it. `at` is `file:line` of the very
    place, "" where only the path is known. `message` is one sentence, `hint` says what to do next. `related`: others that have to do with
    it, and where they stand.
    """

    code: Code
    subject: str
    namespace: str
    where: str
    field: str
    message: str
    hint: str = ""
    at: str = ""
    related: tuple[tuple[str, str], ...] = ()

    @property
    def same(self) -> tuple[str, str, str, str]:
        """What makes it the same finding, wherever its object stands."""
        return (self.code.name, self.subject, self.field, self.message)


class Findings:
    """Each once; of one code only the first about one field."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str, str], Finding] = {}

    def add(
        self,
        code: Code,
        about: Subject,
        field: str,
        message: str,
        hint: str = "",
        *,
        at: str = "",
        related: Iterable[Subject] = (),
    ) -> None:
        others = tuple((other.name, other.where) for other in related)
        finding = Finding(code, about.name, about.namespace, about.where, field, message, hint, at, others)
        self._found.setdefault((code.name, about.name, about.where, f"{field} {at}"), finding)

    def all(self) -> list[Finding]:
        return list(self._found.values())
