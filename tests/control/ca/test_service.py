"""Who gets which certificate, over real gRPC: a node's tunnel for the pods of its node, a workload for itself, nobody for anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from control.app import GRPC_OPTIONS
from control.auth import Caller, Metadata, TooManyAsk
from control.auth.tokens import bearer
from control.ca.follow import FollowService
from control.ca.holders import MAX_PROBLEM, Holders
from control.ca.keeper import Keeper
from control.ca.metrics import CaMetrics
from control.ca.rates import Rates
from control.ca.service import CertificateService
from mesh.model.identity import Identity
from mesh.pb import ca_pb2, trust_pb2
from tests.control.ca.support import DAY, Clock, a_keeper, request, verify

CART = Identity("cluster.local", "shop", "cart")
WEB = Identity("cluster.local", "web", "web")
CALLERS = {
    b"node-1": Caller(node="node-1", impersonates=True),
    b"node-2": Caller(node="node-2", impersonates=True),
    b"tunnel": Caller("node-1", "istio-system", "ztunnel", "ztunnel-1", "uid", impersonates=True),
    b"nowhere": Caller("", "istio-system", "ztunnel", "ztunnel-1", "uid", impersonates=True),
    b"web": Caller("node-1", "web", "web", "web-1", "uid"),
    b"half": Caller(namespace="web"),
}


class Known:
    """Everybody in a table, by token."""

    async def authenticate(self, metadata: Metadata) -> Caller | None:
        token = bearer(metadata) or b""
        if token == b"late":
            raise TooManyAsk("9 callers wait to be known already")
        return CALLERS.get(token)


def runs_on(node: str, identity: Identity) -> bool:
    return (node, identity.namespace, identity.service_account) == ("node-1", "shop", "cart")


@dataclass
class Desk:
    keeper: Keeper
    registry: CollectorRegistry
    channel: grpc.aio.Channel
    port: int

    async def ask(self, token: str, identity: object = "", csr: str = "", seconds: int = 0) -> tuple[list[str], str]:
        """The chain, and the token that it is from."""
        call = self.channel.unary_unary(
            "/istio.v1.auth.IstioCertificateService/CreateCertificate",
            request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
            response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
        )
        message = ca_pb2.IstioCertificateRequest(csr=csr or request(), validity_duration=seconds)
        if identity:
            message.metadata["ImpersonatedIdentity"] = str(identity)
        metadata = [("authorization", f"Bearer {token}")] if token else []
        running = call(message, metadata=metadata)
        response = await running
        return list(response.cert_chain), str(dict(await running.trailing_metadata() or ())["culvert-trust"])  # type: ignore[call-overload]

    def follow(self, token: str) -> Any:
        return self.channel.stream_stream(
            "/culvert.ca.v1.Trust/Follow",
            request_serializer=trust_pb2.Held.SerializeToString,
            response_deserializer=trust_pb2.Announcement.FromString,
        )(metadata=[("authorization", f"Bearer {token}")])  # type: ignore[call-arg]  # the stubs want an iterator

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def desk(
    directory: Path, *, rates: Rates | None = None, clock: Clock | None = None, holders: Holders | None = None
) -> AsyncIterator[Desk]:
    keeper = a_keeper(directory / "ca", clock=clock, holders=holders)
    await keeper.start()
    registry = CollectorRegistry()
    server = grpc.aio.server(options=GRPC_OPTIONS)
    metrics = CaMetrics(registry)
    services = (CertificateService(keeper, Known(), runs_on, metrics, rates), FollowService(keeper, Known(), metrics))
    server.add_generic_rpc_handlers(tuple(service.handler() for service in services))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Desk(keeper, registry, channel, port)
    finally:
        await server.stop(0)


def run(tmp_path: Path, check: Callable[[Desk], Any], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), desk(tmp_path, **options) as made:
            await check(made)

    asyncio.run(main())


def names(chain: list[str]) -> list[str]:
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    return [name.value for name in leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


GIVEN = {
    "a pod of the node": ("node-1", CART, CART),
    "a pod of the node, by its tunnel's pod": ("tunnel", CART, CART),
    "the tunnel itself": ("tunnel", "", Identity("cluster.local", "istio-system", "ztunnel")),
    "a workload for itself": ("web", "", WEB),
    "a workload that names itself": ("web", WEB, WEB),
}


@pytest.mark.parametrize("case", GIVEN)
def test_who_gets_what(tmp_path: Path, case: str) -> None:
    token, asked, given = GIVEN[case]

    async def check(at: Desk) -> None:
        chain, trust = await at.ask(token, asked)
        assert names(chain) == [str(given)]
        assert verify(tmp_path, chain) == ""
        assert trust == at.keeper.authority.token
        assert (at.count("citadel_server_csr_count"), at.count("citadel_server_success_cert_issuance_count")) == (1, 1)

    run(tmp_path, check)


def test_who_cannot_be_known_for_all_the_others_is_to_come_again(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await at.ask("late", CART)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "9 callers wait to be known already")
        assert at.count("culvert_ca_csr_failures_total", kind="callers") == 1
        assert at.count("citadel_server_authentication_failure_count") == 0
        assert await at.follow("late").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert at.count("culvert_ca_followers_turned_away_total", reason="callers") == 1

    run(tmp_path, check)


DENIED = {
    "nobody": ("", CART, "authentication_failure"),
    "somebody unknown": ("mallory", CART, "authentication_failure"),
    "a pod of another node": ("node-2", CART, "not_on_node"),
    "a pod that there is not": ("node-1", WEB, "not_on_node"),
    "another trust domain": ("node-1", "spiffe://other/ns/shop/sa/cart", "not_on_node"),
    "a tunnel of no node": ("nowhere", CART, "not_on_node"),
    "no SPIFFE id": ("node-1", "shop/cart", "bad_identity"),
    "a SPIFFE id of another form": ("node-1", "spiffe://cluster.local/shop/cart", "bad_identity"),
    "a node, for nobody": ("node-1", "", "bad_identity"),
    "a workload for another on its node": ("web", CART, "not_itself"),
    "a workload for the tunnel": ("web", Identity("cluster.local", "istio-system", "ztunnel"), "not_itself"),
    "a workload of another trust domain": ("web", "spiffe://other/ns/web/sa/web", "not_itself"),
    "half a workload": ("half", "", "bad_identity"),
}


@pytest.mark.parametrize("case", DENIED)
def test_who_is_refused_learns_nothing_and_the_log_says_why(tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    token, asked, kind = DENIED[case]

    async def check(at: Desk) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await at.ask(token, asked)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
        assert at.count("culvert_ca_csr_failures_total", kind=kind) == 1
        assert at.count("citadel_server_authentication_failure_count") == (kind == "authentication_failure")
        assert at.count("citadel_server_success_cert_issuance_count") == 0
        assert kind in str([record.__dict__ for record in caplog.records])

    caplog.set_level(logging.INFO)
    run(tmp_path, check)


def test_a_bad_request_is_answered_with_why(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        for csr, seconds in (("hello", 0), (request(), 91 * DAY)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await at.ask("node-1", CART, csr, seconds)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert at.count("citadel_server_csr_parsing_err_count") == 2

    run(tmp_path, check)


def test_a_request_of_another_node_sent_again_gains_nothing(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        seen = request(name=str(CART))
        await at.ask("node-1", CART, seen)
        with pytest.raises(grpc.aio.AioRpcError):
            await at.ask("node-2", CART, seen)
        chain, _ = await at.ask("web", "", seen)
        assert names(chain) == [str(WEB)]

    run(tmp_path, check)


def test_a_request_sent_again_by_its_own_node_is_a_new_certificate_of_what_is_in_force(tmp_path: Path) -> None:
    """Also after a new intermediate, and after a new root: nothing of the first answer is remembered."""

    async def check(at: Desk) -> None:
        seen = request(name=str(CART))
        chains = []
        steps = (at.keeper.renew_leaves, at.keeper.renew_intermediate, at.keeper.introduce)
        for step in (None, *steps):
            if step is not None:
                await step()
            chain, trust = await at.ask("node-1", CART, seen)
            assert names(chain) == [str(CART)]
            assert verify(tmp_path, chain) == ""
            assert trust == at.keeper.authority.token
            chains.append(x509.load_pem_x509_certificate(chain[0].encode()))
        assert len({leaf.serial_number for leaf in chains}) == len(chains)
        assert len({leaf.public_key().public_numbers() for leaf in chains}) == 1  # type: ignore[union-attr]
        assert len({leaf.issuer for leaf in chains}) > 1
        with pytest.raises(grpc.aio.AioRpcError):
            await at.ask("node-2", CART, seen)

    run(tmp_path, check)


def test_one_caller_does_not_take_the_ca_from_the_others(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        for _ in range(3):
            await at.ask("node-1", CART)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await at.ask("node-1", CART)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await at.ask("web")
        assert at.count("culvert_ca_csr_failures_total", kind="rate") == 1

    run(tmp_path, check, rates=Rates(per_second=0.001, burst=3))


def test_a_slow_key_signs_beside_the_loop_and_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mounted RSA 4096 has: the loop goes on meanwhile, and what waits has an end."""
    monkeypatch.setattr("control.ca.service.MAX_PENDING", 2)
    begun, go_on = threading.Semaphore(0), threading.Event()

    async def check(at: Desk) -> None:
        authority = at.keeper.authority
        sign = authority.sign
        authority.slow = True

        def slow(*arguments: Any) -> Any:
            begun.release()
            assert go_on.wait(10)
            return sign(*arguments)

        monkeypatch.setattr(authority, "sign", slow)
        waiting = [asyncio.ensure_future(at.ask("node-1", CART)) for _ in range(2)]
        await asyncio.to_thread(begun.acquire)
        await asyncio.to_thread(begun.acquire)
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # answered while the others sign
            await at.ask("node-1", CART)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        go_on.set()
        for each in waiting:
            chain, _ = await each
            assert names(chain) == [str(CART)]
        await at.ask("node-1", CART)

    run(tmp_path, check)


