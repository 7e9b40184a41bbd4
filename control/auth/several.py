"""Callers that can be proved in more than one way: whoever knows one first, says."""

from __future__ import annotations

from collections.abc import Sequence

from control.auth import Authenticator, Caller, Metadata


class Several:
    """An `Authenticator` of several, asked in their order; the cheap ones come first."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = authenticators

    async def authenticate(self, metadata: Metadata) -> Caller | None:
        for authenticator in self._authenticators:
            caller = await authenticator.authenticate(metadata)
            if caller is not None:
                return caller
        return None
