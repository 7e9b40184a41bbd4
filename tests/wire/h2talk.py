"""A small language for HTTP/2 conversations, so that a test reads as a transcript. One line is one thing that happens:

    < DATA 1 "hello" END        the peer sends a frame            $ respond 1 200        our side calls the machine
    > RST 1 CANCEL              the machine sends a frame         @ 12.5                 the clock moves, on_timer is called
    ! Data 1 "hello" END        the machine reports an event      ! Error h2_flood ENHANCE_YOUR_CALM    … or raises

Stimuli (`<`, `$`, `@`) are played, and after each run of `<` lines, and each other stimulus, what the machine did must be
exactly the `!` and `>` lines that follow: events first, then frames. `---` divides two runs of `<` lines.

Frames: `DATA id "text" [END] [PAD=n]`, `HEADERS id name=value … [END] [MORE] [PAD=n] [PRIO]`, `CONT id name=value … [MORE]`, `RST id CODE`,
`SETTINGS [n=v …|ACK]`, `PING [ACK] "8 bytes"`, `GOAWAY id CODE`, `WINDOW id +n`, `PRIORITY id`, `PUSH id`, `RAW hex`, `PREFACE`,
`FRAME kind flags id hex`. `"x"*100` repeats.
"""

from __future__ import annotations

import shlex
from struct import unpack_from

from hpack import Decoder, Encoder

from mesh.model.errors import PeerError
from mesh.wire.h2 import (
    CLIENT_SETTINGS,
    SERVER_SETTINGS,
    Code,
    DataReceived,
    Event,
    GoAway,
    H2Connection,
    Limits,
    LocalSettings,
    PingAcked,
    RequestReceived,
    ResponseReceived,
    SettingsChanged,
    StreamReset,
    WindowOpened,
)
from mesh.wire.h2 import frames as f

CONNECT = ":method=CONNECT :authority=10.0.0.1:80"
FIRST_SERVER = "> SETTINGS 1=4096 3=200 4=1048576 5=1048576 6=65536\n> WINDOW 0 +16711681\n"
FIRST_CLIENT = "> PREFACE\n> SETTINGS 1=4096 2=0 4=1048576 5=1048576 6=16384\n> WINDOW 0 +16711681\n"


def _text(word: str) -> bytes:
    text, star, times = word.rpartition("*")
    return text.encode() * int(times) if star and times.isdigit() else word.encode()