def test_an_expired_ca_says_try_again(tmp_path: Path) -> None:
    clock = Clock()

    async def check(at: Desk) -> None:
        clock.ahead = 366 * DAY
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await at.ask("node-1", CART)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert at.count("citadel_server_csr_sign_err_count") == 1

    run(tmp_path, check, clock=clock)


def test_each_issue_is_logged_without_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(at: Desk) -> None:
        chain, _ = await at.ask("node-1", CART)
        (record,) = [record for record in caplog.records if record.getMessage() == "certificate issued"]
        serial = x509.load_pem_x509_certificate(chain[0].encode()).serial_number
        said = {name: str(value) for name, value in record.__dict__["fields"].items()}
        assert (said["caller"], said["identity"], said["serial"]) == ("node node-1", str(CART), f"{serial:x}")
        assert "-----" not in str(record.__dict__)

    caplog.set_level(logging.INFO)
    run(tmp_path, check)


# Following


def test_a_follower_is_told_at_once_and_counts_when_it_says_so(tmp_path: Path) -> None:
    holders = Holders(lambda: ["node-1"])

    async def check(at: Desk) -> None:
        stream = at.follow("node-1")
        first = (await stream.read()).token
        assert first == at.keeper.authority.token
        await stream.write(trust_pb2.Held(token=first, certificates=2))
        await until(lambda: holders.confirmed() == {"node-1"})
        await at.keeper.renew_leaves()
        second = (await stream.read()).token
        assert second == at.keeper.authority.token != first
        assert holders.confirmed() == set()
        await stream.write(trust_pb2.Held(token=second, certificates=2, waiting=1))
        await stream.write(trust_pb2.Held(token=second, certificates=2, problem="its root file lacks one"))
        await until(lambda: holders.view(0)[0]["problem"])
        assert holders.confirmed() == set()
        await stream.write(trust_pb2.Held(token=second, certificates=2))
        await until(lambda: holders.confirmed() == {"node-1"})
        stream.cancel()
        await until(lambda: not holders.followers)
        assert not at.keeper.listeners

    run(tmp_path, check, holders=holders)


