"""The control plane as its clients meet it: real gRPC over loopback TLS, real files."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from control.admin import refusals_view, snapshot_view
from control.auth import TooManyAsk
from mesh.io.http import json_response
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE, authorization_from, workload_from
from mesh.pb import authorization_pb2, workload_pb2
from tests.control.ca.support import verify
from tests.control.plane import TOKENS, Plane, Stream, certificate, pod, running, started

CART = "spiffe://cluster.local/ns/shop/sa/default"
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules: [{from: [{source: {principals: ["cluster.local/ns/web/sa/web"]}}]}]
"""


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 30)

    asyncio.run(bounded())


async def refused(stream: Stream, type_url: str = "", **fields: Any) -> grpc.StatusCode:
    """How the server ends a call: before it is asked anything, or because of what it is asked. To write to a call that the server has ended
    makes gRPC's client forget how.
    """
    if type_url:
        await stream.ask(type_url, **fields)
    async with asyncio.timeout(5):
        code: grpc.StatusCode = await stream.call.code()
        return code


def workloads(response: Any) -> dict[str, Any]:
    found = {}
    for resource in response.resources:
        assert resource.resource.type_url == ADDRESS_TYPE
        address = workload_pb2.Address.FromString(resource.resource.value)
        if address.WhichOneof("type") == "workload":
            found[resource.name] = workload_from(address.workload)
    return found


def test_a_client_gets_what_there_is_then_what_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("cart-1", "10.0.0.1")}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            first = await stream.start()
            found = workloads(first[ADDRESS_TYPE])
            assert list(found) == ["Kubernetes//Pod/shop/cart-1"]
            assert [resource.name for resource in first[AUTHORIZATION_TYPE].resources] == ["istio-system/istio_converted_static_strict"]

            plane.write("b.yaml", pod("cart-2", "10.0.0.2"))
            response = await stream.read()
            assert list(workloads(response)) == ["Kubernetes//Pod/shop/cart-2"]
            await stream.ack(response)

            plane.write("p.yaml", POLICY)
            policies = await stream.read()
            assert policies.type_url == AUTHORIZATION_TYPE  # a policy comes, and is answered, before the workloads that name it
            await stream.quiet()
            await stream.ack(policies)
            addresses = await stream.read()
            (resource,) = policies.resources
            assert authorization_from(authorization_pb2.Authorization.FromString(resource.resource.value)).key == "shop/only-web"
            assert {workload.policies for workload in workloads(addresses).values()} == {("shop/only-web",)}
            await stream.ack(addresses)

            plane.remove("b.yaml")
            response = await stream.read()
            assert list(response.removed_resources) == ["Kubernetes//Pod/shop/cart-2"]

    run(main)


def test_both_types_are_answered_when_there_is_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {}) as plane, plane.channel() as channel:
            first = await Stream(channel).start()
            assert set(first) == {ADDRESS_TYPE, AUTHORIZATION_TYPE}
            assert not first[ADDRESS_TYPE].resources

    run(main)