class Talk:
    """One machine and its conversation partner's pen."""

    def __init__(self, client: bool = False, settings: LocalSettings | None = None, limits: Limits | None = None, chunk: int = 0) -> None:
        self.machine = H2Connection(client, settings or (CLIENT_SETTINGS if client else SERVER_SETTINGS), limits or Limits())
        self.now = 0.0
        self.chunk = chunk
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._written = b""

    @classmethod
    def begun(cls, client: bool = False, settings: LocalSettings | None = None, limits: Limits | None = None, chunk: int = 0) -> Talk:
        """Prefaces and SETTINGS are behind us."""
        talk = cls(client, settings, limits, chunk)
        talk.machine.start(0.0)
        talk.feed(("" if client else "< PREFACE\n") + "< SETTINGS\n< SETTINGS ACK")
        talk.machine.take_output()
        return talk

    # The peer's pen.

    def frame(self, line: str) -> bytes:
        """The bytes of one frame line."""
        words = shlex.split(line)
        kind, words = words[0], words[1:]
        end = f.END_STREAM if "END" in words else 0
        pad = next((int(word[4:]) for word in words if word.startswith("PAD=")), None)
        prio = "PRIO" in words
        more = "MORE" in words
        rest = [word for word in words if word not in ("END", "PRIO", "MORE") and not word.startswith("PAD=")]
        if kind == "PREFACE":
            return f.PREFACE
        if kind == "RAW":
            return bytes.fromhex("".join(rest))
        if kind == "FRAME":
            return f.frame(int(rest[0], 0), int(rest[1], 0), int(rest[2]), bytes.fromhex("".join(rest[3:])))
        if kind == "SETTINGS":
            if rest == ["ACK"]:
                return f.SETTINGS_ACK
            return f.settings([(int(number), int(value)) for number, value in (word.split("=") for word in rest)])
        if kind == "PING":
            return f.frame(f.PING, f.ACK if rest[0] == "ACK" else 0, 0, rest[-1].encode())
        stream, rest = int(rest[0]), rest[1:]
        if kind == "RST":
            return f.rst_stream(stream, Code[rest[0]])
        if kind == "GOAWAY":
            return f.goaway(stream, Code[rest[0]])
        if kind == "WINDOW":
            return f.window_update(stream, int(rest[0]))
        if kind == "PRIORITY":
            return f.frame(f.PRIORITY, 0, stream, bytes(5))
        if kind == "PUSH":
            return f.frame(f.PUSH_PROMISE, f.END_HEADERS, stream, bytes(4))
        if kind == "DATA":
            payload, flags, number = b"".join(map(_text, rest)), end, f.DATA
        else:
            assert kind in ("HEADERS", "CONT"), line
            payload = self._encoder.encode([(bytes(n), v) for n, v in map(_field, rest)])
            flags, number = (0 if more else f.END_HEADERS), f.CONTINUATION
            if kind == "HEADERS":
                flags, number = flags | end | (f.HAS_PRIORITY if prio else 0), f.HEADERS
        if prio:
            payload = bytes(5) + payload
        if pad is not None:
            payload, flags = bytes([pad]) + payload + bytes(pad), flags | f.PADDED
        return f.frame(number, flags, stream, payload)

    # Playing.

    def feed(self, lines: str) -> list[str]:
        """Sends `<` lines to the machine, `chunk` bytes at a time, and returns what it did."""
        data = b"".join(self.frame(line[2:]) for line in lines.splitlines() if line)
        events: list[str] = []
        step = self.chunk or len(data) or 1
        try:
            for at in range(0, len(data), step):
                events += [shown(event) for event in self.machine.receive(memoryview(data[at : at + step]), self.now)]
        except PeerError as error:
            events.append(f"! Error {error.reason.word} {error.detail.partition(':')[0]}")
        return merged(events)

    def play(self, transcript: str) -> None:
        """Plays the transcript and asserts that it is what happens."""
        lines = [line.strip() for line in transcript.strip().splitlines() if line.strip()]
        at = 0
        while at < len(lines):
            first = lines[at]
            stop = at + 1
            if first[0] == "<":
                while stop < len(lines) and lines[stop][0] == "<":
                    stop += 1
                did = self.feed("\n".join(lines[at:stop]))
            elif first[0] == "$":
                did = self._call(first[2:])
            elif first[0] == "@":
                did = self._clock(float(first[2:]))
            else:
                assert first == "---", first
                did = []
            at = stop
            while stop < len(lines) and lines[stop][0] in "!>":
                stop += 1
            expected = lines[at:stop]
            assert did + self.sent() == expected, f"after {first}"
            at = stop

    def _clock(self, now: float) -> list[str]:
        self.now = now
        try:
            self.machine.on_timer(now)
        except PeerError as error:
            return [f"! Error {error.reason.word} {error.detail.partition(':')[0]}"]
        return []

    def _call(self, line: str) -> list[str]:
        words = shlex.split(line)
        name, words = words[0], words[1:]
        end = "END" in words
        words = [word for word in words if word != "END"]
        machine = self.machine
        if name == "start":
            machine.start(self.now)
        elif name == "open":
            machine.open_stream([_field(word) for word in words])
        elif name == "respond":
            machine.respond(int(words[0]), [(b":status", words[1].encode()), *map(_field, words[2:])], end)
        elif name == "send":
            data = b"".join(map(_text, words[1:]))
            out = bytearray(machine.take_output())
            header = bytearray(9)
            machine.write_data_header(header, 0, int(words[0]), len(data), end)
            self._written += out + header + data
        elif name == "end":
            machine.end_stream(int(words[0]))
        elif name == "reset":
            machine.reset(int(words[0]), Code[words[1]])
        elif name == "consumed":
            machine.consumed(int(words[0]), int(words[1]))
        elif name == "sendable":
            assert machine.sendable(int(words[0])) == int(words[1])
        elif name == "drain":
            machine.drain()
        elif name == "goaway":
            machine.goaway()
        else:
            assert name == "ping", line
            machine.ping(self.now)
        return []

    def sent(self) -> list[str]:
        """The frames that the machine has sent since the last look."""
        data = self._written + self.machine.take_output()
        self._written = b""
        lines = []
        if data.startswith(f.PREFACE):
            lines.append("> PREFACE")
            data = data[len(f.PREFACE) :]
        while data:
            length = int.from_bytes(data[:3], "big")
            kind, flags, stream = data[3], data[4], int.from_bytes(data[5:9], "big")
            assert len(data) >= 9 + length, "a whole number of frames"
            lines.append("> " + self._render(kind, flags, stream, data[9 : 9 + length]))
            data = data[9 + length :]
        return lines

    def _render(self, kind: int, flags: int, stream: int, payload: bytes) -> str:
        if kind == f.DATA:
            return f'DATA {stream} "{payload.decode()}"' + (" END" if flags & f.END_STREAM else "")
        if kind == f.HEADERS:
            fields = [f"{name.decode()}={value.decode()}" for name, value in self._decoder.decode(payload, raw=True)]
            return " ".join(["HEADERS", str(stream), *fields]) + (" END" if flags & f.END_STREAM else "")
        if kind == f.RST_STREAM:
            return f"RST {stream} {Code(*unpack_from('!I', payload)).name}"
        if kind == f.SETTINGS:
            pairs = [f"{number}={value}" for number, value in (unpack_from("!HI", payload, at) for at in range(0, len(payload), 6))]
            return " ".join(["SETTINGS", *pairs]) + (" ACK" if flags & f.ACK else "")
        if kind == f.PING:
            return "PING " + ("ACK " if flags & f.ACK else "") + f'"{payload.decode()}"'
        if kind == f.GOAWAY:
            last, code = unpack_from("!II", payload)
            return f"GOAWAY {last} {Code(code).name}"
        assert kind == f.WINDOW_UPDATE, kind
        return f"WINDOW {stream} +{unpack_from('!I', payload)[0]}"


