"""What a code is, and the table of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

CODES: dict[str, Code] = {}


class Severity(IntEnum):
    """`ERROR`: something fails, or is denied, that was written to work. `WARNING`: something does not do what it says. `INFO`: it may
    well be meant.
    """

    INFO = 1
    WARNING = 2
    ERROR = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Code:
    """`title` says what is found, `help` what follows from it and what to do."""

    name: str
    severity: Severity
    title: str
    help: str

    def __post_init__(self) -> None:
        if self.name in CODES:
            raise ValueError(f"{self.name} is there already")
        CODES[self.name] = self


INFO, WARNING, ERROR = Severity
