"""The kernel's refusals, one by one, out of the ring buffer `cvt_events`. The kernel bounds their rate; the counters are complete."""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass

from agent.bpf import abi
from agent.bpf.libbpf import RingSampleFn, check, check_pointer, library
from mesh.model.workload import SocketAddress

MAX_PENDING = 1024


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One refusal. `time` is CLOCK_MONOTONIC in seconds; `netns` the pod's namespace cookie, 0 when not known."""

    time: float
    reason: str
    netns: int
    source: SocketAddress | None
    destination: SocketAddress | None


class EventRing:
    """The ring's reader. Give `fd` to the event loop and call `drain` when it is readable."""

    def __init__(self, map_fd: int) -> None:
        """Raises BpfError."""
        # At most MAX_PENDING of one drain are kept, the newest.
        self._pending: deque[KernelEvent] = deque(maxlen=MAX_PENDING)
        self._callback = RingSampleFn(self._take)  # kept: libbpf holds only its address
        self._ring: int | None = check_pointer(library().ring_buffer__new(map_fd, self._callback, None, None), "open the event ring")
        self.fd: int = library().ring_buffer__epoll_fd(self._ring)

    def drain(self) -> list[KernelEvent]:
        """Every event that waits. Raises BpfError."""
        if self._ring is not None:
            check(library().ring_buffer__consume(self._ring), "read the event ring")
        events = list(self._pending)
        self._pending.clear()
        return events

    def _take(self, _context: int, data: int, size: int) -> int:
        if size >= ctypes.sizeof(abi.Event):
            self._pending.append(_event(abi.Event.from_buffer_copy(ctypes.string_at(data, ctypes.sizeof(abi.Event)))))
        return 0

    def close(self) -> None:
        ring, self._ring = self._ring, None
        if ring is not None:
            library().ring_buffer__free(ring)


def _event(raw: abi.Event) -> KernelEvent:
    return KernelEvent(raw.time / 1e9, abi.Counter(raw.counter).word, raw.netns, _known(raw.source), _known(raw.destination))


def _known(end: abi.Endpoint) -> SocketAddress | None:
    return end.address if any(bytes(end)) else None
