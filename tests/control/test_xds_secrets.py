"""Secrets over xDS (SDS): who gets them and who does not, and that a change of root waits for who has not taken them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from control.ca import upkeep
from control.ca.holders import Report
from control.ca.keeper import Keeper
from control.ca.rotation import NotYet
from control.resolve.l7.plans import SECRET_TYPE
from control.xds import proxies
from control.xds.secrets import Secrets
from mesh.model.identity import Identity
from mesh.model.l7.names import MESH_ROOTS, WORKLOAD_CERTIFICATE
from tests.control.ca.support import DAY, ME, Clock, a_keeper, secret_lines
from tests.control.plane import TOKENS, Plane, certificate, pod, running

BOTH = (WORKLOAD_CERTIFICATE, MESH_ROOTS)
CART, HOLDER = "spiffe://cluster.local/ns/shop/sa/cart", "shop/cart-1"
PODS = {"a.yaml": pod("cart-1", "10.0.0.1", account="cart"), "b.yaml": pod("web-1", "10.0.0.2", account="web", node="n2")}


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


class Sds:
    """One stream, of either variant, as a transcript. `secrets` are what was sent last, by name."""

    def __init__(self, channel: grpc.aio.Channel, *, delta: bool, token: str | None = TOKENS["n1"], pod: str = "cart-1") -> None:
        kind = "Delta" if delta else ""
        self.request = getattr(discovery_pb2, f"{kind}DiscoveryRequest")
        self.delta = delta
        self.node = f"sidecar~10.0.0.1~{pod}.shop~shop.svc.cluster.local"
        self.names: list[str] = []
        self.secrets: dict[str, Any] = {}
        call: Any = channel.stream_stream(
            f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{'Delta' if delta else 'Stream'}AggregatedResources",
            request_serializer=self.request.SerializeToString,
            response_deserializer=getattr(discovery_pb2, f"{kind}DiscoveryResponse").FromString,
        )
        self.call: Any = call(metadata=(("authorization", f"Bearer {token}"),) if token is not None else ())
        self.pending: asyncio.Future[Any] | None = None

    async def ask(self, *names: str) -> None:
        self.names += names
        field = {"resource_names_subscribe": names} if self.delta else {"resource_names": self.names}
        await self.call.write(self.request(type_url=SECRET_TYPE, node={"id": self.node}, **field))

    async def answer(self, response: Any, error: str = "") -> None:
        detail = status_pb2.Status(code=3, message=error) if error else None
        field = {} if self.delta else {"resource_names": self.names}
        await self.call.write(self.request(type_url=SECRET_TYPE, response_nonce=response.nonce, error_detail=detail, **field))

    async def read(self, seconds: float = 5.0) -> Any:
        """A read that times out stays pending: cancelling it would end the call."""
        self.pending = self.pending or asyncio.ensure_future(self.call.read())
        await asyncio.wait({self.pending}, timeout=seconds)
        if not self.pending.done():
            raise TimeoutError
        response, self.pending = self.pending.result(), None
        if response is grpc.aio.EOF:
            raise ConnectionError(f"{await self.call.code()}: {await self.call.details()}")
        for each in response.resources:
            secret = secret_pb2.Secret.FromString((each.resource if self.delta else each).value)
            self.secrets[secret.name] = secret
        return response

    async def taken(self, *names: str) -> None:
        """Ask, and take what comes until all of it is there."""
        await self.ask(*names)
        while not self.secrets.keys() >= set(names):
            await self.answer(await self.read())

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.secrets[WORKLOAD_CERTIFICATE].tls_certificate.certificate_chain.inline_bytes)

    @property
    def identity(self) -> str:
        names = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (found,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return found

    @property
    def roots(self) -> int:
        return len(x509.load_pem_x509_certificates(self.secrets[MESH_ROOTS].validation_context.trusted_ca.inline_bytes))

    @property
    def key(self) -> str:
        return str(self.secrets[WORKLOAD_CERTIFICATE].tls_certificate.private_key.inline_bytes.decode())


@contextlib.asynccontextmanager
async def meshed(directory: Path) -> AsyncIterator[tuple[Plane, Keeper, grpc.aio.Channel]]:
    async with running(directory, PODS) as plane, plane.channel() as channel:
        keeper = plane.plane.ca.keeper
        keeper.store.settle = 0.0  # there is no other replica
        keeper.holders._expected = lambda: ()  # nor a tunnel, on any node
        async with asyncio.timeout(5):
            while not plane.plane.pipeline.ready:
                await asyncio.sleep(0.01)
        yield plane, keeper, channel


TICK = 0.02


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come of age, and who has renewed, is looked at more often."""
    monkeypatch.setattr(upkeep, "TICK", TICK)


