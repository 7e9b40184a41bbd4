"""What the source counts. The control plane's metrics implement it."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    def answered(self, question: str) -> None:
        """A question was answered. `question`: services, checks, nodes, service, index."""

    def failed(self, question: str, reason: str) -> None:
        """It was not. `reason`: the error's class, in small letters."""

    def handed_over(self, refused: bool) -> None:
        """A service was handed over, with something refused or not."""

    def removed(self) -> None:
        """A service is gone."""

    def set_back(self) -> None:
        """Consul's history went backwards."""

    def services(self, known: int, hidden: int) -> None:
        """How many are known now, and of how many access rules hide the instances."""


class NoMeter:
    """Counts nothing."""

    def answered(self, question: str) -> None: ...

    def failed(self, question: str, reason: str) -> None: ...

    def handed_over(self, refused: bool) -> None: ...

    def removed(self) -> None: ...

    def set_back(self) -> None: ...

    def services(self, known: int, hidden: int) -> None: ...
