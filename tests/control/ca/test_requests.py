"""When a request for a certificate is read, and how much of whom: nothing of somebody unknown, one message of everybody else, in a bounded
time.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from control.auth import Caller, Metadata
from control.ca.service import MAX_READING
from mesh.pb import ca_pb2
from tests.control.ca import test_service as desks
from tests.control.ca.support import request
from tests.control.ca.test_service import CART, Desk, names, run, until

LARGE = 3 << 20  # bytes: beyond what HTTP/2 lets anybody send unasked, and within what gRPC takes


class Hesitant(desks.Known):
    """Says who it is when it is told to."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def authenticate(self, metadata: Metadata) -> Caller | None:
        self.asked.set()
        await self.go_on.wait()
        return await super().authenticate(metadata)


@pytest.fixture
def hesitant(monkeypatch: pytest.MonkeyPatch) -> Hesitant:
    """Who every caller is known by."""
    made = Hesitant()
    monkeypatch.setattr(desks, "Known", lambda: made)
    return made


def stream(at: Desk, token: str) -> Any:
    """The call of a client that writes messages one by one."""
    call = at.channel.stream_unary(
        "/istio.v1.auth.IstioCertificateService/CreateCertificate",
        request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
        response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
    )
    return call(metadata=[("authorization", f"Bearer {token}")] if token else [])


def message(csr: str = "") -> ca_pb2.IstioCertificateRequest:
    made = ca_pb2.IstioCertificateRequest(csr=csr or request())
    made.metadata["ImpersonatedIdentity"] = str(CART)
    return made


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


@pytest.mark.parametrize(("token", "code"), [("", grpc.StatusCode.UNAUTHENTICATED), ("node-1", grpc.StatusCode.INVALID_ARGUMENT)])
def test_a_large_request_is_not_read_before_its_caller_is_known(
    tmp_path: Path, hesitant: Hesitant, token: str, code: grpc.StatusCode
) -> None:
    async def check(at: Desk) -> None:
        call = stream(at, token)
        writing = asyncio.ensure_future(call.write(message("x" * LARGE)))
        await hesitant.asked.wait()
        await asyncio.wait({writing}, timeout=0.2)
        assert not writing.done(), "it is held back by the client's own side"
        hesitant.go_on.set()
        assert (await refused(call))[0] is code
        await asyncio.gather(writing, return_exceptions=True)
        assert at.count("citadel_server_csr_parsing_err_count") == (1 if token else 0)

    run(tmp_path, check)


def test_of_several_messages_the_first_counts(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        call = stream(at, "node-1")
        await call.write(message())
        await asyncio.gather(*(call.write(message("nonsense")) for _ in range(3)), return_exceptions=True)
        assert names(list((await call).cert_chain)) == [str(CART)]
        assert (at.count("citadel_server_csr_count"), at.count("citadel_server_success_cert_issuance_count")) == (1, 1)

    run(tmp_path, check)


def test_who_sends_nothing_is_told_so(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        call = stream(at, "node-1")
        await call.done_writing()
        assert await refused(call) == (grpc.StatusCode.INVALID_ARGUMENT, "no request")

    run(tmp_path, check)


def test_who_sends_slowly_is_cut_off_and_keeps_nobody_else_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.ca.service.READ", 0.3)

    async def check(at: Desk) -> None:
        slow = [stream(at, "node-1") for _ in range(MAX_READING)]
        ends = [asyncio.ensure_future(refused(call)) for call in slow]
        await until(lambda: at.count("citadel_server_csr_count") == MAX_READING)
        behind = asyncio.ensure_future(at.ask("node-1", CART))
        await at.ask("web")
        assert not any(end.done() for end in (*ends, behind))
        behind.cancel()
        for end in ends:
            assert await end == (grpc.StatusCode.DEADLINE_EXCEEDED, "no request")
        await at.ask("node-1", CART)

    run(tmp_path, check)


def test_who_goes_away_meanwhile_makes_room(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        for turn in range(3):
            slow = [stream(at, "node-1") for _ in range(MAX_READING)]
            await until(lambda turn=turn: at.count("citadel_server_csr_count") == turn * (MAX_READING + 1) + MAX_READING)
            behind = asyncio.ensure_future(at.ask("node-1", CART))
            for call in slow:
                call.cancel()
            await behind

    run(tmp_path, check)


def test_a_node_that_restarts_asks_for_all_its_pods_at_once(tmp_path: Path, hesitant: Hesitant) -> None:
    """And all of them are known at the same moment, as when one review answers for all."""

    async def check(at: Desk) -> None:
        asking = [asyncio.ensure_future(at.ask("node-1", CART)) for _ in range(200)]
        await until(lambda: at.count("citadel_server_csr_count") == 200)
        hesitant.go_on.set()
        assert {str(names(chain)) for chain, _ in await asyncio.gather(*asking)} == {str([str(CART)])}

    run(tmp_path, check)
