"""A minimal HTTP/2 (RFC 9113) for CONNECT streams, as a machine without I/O: bytes in, events and bytes out, time as an argument.

`H2Connection` is all there is to call; `LocalSettings` and `Limits` say what it allows. Reading order: `frames`, `streams`,
`reading` (the loop), `control` and `blocks` (the peer's frames), `sending` (our side), `limits` (floods), `headers` (HPACK and
what a block may hold).

Not here on purpose: push, priorities, trailers as data (they end a stream), extended CONNECT, h2c upgrade, and the comparison of
`content-length` with what came: a CONNECT has no content. There is no user of them. All else that the conformance tester h2spec
looks at passes.
"""

from __future__ import annotations

from mesh.wire.h2.connection import H2Connection
from mesh.wire.h2.events import (
    DataReceived,
    Event,
    GoAway,
    Headers,
    PingAcked,
    RequestReceived,
    ResponseReceived,
    SettingsChanged,
    StreamReset,
    WindowOpened,
)
from mesh.wire.h2.frames import HEADER_SIZE, Code
from mesh.wire.h2.limits import Limits, Rate
from mesh.wire.h2.settings import CLIENT_SETTINGS, SERVER_SETTINGS, LocalSettings

__all__ = [
    "CLIENT_SETTINGS",
    "HEADER_SIZE",
    "SERVER_SETTINGS",
    "Code",
    "DataReceived",
    "Event",
    "GoAway",
    "H2Connection",
    "Headers",
    "Limits",
    "LocalSettings",
    "PingAcked",
    "Rate",
    "RequestReceived",
    "ResponseReceived",
    "SettingsChanged",
    "StreamReset",
    "WindowOpened",
]
