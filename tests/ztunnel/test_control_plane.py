"""xDS and CA over real gRPC, against the control plane's double; and the key helper as a real process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.io.grpc import GrpcTarget, metadata
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.policy import Action, Authorization, PolicyScope
from mesh.model.reasons import Reason
from mesh.model.workload import Workload
from mesh.wire.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE
from tests.ztunnel.double import ControlPlane
from ztunnel.ca import CertificateAuthority
from ztunnel.config import Config, from_environment
from ztunnel.keysmith import Keysmith, answer
from ztunnel.metrics import Metrics
from ztunnel.view import View
from ztunnel.xds import XdsClient

A, B = Identity("cluster.local", "shop", "a"), Identity("cluster.local", "shop", "b")


@pytest.fixture
def control() -> Iterator[ControlPlane]:
    with closing(ControlPlane()) as made:
        yield made


@pytest.fixture
def config() -> Config:
    return replace(from_environment({}), pod_name="zt-1", pod_namespace="sys", node_name="n1", instance_ip="10.0.0.9", network="net-1")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


def run(config: Config, target: GrpcTarget, check: Callable[[XdsClient, View, Metrics], Awaitable[None]]) -> None:
    async def main() -> None:
        view, metrics = View(), Metrics("test")
        client = XdsClient(config, target, view, metrics)
        task = asyncio.ensure_future(client.run())
        try:
            await check(client, view, metrics)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_a_mesh_of_some_size_comes_in_and_changes(control: ControlPlane, config: Config) -> None:
    workloads = [Workload(f"uid-{number}", f"pod-{number}", "shop") for number in range(1000)]
    control.set(*workloads, Authorization("p", "shop", PolicyScope.GLOBAL, Action.DENY))

    async def check(client: XdsClient, view: View, metrics: Metrics) -> None:
        assert client.pending == ["xds Authorization", "xds Address"]
        await until(lambda: not client.pending)
        assert len(view.state.workloads) == 1000
        assert list(view.state.policies) == ["shop/p"]
        node = control.first[0].node
        assert node.id == "ztunnel~10.0.0.9~zt-1.sys~sys.svc.cluster.local"
        assert dict(node.metadata) == {
            "NAME": "zt-1",
            "NAMESPACE": "sys",
            "INSTANCE_IPS": "10.0.0.9",
            "NODE_NAME": "n1",
            "CLUSTER_ID": "Kubernetes",
            "NETWORK": "net-1",
        }
        assert [request.type_url for request in control.first] == [AUTHORIZATION_TYPE, ADDRESS_TYPE]
        control.remove(ADDRESS_TYPE, "uid-7")
        control.set(replace(workloads[8], node="moved"))
        await until(lambda: view.state.workloads["uid-8"].node == "moved")
        assert "uid-7" not in view.state.workloads
        assert metrics.xds_messages.get(ADDRESS_TYPE) == 3
        assert metrics.xds_bytes.get(ADDRESS_TYPE) > 10_000
        assert metrics.xds_connected.get() == 1

    run(config, GrpcTarget(f"http://127.0.0.1:{control.port}"), check)


def test_good_resources_count_and_bad_ones_are_named(control: ControlPlane, config: Config) -> None:
    async def check(client: XdsClient, view: View, metrics: Metrics) -> None:
        await until(lambda: not client.pending)
        good = Workload("good", "good", "shop")
        from mesh.model.codec.proto import address_to

        control.set_raw(ADDRESS_TYPE, {"good": address_to(good).SerializeToString(), "bad": b"\xff\xff"})
        await until(lambda: control.errors)
        assert control.errors[0].startswith("bad: bad: ")
        assert view.state.workloads == {"good": good}
        assert metrics.xds_rejected.get(ADDRESS_TYPE) == 1
        control.disconnect()
        await until(lambda: len(control.first) == 4)
        assert dict(control.first[3].initial_resource_versions) == {"good": "1", "bad": ""}

    run(config, GrpcTarget(f"http://127.0.0.1:{control.port}"), check)


def test_an_absent_control_plane_is_told_and_tried_again(config: Config) -> None:
    async def check(client: XdsClient, view: View, metrics: Metrics) -> None:
        await until(lambda: metrics.xds_ends.get("ConnectionError") >= 2)
        assert "UNAVAILABLE" in client.pending[0]

    run(config, GrpcTarget("http://127.0.0.1:9"), check)


def test_a_missing_token_is_told(control: ControlPlane, config: Config, tmp_path: Path) -> None:
    token = tmp_path / "token"

    async def check(client: XdsClient, view: View, metrics: Metrics) -> None:
        await until(lambda: metrics.xds_ends.get("ConnectionError") >= 2)
        assert str(token) in client.last_error
        token.write_text("secret\n")  # read at each use
        await until(lambda: not client.pending)

    run(config, GrpcTarget(f"http://127.0.0.1:{control.port}", token_file=token), check)


def test_metadata(tmp_path: Path) -> None:
    token = tmp_path / "token"
    target = GrpcTarget("https://istiod:15012", token_file=token, cluster_id="c1")
    token.write_text(" one\n")
    assert list(metadata(target)) == [("authorization", "Bearer one"), ("clusterid", "c1")]
    token.write_text("two")
    assert next(iter(metadata(target))) == ("authorization", "Bearer two")
    token.write_text("")
    with pytest.raises(ValueError, match="expected a bearer token"):
        metadata(target)


def test_certificates_are_fetched_for_the_identity_that_was_asked_for(control: ControlPlane) -> None:
    async def main() -> None:
        ca = CertificateAuthority(GrpcTarget(f"http://127.0.0.1:{control.port}"), Keysmith(), 600)
        try:
            made = [await ca.fetch(identity) for identity in (A, B)]
            assert [each.identity for each in made] == [A, B]
            assert 600 <= made[0].not_after - made[0].not_before <= 600 + 180
            assert control.issued == [str(A), str(B)]
            control.refuse_certificates = True
            with pytest.raises(PeerError, match="UNAUTHENTICATED") as raised:
                await ca.fetch(A)
            assert raised.value.reason is Reason.NO_CERTIFICATE
            control.refuse_certificates = False
            assert (await ca.fetch(A)).identity == A  # with a new channel
        finally:
            await ca.close()

    asyncio.run(main())


def test_the_key_helper_is_started_on_demand_and_again() -> None:
    async def main() -> None:
        smith = Keysmith()
        first = await smith.make(A)
        assert first.csr_pem.startswith("-----BEGIN CERTIFICATE REQUEST-----")
        assert first.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
        process = smith._process
        assert process is not None
        second = await smith.make(B)
        assert smith._process is process
        assert second.key_pem != first.key_pem
        process.kill()
        await process.wait()
        assert (await smith.make(A)).key_pem != first.key_pem
        await smith.close()

    asyncio.run(main())


def test_the_helper_dies_between_two_requests_unnoticed() -> None:
    async def main() -> None:
        smith = Keysmith()
        await smith.make(A)
        assert smith._process is not None
        smith._process.kill()  # its end is not known yet
        await smith.make(A)
        await smith.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((sys.executable, "-c", "raise SystemExit(3)"), "status 3"),
        (("/nonexistent",), "No such file"),
        ((sys.executable, "-c", 'print(\'{"error": "no entropy"}\')'), "no entropy"),
    ],
)
def test_a_helper_that_fails(command: tuple[str, ...], why: str) -> None:
    async def main() -> None:
        smith = Keysmith(command)
        with pytest.raises(PeerError, match=why) as raised:
            await smith.make(A)
        assert raised.value.reason is Reason.NO_CERTIFICATE
        await smith.close()

    asyncio.run(main())


def test_the_helper_takes_nothing_but_spiffe_ids() -> None:
    assert "is not spiffe://" in answer("spiffe://x/y\n")["error"]
    assert set(answer(f"{A}\n")) == {"key", "csr"}