async def opened(keeper: Keeper) -> None:
    async with asyncio.timeout(5):
        while not keeper.gate().is_open(keeper.clock()):
            await asyncio.sleep(0.02)


async def closed(keeper: Keeper, holder: str = HOLDER) -> None:
    """It alone is waited for, and goes on to be; no step is taken."""
    async with asyncio.timeout(5):
        while keeper.gate().waiting != (holder,):
            await asyncio.sleep(TICK)
    await asyncio.sleep(5 * TICK)
    assert keeper.gate().waiting == (holder,)
    with pytest.raises(NotYet, match=f"not everybody has renewed: {holder};"):
        await keeper.switch()


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_a_change_of_root_waits_for_the_answer_of_a_proxy(tmp_path: Path, delta: bool) -> None:
    async def main() -> None:
        async with meshed(tmp_path) as (_, keeper, channel):
            proxy = Sds(channel, delta=delta)
            await proxy.taken(*BOTH)
            assert proxy.identity == CART
            assert proxy.roots == 1
            first = proxy.leaf
            await keeper.introduce()
            response = await proxy.read()
            assert proxy.roots == 2
            assert proxy.leaf.serial_number != first.serial_number
            await closed(keeper)
            await proxy.answer(response)
            await opened(keeper)
            await keeper.switch()
            response = await proxy.read()
            assert proxy.roots == 2
            assert proxy.leaf.issuer != first.issuer
            with pytest.raises(NotYet, match="shop/cart-1"):
                await keeper.retire()
            await proxy.answer(response)
            await opened(keeper)
            await keeper.retire()
            await proxy.answer(await proxy.read())
            assert proxy.roots == 1
            proxy.call.cancel()

    run(main)


async def rejects(keeper: Keeper, proxy: Sds) -> None:
    await proxy.answer(await proxy.read(), "no room for another root")


async def leaves(keeper: Keeper, proxy: Sds) -> None:
    await proxy.read()
    proxy.call.cancel()
    async with asyncio.timeout(5):
        while keeper.holders.followers:
            await asyncio.sleep(0.01)


async def tunnel_renews(keeper: Keeper, proxy: Sds) -> None:
    """The tunnel of the proxy's node has renewed, which says nothing of the proxy."""
    await proxy.read()
    number = keeper.holders.join("n1", "its tunnel")
    keeper.holders.report(number, Report(keeper.authority.token, 1), keeper.authority.token, keeper.clock())


@pytest.mark.parametrize("does", [rejects, leaves, tunnel_renews])
def test_a_change_of_root_waits_whatever_a_proxy_does_instead(tmp_path: Path, does: Callable[[Keeper, Sds], Awaitable[None]]) -> None:
    async def main() -> None:
        async with meshed(tmp_path) as (_, keeper, channel):
            proxy = Sds(channel, delta=True)
            await proxy.taken(*BOTH)
            await keeper.introduce()
            await does(keeper, proxy)
            await closed(keeper)
            again = Sds(channel, delta=True)  # and goes on when it comes again and takes both
            await again.taken(*BOTH)
            proxy.call.cancel()
            await opened(keeper)

    run(main)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_who_has_a_certificate_and_no_roots_is_waited_for(tmp_path: Path, delta: bool) -> None:
    async def main() -> None:
        async with meshed(tmp_path) as (_, keeper, channel):
            await keeper.introduce()
            proxy = Sds(channel, delta=delta)
            await proxy.taken(WORKLOAD_CERTIFICATE)
            await closed(keeper)
            await proxy.taken(MESH_ROOTS)
            await opened(keeper)
            proxy.call.cancel()

    run(main)


def test_a_tunnel_that_has_not_renewed_is_waited_for_though_a_proxy_of_its_node_has(tmp_path: Path) -> None:
    async def main() -> None:
        async with meshed(tmp_path) as (_, keeper, channel):
            await certificate(channel, CART)
            proxy = Sds(channel, delta=True)
            await proxy.taken(*BOTH)
            await keeper.introduce()
            await proxy.answer(await proxy.read())
            await closed(keeper, "n1")
            proxy.call.cancel()

    run(main)


