"""Consul over https: whose certificate is taken, what we show, and files that change while we run."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.control.consul.fake import FakeConsul
from tests.control.consul.rig import run, running, state, synced
from tests.io.certs import Authority

NAME = "nobody.example"


class Files:
    """An authority's certificate, and a pair that it issued, on disk."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.certificate, self.key = directory / "ca.pem", directory / "cert.pem", directory / "key.pem"
        self.issue(Authority())

    def issue(self, authority: Authority) -> None:
        key, certificate = authority.issue()
        self.ca.write_text(authority.root_pem)
        self.certificate.write_text(certificate)
        self.key.write_bytes(key)

    def server(self) -> ssl.SSLContext:
        """A context that shows the pair, and asks the client for one of the same authority."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key)
        return context

    @property
    def settings(self) -> dict[str, Any]:
        return {"ca_file": self.ca, "certificate_file": self.certificate, "key_file": self.key, "server_name": NAME}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_both_sides_show_a_certificate(files: Files) -> None:
    async def main() -> None:
        async with FakeConsul(files.server()) as consul:
            consul.register("web", "10.0.0.1", 80)
            async with synced(consul, **files.settings) as sink:
                assert sink.names == {"web"}

    run(main())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"server_name": "other.example"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"ca_file": None}, "CERTIFICATE_VERIFY_FAILED"),
        ({"certificate_file": None, "key_file": None}, "Consul https://"),
    ],
)
def test_who_is_not_trusted_gets_no_question(files: Files, change: dict[str, Any], words: str) -> None:
    async def main() -> None:
        async with FakeConsul(files.server()) as consul, running(consul, **{**files.settings, **change}) as sink:
            await sink.until(lambda: state(sink).error)
            assert words in state(sink).error
            assert sum(consul.asked.values()) == 0

    run(main())


def test_authorities_that_change_are_read_anew(files: Files) -> None:
    async def main() -> None:
        async with FakeConsul(files.server()) as consul:
            consul.register("web", "10.0.0.1", 80)
            async with synced(consul, **files.settings) as sink:
                old = files.ca.read_text()
                files.issue(Authority())
                new = files.ca.read_text()
                consul.context = files.server()
                files.ca.write_text(old)
                await consul.restart()
                await sink.until(lambda: "CERTIFICATE_VERIFY_FAILED" in state(sink).error)
                files.ca.write_text(new)
                await sink.until(lambda: not state(sink).error)
                assert sink.names == {"web"}

    run(main())


def test_a_key_with_a_password_is_an_error_and_asks_nobody(files: Files) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )

    async def main() -> None:
        async with FakeConsul(files.server()) as consul:
            files.key.write_bytes(locked)
            async with running(consul, **files.settings) as sink:
                await sink.until(lambda: "a file for Consul cannot be used" in state(sink).error)

    run(main())