def test_a_slow_follower_gets_the_newest_only(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        stream = at.follow("node-1")
        await stream.read()
        for _ in range(5):
            await at.keeper.renew_leaves()
        tokens = [(await stream.read()).token]
        while tokens[-1] != at.keeper.authority.token:
            tokens.append((await stream.read()).token)
        assert len(tokens) <= 5

    run(tmp_path, check)


def test_all_streams_of_a_node_must_have_renewed(tmp_path: Path) -> None:
    """Two tunnels of one node, while one takes over from the other."""
    holders = Holders()

    async def check(at: Desk) -> None:
        streams = [at.follow("node-1"), at.follow("node-1")]
        token = (await streams[0].read()).token
        assert (await streams[1].read()).token == token
        await streams[0].write(trust_pb2.Held(token=token, certificates=1))
        await until(lambda: any(follower.confirmed_at for follower in holders.followers.values()))
        assert holders.confirmed() == set()
        streams[1].cancel()
        await until(lambda: holders.confirmed() == {"node-1"})

    run(tmp_path, check, holders=holders)


def test_what_a_follower_says_is_kept_in_part(tmp_path: Path) -> None:
    holders = Holders()

    async def check(at: Desk) -> None:
        stream = at.follow("node-1")
        await stream.read()
        await stream.write(trust_pb2.Held(token="x" * (1 << 20), problem="y" * (1 << 20), certificates=1))
        await until(lambda: any(follower.report.certificates for follower in holders.followers.values()))
        (follower,) = holders.followers.values()
        assert (len(follower.report.token), len(follower.report.problem)) == (MAX_PROBLEM, MAX_PROBLEM)
        assert holders.confirmed() == set()

    run(tmp_path, check, holders=holders)


def test_nobody_unknown_follows(tmp_path: Path) -> None:
    async def check(at: Desk) -> None:
        stream = at.follow("mallory")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    run(tmp_path, check)


def test_a_caller_has_so_many_streams_and_others_have_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.auth.places.MAX_OF_CALLER", 2)

    async def check(at: Desk) -> None:
        streams = [at.follow("web") for _ in range(2)]
        for stream in streams:
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError, match="more than 2 streams of") as caught:
            await at.follow("web").read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert at.count("culvert_ca_followers_turned_away_total", reason="caller_streams") == 1
        other = at.follow("node-1")
        await other.read()
        streams[0].cancel()
        await until(lambda: len(at.keeper.holders.followers) == 2)
        again = at.follow("web")
        await again.read()

    run(tmp_path, check)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
