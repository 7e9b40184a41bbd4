"""What a bystander can tell of a TLS connection from its two byte streams. Pure: bytes in, facts and violations out.

The record layer (RFC 8446 section 5.1) is readable without any key. In TLS 1.3 the only handshake messages in the clear are the hellos;
everything after them travels as records of type application_data with version 0x0303, but for change_cipher_spec, which
middleboxes like to see, and alerts of a handshake that failed (section 5.2, appendix D.4). So a connection is proved to be TLS 1.3 when
its ServerHello selects version 0x0304 and no other kind of record is in either direction. One that was already open when we began
to look shows records but no hello: those are held to the same rules, and `version` stays None.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
CLIENT_HELLO, SERVER_HELLO = 1, 2
TLS12, TLS13 = 0x0303, 0x0304
HEADER = 5  # bytes: type, version, length
MAX_CIPHERTEXT = 16384 + 256  # RFC 8446 section 5.2
SUPPORTED_VERSIONS = 43
AES_GCM = {0x1301: "AES_128_GCM_SHA256", 0x1302: "AES_256_GCM_SHA384"}
# The random of a ServerHello that is a HelloRetryRequest: SHA-256 of that word (section 4.1.3).
RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `body` is what follows the five header bytes."""

    kind: int
    version: int
    body: bytes


@dataclass(slots=True)
class TlsView:
    """What two streams showed. `version` is what the ServerHello selected, None where none was seen.

    `client_payload` and `server_payload` count bytes inside application_data records, each way. `violations` is empty for a sound view.
    """

    version: int | None = None
    cipher: int | None = None
    from_start: bool = False
    client_payload: int = 0
    server_payload: int = 0
    alerts: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def proved(self) -> bool:
        """TLS 1.3 seen from its hellos on, and nothing else."""
        return self.version == TLS13 and not self.violations


def split_records(data: bytes) -> tuple[list[Record], bytes, str]:
    """Whole records, the unfinished tail, and why the bytes stop being TLS ("" if they never do)."""
    records: list[Record] = []
    at = 0
    while at < len(data):
        kind = data[at]
        if not CHANGE_CIPHER_SPEC <= kind <= APPLICATION_DATA:
            return records, b"", f"byte {at} is no TLS record: type {kind}"
        if at + HEADER > len(data):
            break
        version = int.from_bytes(data[at + 1 : at + 3], "big")
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if version >> 8 != 3:
            return records, b"", f"byte {at} is no TLS record: version 0x{version:04x}"
        if not 0 < length <= MAX_CIPHERTEXT:
            return records, b"", f"the record at byte {at} says {length} bytes"
        if at + HEADER + length > len(data):
            break
        records.append(Record(kind, version, data[at + HEADER : at + HEADER + length]))
        at += HEADER + length
    return records, data[at:], ""


def view(client: bytes, server: bytes, *, from_start: bool) -> TlsView:
    """Judge the two directions of one connection. `from_start`: they begin with the connection's first byte."""
    seen = TlsView(from_start=from_start)
    client_records, _, client_end = split_records(client)
    server_records, _, server_end = split_records(server)
    seen.violations += [f"client: {client_end}"] if client_end else []
    seen.violations += [f"server: {server_end}"] if server_end else []
    hellos = _server_hellos(server_records, seen) if from_start else 0
    retried = hellos == 2
    _walk("client", client_records, seen, hellos_allowed=(2 if retried else 1) if from_start else 0, hello=CLIENT_HELLO)
    _walk("server", server_records, seen, hellos_allowed=hellos, hello=SERVER_HELLO)
    if from_start and not hellos and server and not seen.alerts:
        seen.violations.append("server: no ServerHello")
    return seen


def _walk(side: str, records: list[Record], seen: TlsView, *, hellos_allowed: int, hello: int) -> None:
    """Count what is protected, name what is not."""
    hellos = payload = 0
    for record in records:
        if record.kind == HANDSHAKE:
            hellos += 1
            if hellos > hellos_allowed or record.body[0] != hello or not _one_message(record.body):
                seen.violations.append(f"{side}: a handshake message in the clear that is not its hello (type {record.body[0]})")
        elif record.version != TLS12:
            seen.violations.append(f"{side}: record version 0x{record.version:04x}")
        elif record.kind == APPLICATION_DATA:
            if hellos < min(hellos_allowed, 1):
                seen.violations.append(f"{side}: application data before its hello")
            payload += len(record.body)
        elif record.kind == CHANGE_CIPHER_SPEC:
            if record.body != b"\x01":
                seen.violations.append(f"{side}: change_cipher_spec with {len(record.body)} bytes")
        else:
            seen.alerts += 1
            if payload:
                seen.violations.append(f"{side}: an alert in the clear after application data")
    if side == "client":
        seen.client_payload = payload
    else:
        seen.server_payload = payload


def _one_message(body: bytes) -> bool:
    """Whether a handshake record holds exactly one whole message (nothing rides behind it)."""
    return len(body) >= 4 and len(body) == 4 + int.from_bytes(body[1:4], "big")


def _server_hellos(records: list[Record], seen: TlsView) -> int:
    """Read the ServerHello, and a HelloRetryRequest before it: how many there are. Fills `version` and `cipher`."""
    hellos = [record.body for record in records if record.kind == HANDSHAKE and record.body[0] == SERVER_HELLO]
    if not hellos:
        return 0
    try:
        retry = hellos[0][6:38] == RETRY_RANDOM
        chosen = hellos[1] if retry and len(hellos) > 1 else hellos[0]
        seen.cipher, seen.version = _selected(chosen)
    except (IndexError, ValueError):
        seen.violations.append("server: a ServerHello that cannot be read")
        return 1
    if seen.version != TLS13:
        seen.violations.append(f"server: chose version 0x{seen.version:04x}, not TLS 1.3")
    if seen.cipher not in AES_GCM:
        seen.violations.append(f"server: chose cipher suite 0x{seen.cipher:04x}, not AES-GCM of TLS 1.3")
    return 2 if retry and len(hellos) > 1 else 1


def _selected(body: bytes) -> tuple[int, int]:
    """Cipher suite and version that a ServerHello selects (section 4.1.3). Raises IndexError or ValueError if it is malformed."""
    at = 4 + 2 + 32  # message header, legacy version, random
    at += 1 + body[at]  # session id
    cipher = int.from_bytes(body[at : at + 2], "big")
    at += 3  # cipher suite, compression
    version = int.from_bytes(body[4:6], "big")
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    at += 2
    if end > len(body):
        raise ValueError("extensions run past the message")
    while at + 4 <= end:
        kind, length = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
        if kind == SUPPORTED_VERSIONS and length == 2:
            version = int.from_bytes(body[at + 4 : at + 6], "big")
        at += 4 + length
    return cipher, version
