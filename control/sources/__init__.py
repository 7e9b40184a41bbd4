"""Where resources come from. Every source gives whole documents with the name of the place that they came from.

Files are here; Kubernetes and Consul will stand beside them behind the same protocol.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol


class Source(Protocol):
    """One place that resources come from."""

    def changes(self) -> AsyncIterator[Mapping[str, str]]:
        """All documents, place → YAML text, whenever something has changed and once at the start. Never ends by itself."""
        ...
