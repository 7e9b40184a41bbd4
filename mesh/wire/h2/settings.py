"""SETTINGS (RFC 9113 §6.5): what we announce, and what the peer announced, checked value by value."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.model.errors import BugError
from mesh.wire.h2.frames import DEFAULT_MAX_FRAME, DEFAULT_WINDOW, LARGEST_MAX_FRAME, MAX_WINDOW, SETTING, Code

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6
ENABLE_CONNECT_PROTOCOL = 0x8

ASSUMED_MAX_STREAMS = 100
"""How many streams we open before the peer has said how many it takes (RFC 9113 §6.5.2 recommends no peer to allow fewer)."""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """What we announce. Sizes in bytes.

    `stream_window` bounds what one stream may have in our memory; `connection_window` is announced by WINDOW_UPDATE and
    credited at once, so it bounds only what is on its way. `max_header_list` bounds a header block both compressed and
    decoded (with HPACK's 32 bytes for each field). No window is below the protocol's default of 65,535: then a peer that
    has not seen our SETTINGS yet cannot exceed a window of ours.
    """

    stream_window: int = 1 << 20
    connection_window: int = 16 << 20
    max_frame: int = 1 << 20
    max_header_list: int = 16 << 10
    max_streams: int = 200
    header_table: int = 4096

    def __post_init__(self) -> None:
        windows = DEFAULT_WINDOW <= self.stream_window <= MAX_WINDOW and DEFAULT_WINDOW <= self.connection_window <= MAX_WINDOW
        frames = DEFAULT_MAX_FRAME <= self.max_frame <= LARGEST_MAX_FRAME
        headers = 0 < self.max_header_list <= LARGEST_MAX_FRAME and 0 <= self.header_table <= 4096
        if not (windows and frames and headers and self.max_streams > 0):
            raise BugError(f"{self} is outside what HTTP/2 or this machine allows")

    def announced(self, client: bool) -> list[tuple[int, int]]:
        """The (number, value) pairs of our SETTINGS frame."""
        role = (ENABLE_PUSH, 0) if client else (MAX_CONCURRENT_STREAMS, self.max_streams)
        return [
            (HEADER_TABLE_SIZE, self.header_table),
            role,
            (INITIAL_WINDOW_SIZE, self.stream_window),
            (MAX_FRAME_SIZE, self.max_frame),
            (MAX_HEADER_LIST_SIZE, self.max_header_list),
        ]


CLIENT_SETTINGS = LocalSettings()
SERVER_SETTINGS = LocalSettings(max_header_list=64 << 10)


class PeerSettings:
    """The peer's values in force. Until its first SETTINGS they are the protocol's defaults."""

    __slots__ = ("initial_window", "max_frame", "max_streams")

    def __init__(self) -> None:
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_MAX_FRAME
        self.max_streams = ASSUMED_MAX_STREAMS

    def apply(self, payload: bytes, from_server: bool) -> tuple[Code, str] | None:
        """Takes the values of one SETTINGS payload (a multiple of six bytes), in order. Returns the fault if one is not allowed.

        HEADER_TABLE_SIZE needs nothing: our encoder uses no table. MAX_HEADER_LIST_SIZE is advice, and ours are small.
        """
        for number, value in SETTING.iter_unpack(payload):
            if number == MAX_CONCURRENT_STREAMS:
                self.max_streams = value
            elif number == INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    return Code.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}"
                self.initial_window = value
            elif number == MAX_FRAME_SIZE:
                if not DEFAULT_MAX_FRAME <= value <= LARGEST_MAX_FRAME:
                    return Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}"
                self.max_frame = value
            elif number == ENABLE_PUSH:
                if value > 1 or (from_server and value):
                    return Code.PROTOCOL_ERROR, f"ENABLE_PUSH {value}"
            elif number == ENABLE_CONNECT_PROTOCOL and value > 1:
                return Code.PROTOCOL_ERROR, f"ENABLE_CONNECT_PROTOCOL {value}"
        return None
