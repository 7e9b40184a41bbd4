"""The control plane's own certificate: renewed in time, and signed by what is in force; shown over real gRPC."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import grpc.aio
import pytest

from control.ca.authority import CannotSign
from control.ca.rotation import Gate, introduce, retire, switch
from control.ca.serving import Serving
from tests.control.ca.support import DAY, Clock, a_state, authority_of, verify

NAME = "istiod.istio-system.svc"


def parts(chain: bytes, bundle: str) -> tuple[str, ...]:
    end = "-----END CERTIFICATE-----\n"
    return (*(text + end for text in chain.decode().split(end)[:-1]), bundle)


def test_made_anew_at_half_of_its_life(tmp_path: Path) -> None:
    clock, authority = Clock(), authority_of(a_state())
    serving = Serving(lambda: authority, [NAME], clock=clock)
    first = serving.current()
    assert verify(tmp_path, parts(first.chain, authority.bundle), "sslserver") == ""
    clock.ahead = DAY / 2 - 300
    assert serving.current() is first
    clock.ahead = DAY / 2 + 1
    second = serving.current()
    assert second is not first
    assert second.key != first.key


def test_it_follows_what_signs_and_not_what_is_only_trusted() -> None:
    """A client that has not read the new roots yet must still know us: so the first step changes nothing here."""
    state = a_state()
    authority = authority_of(state)
    serving = Serving(lambda: authority, [NAME])
    first = serving.current()
    state = introduce(state, a_state().current, 0)
    authority = authority_of(state)
    assert serving.current() is first
    state = switch(state, Gate((), 0, 0), 0)
    authority = authority_of(state)
    second = serving.current()
    assert second is not first
    authority = authority_of(retire(state, Gate((), 0, 0), 0))
    assert serving.current() is second


def test_an_expired_ca_leaves_the_last_one() -> None:
    clock, authority = Clock(), authority_of(a_state())
    serving = Serving(lambda: authority, [NAME], clock=clock)
    first = serving.current()
    clock.ahead = 366 * DAY
    assert serving.current() is first
    with pytest.raises(CannotSign):
        Serving(lambda: authority, [NAME], clock=clock).current()


def test_a_port_shows_the_new_one_to_the_next_who_connects(tmp_path: Path) -> None:
    """With OpenSSL as the client: the whole chain comes, and it changes without a restart of the server."""

    async def main() -> None:
        authority = authority_of(a_state())
        serving = Serving(lambda: authority, [NAME], timedelta(hours=1))
        server = grpc.aio.server()
        port = server.add_secure_port("127.0.0.1:0", serving.credentials())
        await server.start()
        try:
            assert await shown(port, authority.bundle) == 2
            other = authority_of(a_state())
            with pytest.raises(ssl.SSLCertVerificationError):
                await shown(port, other.bundle)
            authority = other
            assert await shown(port, other.bundle) == 2
        finally:
            await server.stop(0)

    asyncio.run(main())


async def shown(port: int, roots: str) -> int:
    """How many certificates the server shows to a client that knows only these roots. Raises SSLError where it is not accepted."""
    context = ssl.create_default_context(cadata=roots)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
    try:
        return len(writer.get_extra_info("ssl_object")._sslobj.get_unverified_chain())
    finally:
        writer.close()