STRANGERS: dict[str, dict[str, Any]] = {
    "no credential": {"token": None},
    "one that proves nothing": {"token": "token-of-nobody-at-all"},
    "of another node": {"token": TOKENS["n2"]},
    "for a pod of another node": {"pod": "web-1"},
    "for a pod that is not there": {"pod": "cart-2"},
}


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
@pytest.mark.parametrize("case", STRANGERS)
def test_who_does_not_prove_who_it_is_gets_no_secrets(tmp_path: Path, case: str, delta: bool) -> None:
    async def main() -> None:
        async with meshed(tmp_path) as (plane, keeper, channel):
            proxy = Sds(channel, delta=delta, **STRANGERS[case])
            proves = STRANGERS[case].get("token", TOKENS["n1"]) in TOKENS.values()
            if proves:  # others are not let in to ask
                await proxy.ask(*BOTH)
            with pytest.raises((grpc.aio.AioRpcError, ConnectionError)):
                await proxy.read()
            assert await proxy.call.code() is (grpc.StatusCode.INVALID_ARGUMENT if proves else grpc.StatusCode.UNAUTHENTICATED)
            assert proxy.secrets == {}
            assert plane.plane.secrets.made == {}, "nor was a key made for it"
            assert not keeper.holders.followers, "nor is it waited for"

    run(main)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_over_plaintext_who_proves_nothing_gets_no_secrets(tmp_path: Path, delta: bool) -> None:
    async def main() -> None:
        async with meshed(tmp_path) as (plane, _, _tls):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.plane.ports['plaintext']}") as channel:
                proxy = Sds(channel, delta=delta, token=None)
                await proxy.ask(*BOTH)
                with contextlib.suppress(TimeoutError):
                    await proxy.read(0.3)
                assert proxy.secrets == {}
                proxy.call.cancel()
            assert plane.plane.secrets.made == {}

    run(main)


def test_what_changes_hands_is_not_renewed_for_who_had_it(tmp_path: Path) -> None:
    """A stream ends with the next certificate when its pod is another node's."""

    async def main() -> None:
        async with meshed(tmp_path) as (plane, keeper, channel):
            proxy = Sds(channel, delta=True)
            await proxy.taken(*BOTH)
            mine = proxy.leaf
            plane.write("a.yaml", pod("cart-1", "10.0.0.1", account="cart", node="n2"))
            async with asyncio.timeout(5):
                while plane.plane.mesh.runs_on("n1", Identity("cluster.local", "shop", "cart")):
                    await asyncio.sleep(0.01)
            await keeper.renew_leaves()
            with pytest.raises((grpc.aio.AioRpcError, ConnectionError), match="not this caller's any more"):
                await proxy.read()
            assert proxy.leaf == mine

    run(main)


def test_keys_are_in_no_log_and_no_dump(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        caplog.set_level(1)
        async with meshed(tmp_path) as (plane, keeper, channel):
            proxy = Sds(channel, delta=True)
            keys = []
            await proxy.taken(*BOTH)
            keys.append(proxy.key)
            await keeper.renew_leaves()
            await proxy.answer(await proxy.read(), "I do not want this")
            keys.append(proxy.key)
            private = {line for key in keys for line in secret_lines(key)}
            assert len(private) == 4
            said = [str(record.__dict__) for record in caplog.records]
            assert any("certificate for a proxy" in line for line in said)
            said += [(await plane.http(path))[1] for path in ("/debug/sync", "/debug/snapshot", "/debug/ca", "/metrics")]
            views = plane.plane.pipeline.proxies.views
            said += [repr(views), repr(plane.plane.secrets.__dict__), repr(plane.plane.xds.clients)]
            assert not [line for line in private if line in "\n".join(said)]
            proxy.call.cancel()

    run(main)


def test_a_key_is_forgotten_with_the_last_proxy_of_its_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "LINGER", 0.02)

    async def main() -> None:
        async with meshed(tmp_path) as (plane, _, channel):
            two = [Sds(channel, delta=delta) for delta in (True, False)]
            for proxy in two:
                await proxy.taken(*BOTH)
            assert two[0].leaf == two[1].leaf
            two[0].call.cancel()
            await asyncio.sleep(0.1)
            assert plane.plane.secrets.made
            two[1].call.cancel()
            async with asyncio.timeout(5):
                while plane.plane.secrets.made:
                    await asyncio.sleep(0.01)

    run(main)


def test_what_cannot_be_renewed_stays_and_is_tried_again_from_time_to_time(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        keeper = a_keeper(tmp_path / "ca", clock=clock)
        await keeper.start()
        secrets = Secrets(keeper)
        first = secrets.current(ME)
        clock.ahead = 50 * 365 * DAY  # also the end of what it would be signed with
        found = []
        task = asyncio.create_task(secrets.run(lambda: found.append(secrets.current(ME))))
        await asyncio.sleep(0.3)
        task.cancel()
        assert found == [first]

    run(main)
