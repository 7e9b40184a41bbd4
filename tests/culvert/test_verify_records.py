"""The record layer, judged on real handshakes between two in-memory ends, and on what must never pass for TLS 1.3."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from culvert.verify.records import AES_GCM, TLS12, TLS13, split_records, view
from tests.culvert.handshakes import APPLICATION, transcript, write_pem


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pem(tmp_path_factory.mktemp("tls") / "both.pem")


def test_tls13_is_proved_and_hides_the_payload(pem: Path) -> None:
    client, server = transcript(pem, ssl.TLSVersion.TLSv1_3)
    seen = view(client, server, from_start=True)
    assert (seen.violations, seen.version, seen.proved) == ([], TLS13, True)
    assert seen.cipher in AES_GCM
    assert min(seen.client_payload, seen.server_payload) > len(APPLICATION)
    assert APPLICATION[:20] not in client + server


def test_hello_retry_request_is_still_tls13(pem: Path) -> None:
    client, server = transcript(pem, ssl.TLSVersion.TLSv1_3, groups="secp384r1")
    assert view(client, server, from_start=True).proved


def test_tls12_is_named(pem: Path) -> None:
    seen = view(*transcript(pem, ssl.TLSVersion.TLSv1_2), from_start=True)
    assert seen.version == TLS12
    assert not seen.proved
    assert any("not TLS 1.3" in violation for violation in seen.violations)


def test_joined_in_the_middle_is_sound_but_not_proved(pem: Path) -> None:
    client, server = transcript(pem, ssl.TLSVersion.TLSv1_3)
    tails = [
        b"".join(
            bytes([r.kind]) + r.version.to_bytes(2, "big") + len(r.body).to_bytes(2, "big") + r.body for r in split_records(way)[0][-1:]
        )
        for way in (client, server)
    ]
    seen = view(*tails, from_start=False)
    assert seen.violations == []
    assert seen.version is None
    assert not seen.proved
    assert seen.client_payload > len(APPLICATION)


HELLO = bytes.fromhex("160301000402000000")


@pytest.mark.parametrize(
    ("client", "server", "word"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", b"", "no TLS record: type 71", id="plain HTTP"),
        pytest.param(b"\x17\x01\x03\x00\x01x", b"", "version 0x0103", id="a type byte by chance"),
        pytest.param(b"\x17\x03\x03\xff\xff", b"", "says 65535 bytes", id="a record that is too long"),
        pytest.param(b"\x17\x03\x03\x00\x00", b"", "says 0 bytes", id="an empty record"),
        pytest.param(b"\x17\x03\x01\x00\x01x", b"", "record version 0x0301", id="application data of an old version"),
        pytest.param(b"\x17\x03\x03\x00\x01x", b"", "application data before its hello", id="data first"),
        pytest.param(b"\x16\x03\x01\x00\x04\x0b\x00\x00\x00", b"", "not its hello", id="a certificate in the clear"),
        pytest.param(b"\x16\x03\x01\x00\x05\x01\x00\x00\x00\x00", b"", "not its hello", id="something rides behind the hello"),
        pytest.param(b"", HELLO, "cannot be read", id="a ServerHello without its fields"),
        pytest.param(b"", b"\x17\x03\x03\x00\x01x", "no ServerHello", id="no ServerHello at all"),
        pytest.param(b"\x14\x03\x03\x00\x02xy", b"", "change_cipher_spec with 2 bytes", id="data in a change_cipher_spec"),
    ],
)
def test_what_is_no_tls13(client: bytes, server: bytes, word: str) -> None:
    assert word in "; ".join(view(client, server, from_start=True).violations)


def test_plaintext_after_a_real_handshake_is_found(pem: Path) -> None:
    client, server = transcript(pem, ssl.TLSVersion.TLSv1_3)
    seen = view(client + b"SELECT 1", server, from_start=True)
    assert not seen.proved
    assert "no TLS record" in seen.violations[0]


@pytest.mark.parametrize("cut", [1, 4, 6, 40])
def test_a_record_that_has_not_ended_is_no_violation(pem: Path, cut: int) -> None:
    client, server = transcript(pem, ssl.TLSVersion.TLSv1_3)
    assert view(client[:-cut], server, from_start=True).violations == []
