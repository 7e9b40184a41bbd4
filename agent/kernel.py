"""What the agent asks of the BPF programs, as a narrow interface: `agent.bpf` is the real one, the tests have one in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from mesh.io.netns import Namespace
from mesh.model.workload import IPAddress


class Programs(Protocol):
    """The programs and maps of one node, pinned: they go on working when this process ends."""

    @property
    def mark(self) -> int:
        """The socket mark of this node's tunnel: 20 secret bits over 0x539. Kept across restarts."""

    def prepare(self, cookie: int, addresses: Iterable[IPAddress]) -> None:
        """Register the namespace's addresses (the first of each family is the one shown to apps); capture stays as it is. Idempotent.

        CulvertError where an address is another namespace's that was not released."""

    def enrol(self, cookie: int, netns_fd: int, addresses: Iterable[IPAddress]) -> None:
        """Steer inbound and capture outbound. Idempotent; also brings the addresses up to date."""

    def release(self, cookie: int) -> None:
        """Stop steering and capturing; the tunnel may still deliver. Idempotent; the namespace may be gone."""

    def unenrol(self, cookie: int) -> None:
        """The exact inverse of prepare and enrol. Idempotent; the namespace may be gone."""

    def enrolled(self) -> Mapping[int, Collection[IPAddress]]:
        """The namespaces captured now, by cookie."""

    def adopt_listeners(self, netns: Namespace) -> bool:
        """Register the tunnel's 15006 listener of the namespace, where it is not; False where there is none."""

    def has_listener(self, cookie: int) -> bool:
        """Whether inbound plaintext has a listener to go to."""

    def counters(self) -> Mapping[str, int]:
        """The kernel's counters by reason, since the programs were first loaded."""

    def close(self) -> None:
        """Let go of the descriptors. Pins stay."""
