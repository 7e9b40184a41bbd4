"""What the source counts. The control plane's metrics implement it under Istio's names."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    def event(self, core: bool, kind: str, event: str) -> None:
        """An object was taken. `core`: pilot_k8s_reg_events{type,event}, else pilot_k8s_cfg_events{type,event}.
        `event`: add, update, updatesame (nothing that we read), delete.
        """

    def listed(self, kind: str, reason: str) -> None:
        """A kind was listed whole. `reason`: start, expired, gap, resync."""

    def failed(self, kind: str, reason: str) -> None:
        """A list or watch failed. `reason`: the error's class, in small letters."""

    def stale(self, kind: str) -> None:
        """An answer was older than what was known already, and was thrown away."""


class NoMeter:
    """Counts nothing."""

    def event(self, core: bool, kind: str, event: str) -> None: ...

    def listed(self, kind: str, reason: str) -> None: ...

    def failed(self, kind: str, reason: str) -> None: ...

    def stale(self, kind: str) -> None: ...
