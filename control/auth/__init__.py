"""Who calls: what a credential proves, and who can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

TRUSTED = frozenset({"istio-system/ztunnel"})
"""Service accounts, as namespace/name, that speak for all pods of their node."""

Metadata = Sequence[tuple[str, str | bytes]] | None


@dataclass(frozen=True, slots=True)
class Caller:
    """What a credential proves; "" where it does not. `impersonates`: it may ask for identities of other pods on its node."""

    node: str = ""
    namespace: str = ""
    account: str = ""
    pod: str = ""
    pod_uid: str = ""
    impersonates: bool = False

    def __str__(self) -> str:
        if self.account:
            return f"{self.namespace}/{self.pod or self.account}"
        return f"node {self.node}" if self.node else "anonymous"


class TooManyAsk(Exception):  # noqa: N818 - a bound that was reached, not an accident
    """Who calls cannot be found out now, since so many others wait to be known. It is to come again."""


class Authenticator(Protocol):
    async def authenticate(self, metadata: Metadata) -> Caller | None:
        """Who makes a call with this metadata; None where nothing is proved. Raises TooManyAsk."""
