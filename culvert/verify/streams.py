"""TCP segments to ordered byte streams, as a bystander sees them. Pure.

A capture may begin in the middle of a connection, see segments twice or out of order, and lose some. Order and repetition are mended;
a hole is never papered over: it is counted in `missing`, and whoever wants proof must take that as a failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.model.workload import SocketAddress

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
WRAP = 1 << 32


class Segment(NamedTuple):
    """One captured TCP segment. `acknowledged` is None where the ACK flag is not set."""

    source: SocketAddress
    destination: SocketAddress
    sequence: int
    flags: int
    payload: bytes
    acknowledged: int | None = None


@dataclass(slots=True)
class Direction:
    """One way of a flow. `data` is in order; `missing` counts bytes that were sent but never seen."""

    data: bytes = b""
    missing: int = 0
    from_start: bool = False
    _first: int | None = None
    _pieces: dict[int, bytes] = field(default_factory=dict)
    _received: int = 0  # how far the other end says it has got, a FIN counted
    _fin: bool = False

    def add(self, segment: Segment) -> None:
        self._fin |= bool(segment.flags & FIN)
        sequence = segment.sequence
        if segment.flags & SYN:
            self._first, self.from_start = (sequence + 1) % WRAP, True
            sequence += 1
        if not segment.payload:
            return
        if self._first is None:
            self._first = sequence
        offset = self._offset(sequence)
        if len(segment.payload) > len(self._pieces.get(offset, b"")):
            self._pieces[offset] = segment.payload

    def acknowledge(self, number: int) -> None:
        """The other end has everything before this sequence number: what we did not see of it is missing, also at the end."""
        if self._first is not None:
            self._received = max(self._received, self._offset(number))

    def _offset(self, sequence: int) -> int:
        """Signed distance from the first byte: a first piece that comes late lies before zero."""
        assert self._first is not None
        return (sequence - self._first + WRAP // 2) % WRAP - WRAP // 2

    def assemble(self) -> None:
        """Put the pieces in order into `data`. Call once, when all segments are in."""
        out = bytearray()
        position = 0 if self.from_start else min(self._pieces, default=0)
        for offset in sorted(self._pieces):
            piece = self._pieces[offset]
            if offset + len(piece) <= position:
                continue
            if offset > position:
                self.missing += offset - position
                position = offset
            out += piece[position - offset :]
            position = offset + len(piece)
        self.missing += max(0, self._received - self._fin - position)
        self.data = bytes(out)
        self._pieces.clear()


@dataclass(slots=True)
class Flow:
    """One TCP connection: `client` is who sent the SYN, or, where no SYN was seen, who talks to the lower port."""

    client: SocketAddress
    server: SocketAddress
    upstream: Direction = field(default_factory=Direction)
    downstream: Direction = field(default_factory=Direction)
    refused: bool = False  # the server's first answer was a reset

    @property
    def from_start(self) -> bool:
        return self.upstream.from_start

    @property
    def payload(self) -> int:
        """Bytes of payload seen, both ways."""
        return len(self.upstream.data) + len(self.downstream.data)

    @property
    def missing(self) -> int:
        return self.upstream.missing + self.downstream.missing


def flows(segments: Iterable[Segment]) -> list[Flow]:
    """The connections that these segments belong to, in order of appearance. A port pair that is used anew (a new SYN) is a new flow."""
    found: list[Flow] = []
    open_flows: dict[frozenset[SocketAddress], Flow] = {}
    for segment in segments:
        key = frozenset((segment.source, segment.destination))
        flow = open_flows.get(key)
        opening = segment.flags & (SYN | ACK) == SYN
        if flow is None or (opening and _used_anew(flow, segment)):
            client_first = opening or (segment.flags & SYN == 0 and segment.source.port >= segment.destination.port)
            ends = (segment.source, segment.destination) if client_first else (segment.destination, segment.source)
            flow = open_flows[key] = Flow(*ends)
            found.append(flow)
        outward = segment.source == flow.client
        if segment.flags & RST and not outward and flow.downstream._first is None:
            flow.refused = True
        forth, back = (flow.upstream, flow.downstream) if outward else (flow.downstream, flow.upstream)
        forth.add(segment)
        if segment.acknowledged is not None:
            back.acknowledge(segment.acknowledged)
    for flow in found:
        flow.upstream.assemble()
        flow.downstream.assemble()
    return found


def _used_anew(flow: Flow, segment: Segment) -> bool:
    """Whether a SYN opens another connection on the same ports, rather than being sent again."""
    return segment.source != flow.client or flow.upstream._first != (segment.sequence + 1) % WRAP