def test_a_reconnecting_client_is_sent_only_what_differs_also_after_our_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1"), "b.yaml": pod("b", "10.0.0.2")}) as plane, plane.channel() as channel:
            first = (await Stream(channel).start())[ADDRESS_TYPE]
        versions = {resource.name: resource.version for resource in first.resources}
        async with running(tmp_path, {"b.yaml": pod("b", "10.0.0.3")}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            await stream.ask(ADDRESS_TYPE, initial_resource_versions={**versions, "Kubernetes//Pod/shop/gone": "1"})
            response = await stream.read()
            assert list(workloads(response)) == ["Kubernetes//Pod/shop/b"]
            assert list(response.removed_resources) == ["Kubernetes//Pod/shop/gone"]

    run(main)


def test_a_nack_is_kept_for_people_and_what_was_rejected_is_not_sent_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            await stream.ask(ADDRESS_TYPE, node={"id": "ztunnel~10.0.0.9~zt.istio-system~x"})
            response = await stream.read()
            await stream.ack(response, "Kubernetes//Pod/shop/a: too strange")
            await stream.quiet()
            status, body = await plane.http("/debug/sync")
            assert status == 200
            (client,) = json.loads(body)["clients"]
            state = client["types"][ADDRESS_TYPE]
            assert (client["node"], client["id"]) == ("n1", "ztunnel~10.0.0.9~zt.istio-system~x")
            assert (state["nacks"], state["error"], state["synced"]) == (1, "Kubernetes//Pod/shop/a: too strange", False)

    run(main)


def test_on_demand_clients_ask_by_address(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1"), "b.yaml": pod("b", "10.0.0.2")}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            await stream.ask(ADDRESS_TYPE, resource_names_subscribe=["*"], resource_names_unsubscribe=["*"])
            empty = await stream.read()
            assert not empty.resources
            await stream.ack(empty)
            await stream.ask(ADDRESS_TYPE, resource_names_subscribe=["/10.0.0.1", "/10.0.0.9"])
            response = await stream.read()
            assert [(resource.name, list(resource.aliases)) for resource in response.resources] == [
                ("Kubernetes//Pod/shop/a", ["/10.0.0.1"])
            ]
            assert list(response.removed_resources) == ["/10.0.0.9"]

    run(main)


@pytest.mark.parametrize("token", ["", "token-of-node-number-on", "token-of-node-number-onE"])
def test_without_a_nodes_token_there_is_neither_xds_nor_certificate(tmp_path: Path, token: str) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            stream = Stream(channel, token)
            assert await refused(stream) is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await certificate(channel, CART, token=token)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    run(main)


def test_who_cannot_be_known_for_all_the_others_is_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(*_: object) -> None:
        raise TooManyAsk("9 callers wait to be known already")

    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            monkeypatch.setattr("control.auth.tokens.NodeTokens.authenticate", late)
            assert await refused(Stream(channel)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert 'culvert_xds_cut_off_total{reason="callers"} 1.0' in (await plane.http("/metrics"))[1]
            assert not plane.plane.xds.clients

    run(main)


def test_a_client_may_not_call_itself_another_node(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            assert (
                await refused(stream, ADDRESS_TYPE, node={"id": "x", "metadata": {"NODE_NAME": "n2"}}) is grpc.StatusCode.INVALID_ARGUMENT
            )

    run(main)


def test_a_type_that_is_not_served_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            assert (
                await refused(stream, "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration")
                is grpc.StatusCode.INVALID_ARGUMENT
            )

    run(main)


def test_a_node_gets_certificates_of_its_own_pods_and_they_verify(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            await Stream(channel).start()
            chain = list((await certificate(channel, CART)).cert_chain)
            assert chain[-1] == (tmp_path / "ca" / "root-cert.pem").read_text()
            assert verify(tmp_path, chain) == ""

    run(main)


@pytest.mark.parametrize(
    ("identity", "token"),
    [
        (CART, TOKENS["n2"]),
        ("spiffe://cluster.local/ns/shop/sa/other", TOKENS["n1"]),
        ("spiffe://other.domain/ns/shop/sa/default", TOKENS["n1"]),
        ("not-spiffe", TOKENS["n1"]),
        (None, TOKENS["n1"]),
    ],
    ids=["of another node", "of an account that no pod has", "of another trust domain", "no SPIFFE id", "nobody"],
)
def test_certificates_that_are_refused_all_look_alike(tmp_path: Path, identity: str | None, token: str) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            await Stream(channel).start()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await certificate(channel, identity, token=token)
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")

    run(main)


async def refusals_of(plane: Plane) -> list[dict[str, str]]:
    return list(json.loads((await plane.http("/debug/refusals"))[1]))


def test_a_bad_version_of_an_accepted_policy_leaves_it_in_force_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1"), "p.yaml": POLICY}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            await stream.start()
            plane.write("p.yaml", POLICY.replace("principals", "principles"))
            await stream.quiet()
            (refusal,) = await refusals_of(plane)
            assert refusal["object"] == "AuthorizationPolicy shop/only-web"
            assert refusal["field"] == "spec.rules[0].from[0].source.principles"
            assert refusal["file"] == f"{plane.manifests}/p.yaml:7"
            assert "principals" in refusal["accepted"]
            assert refusal["consequence"] == "the last accepted version stays in force"

    run(main)


def test_a_policy_whose_kind_is_misspelt_later_stays_in_force_and_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1"), "p.yaml": POLICY}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            await stream.start()
            plane.write("p.yaml", POLICY.replace("AuthorizationPolicy", "AuthorizationPolcy"))
            await stream.quiet()
            (refusal,) = await refusals_of(plane)
            assert (refusal["field"], refusal["consequence"]) == ("kind", "what this file held before stays in force")
            assert "culvert_held_objects 1.0" in (await plane.http("/metrics"))[1]
            plane.write("p.yaml", POLICY)
            await stream.quiet()
            assert "culvert_held_objects 0.0" in (await plane.http("/metrics"))[1]

    run(main)


def test_a_policy_that_was_never_accepted_denies_what_it_selects(tmp_path: Path) -> None:
    bad = POLICY.replace("principals", "principles")

    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1"), "p.yaml": bad}) as plane, plane.channel() as channel:
            first = await Stream(channel).start()
            (workload,) = workloads(first[ADDRESS_TYPE]).values()
            assert workload.policies == ("shop/only-web",)
            policies = {resource.name: resource.resource.value for resource in first[AUTHORIZATION_TYPE].resources}
            policy = authorization_from(authorization_pb2.Authorization.FromString(policies["shop/only-web"]))
            assert not policy.enforceable
            (refusal,) = await refusals_of(plane)
            assert refusal["consequence"] == "all traffic is denied to the pods of namespace shop with app=cart"

    run(main)


def test_http_says_when_it_is_ready_what_it_counts_and_what_it_serves(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            await Stream(channel).start()
            assert (await plane.http("/ready"))[0] == 200
            metrics = (await plane.http("/metrics"))[1]
            assert 'istio_build{component="pilot"' in metrics
            assert "pilot_xds 1.0" in metrics
            snapshot = json.loads((await plane.http("/debug/snapshot"))[1])
            assert snapshot["resources"]["Address"]["Kubernetes//Pod/shop/a"]["addresses"] == ["10.0.0.1"]

    run(main)


def test_a_view_of_what_is_served_is_of_the_moment_at_which_it_was_asked_for(tmp_path: Path) -> None:
    """It is made readable beside the loop, which goes on."""

    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            await stream.start()
            view = snapshot_view(plane.plane.mesh, plane.plane.pipeline.tunnels)
            plane.remove("a.yaml")
            await stream.read()
            assert list(view()["resources"]["Address"]) == ["Kubernetes//Pod/shop/a"]
            assert not json.loads((await plane.http("/debug/snapshot"))[1])["resources"]["Address"]

    run(main)


def test_what_is_refused_is_told_as_of_when_it_was_asked_and_not_on_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def noting(value: Any) -> Any:
        threads.append(threading.current_thread())
        return json_response(value)

    async def main() -> None:
        bad = POLICY.replace("rules", "rulez")
        async with running(tmp_path, {"a.yaml": bad, "b.yaml": bad.replace("only-web", "other")}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            await stream.start()
            view = refusals_view(plane.plane.mesh)
            plane.remove("a.yaml")
            await stream.read()
            monkeypatch.setattr("control.admin.json_response", noting)
            assert len(json.loads((await plane.http("/debug/refusals"))[1])) == 1
            assert [entry["object"] for entry in view()] == ["AuthorizationPolicy shop/only-web", "AuthorizationPolicy shop/other"]
            assert all(entry["consequence"].startswith("all traffic is denied") for entry in view())
            assert threads
            assert threading.main_thread() not in threads

    run(main)


def test_nothing_is_served_while_one_of_several_directories_is_missing(tmp_path: Path) -> None:
    """Half of the manifests without the other half's policies would be open."""

    async def main() -> None:
        plane = Plane(tmp_path, more=(tmp_path / "later",))
        plane.write("a.yaml", pod("a", "10.0.0.1"))
        async with started(plane), plane.channel() as channel:
            stream = Stream(channel)
            await stream.ask(ADDRESS_TYPE)
            await stream.quiet()
            assert (await plane.http("/ready"))[0] == 503
            (tmp_path / "later").mkdir()
            assert list(workloads(await stream.read())) == ["Kubernetes//Pod/shop/a"]

    run(main)


def test_a_client_that_does_not_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.xds.server.UNANSWERED", 0.3)

    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            stream = Stream(channel)
            await stream.ask(ADDRESS_TYPE)
            await stream.read()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert not plane.plane.xds.clients

    run(main)