def _field(word: str) -> tuple[bytes, bytes]:
    name, value = word[1:].split("=", 1) if word[0] == ":" else word.split("=", 1)
    return (word[0] if word[0] == ":" else "").encode() + name.encode(), value.encode()


def _headers(headers: tuple[tuple[bytes, bytes], ...]) -> str:
    return "".join(f" {name.decode()}={value.decode()}" for name, value in headers)


def shown(event: Event) -> str:
    """An event as its line."""
    if isinstance(event, DataReceived):
        return f'! Data {event.stream_id} "{bytes(event.data).decode()}"' + (" END" if event.end_stream else "")
    if isinstance(event, RequestReceived):
        return f"! Request {event.stream_id}{_headers(event.headers)}" + (" END" if event.end_stream else "")
    if isinstance(event, ResponseReceived):
        return f"! Response {event.stream_id}{_headers(event.headers)}" + (" END" if event.end_stream else "")
    if isinstance(event, StreamReset):
        return f"! Reset {event.stream_id} {Code(event.code).name}" + (" local" if event.local else "")
    if isinstance(event, WindowOpened):
        return f"! Window {event.stream_id}"
    if isinstance(event, GoAway):
        return f"! GoAway {event.last_stream_id} {Code(event.code).name}"
    if isinstance(event, PingAcked):
        return f"! PingAcked {event.rtt:g}"
    assert isinstance(event, SettingsChanged)
    return "! Settings"


def merged(events: list[str]) -> list[str]:
    """Neighbouring pieces of one stream's DATA as one: how they are cut depends on how the bytes arrive."""
    out: list[str] = []
    for line in events:
        if line.startswith("! Data") and out and out[-1].startswith(line[: line.index('"') + 1]) and out[-1].endswith('"'):
            out[-1] = out[-1][:-1] + line[line.index('"') + 1 :]
        else:
            out.append(line)
    return out
