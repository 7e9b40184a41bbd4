"""Clients that do not answer, or answer nonsense: they are bounded, told, counted and cut off, and no other client notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from control.xds.budget import Budget
from control.xds.messages import MAX_ERROR_TEXT, MAX_KEYS
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE
from tests.control.plane import TOKENS, Plane, Stream, pod, running

METHODS = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
BOTH = {ADDRESS_TYPE, AUTHORIZATION_TYPE}


def run(tmp_path: Path, main: Callable[[Plane, Stream], Awaitable[None]]) -> None:
    """With a good client of the other node, which afterwards still is told of a change."""

    async def bounded() -> None:
        async with asyncio.timeout(60), running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            good = Stream(channel, TOKENS["n2"])
            assert set(await good.start()) == BOTH
            await main(plane, good)
            plane.write("last.yaml", pod("last", "10.0.0.2"))
            await told(good, "Kubernetes//Pod/shop/last")

    asyncio.run(bounded())


async def told(stream: Stream, name: str) -> None:
    """Until it is sent a resource; everything is acknowledged."""
    names: set[str] = set()
    while name not in names:
        response = await stream.read()
        names = {resource.name for resource in response.resources}
        await stream.ack(response)


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """How it ends; what is read until then is passed over."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    return await call.code(), await call.details()


async def metric(plane: Plane, line: str) -> float:
    found = [text for text in (await plane.http("/metrics"))[1].splitlines() if text.startswith(f"{line} ")]
    return float(found[0].split()[-1])


async def seen(plane: Plane, node: str) -> dict[str, Any]:
    (client,) = (one for one in json.loads((await plane.http("/debug/sync"))[1])["clients"] if one["node"] == node)
    return dict(client)


def test_who_never_answers_is_sent_nothing_more_and_then_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(plane: Plane, good: Stream) -> None:
        async with plane.channel() as channel:
            silent = Stream(channel)
            for type_url in BOTH:
                await silent.ask(type_url)
            await silent.read()
            addresses: set[str] = set()
            for number in range(1, 16):
                plane.write("busy.yaml", "---".join(pod(f"p{index}", f"10.1.{number}.{index}") for index in range(20)))
                response = await good.read()
                addresses |= {resource.name for resource in response.resources}
                await good.ack(response)
            assert len(addresses) == 20
            await silent.quiet()
            state = (await seen(plane, "n1"))["types"][ADDRESS_TYPE]
            assert state["behind"] <= 20, "what is noted is bounded by what there is, not by how often it changes"
            monkeypatch.setattr("control.xds.server.UNANSWERED", 0.2)
            plane.plane.xds.publish(plane.plane.pipeline.tunnels, {})  # whoever is waited for is looked at again
            code, why = await ended(silent.call)
            assert (code, "no answer to a response" in why) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
            assert await metric(plane, 'culvert_xds_cut_off_total{reason="unanswered"}') == 1
            monkeypatch.undo()

    run(tmp_path, main)


def test_who_never_reads_is_cut_off_and_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response of which only the first 64 KiB may be sent takes all of the budget."""
    services = "---".join(
        f"\n{{apiVersion: v1, kind: Service, metadata: {{name: s{number}, namespace: shop}}, "
        f"spec: {{clusterIP: 10.2.{number // 250}.{number % 250 + 1}, ports: [{{port: 80, name: http}}]}}}}\n"
        for number in range(1500)
    )
    narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]

    async def main(plane: Plane, good: Stream) -> None:
        xds = plane.plane.xds
        xds._budget = Budget(100_000, lent=0.3)
        plane.write("many.yaml", services)
        await told(good, "shop/s0.shop.svc.cluster.local")
        monkeypatch.setattr("control.xds.server.UNANSWERED", 1.0)
        async with plane.channel(narrow) as channel, plane.channel() as other:
            stuck = Stream(channel)
            await stuck.ask(ADDRESS_TYPE, resource_names_subscribe=["*"])
            while not xds._budget.taken:
                await asyncio.sleep(0.01)
            again = Stream(other, TOKENS["n2"])
            assert len((await again.start())[ADDRESS_TYPE].resources) == 1501
            assert len(xds.clients) == 3
            while len(xds.clients) > 2:
                await asyncio.sleep(0.01)
            assert await metric(plane, 'culvert_xds_cut_off_total{reason="unanswered"}') == 1
            again.call.cancel()
            monkeypatch.undo()

    run(tmp_path, main)


def test_one_node_does_not_keep_out_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.auth.places.MAX_OF_CALLER", 3)

    async def main(plane: Plane, good: Stream) -> None:
        async with plane.channel() as channel:
            streams = [Stream(channel) for _ in range(3)]
            for stream in streams:
                await stream.start()
            assert (await ended(Stream(channel).call))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await metric(plane, 'culvert_xds_cut_off_total{reason="caller_streams"}') == 1
            other = Stream(channel, TOKENS["n2"])
            assert set(await other.start()) == BOTH
            other.call.cancel()
            streams[0].call.cancel()
            while len(plane.plane.xds.clients) > 3:
                await asyncio.sleep(0.01)
            assert set(await Stream(channel).start()) == BOTH

    run(tmp_path, main)


# What is sent after a first response was acknowledged, and whether the stream goes on: else, what is said.
GARBAGE: dict[str, tuple[dict[str, Any], str]] = {
    "a nonce that never was": ({"response_nonce": "nonsense"}, ""),
    "a nonce of megabytes": ({"response_nonce": "x" * (2 << 20)}, ""),
    "a rejection of what was never sent": ({"response_nonce": "9-9", "error_detail": {"code": 3, "message": "x" * (1 << 20)}}, ""),
    "a rejection without a nonce": ({"error_detail": {"code": 3, "message": "bad"}}, ""),
    "a type that there is not": ({"type_url": "type.googleapis.com/nonsense"}, "unknown type"),
    "a type of megabytes": ({"type_url": "x" * (2 << 20)}, "unknown type"),
    "a type of other clients": ({"type_url": CLUSTER_TYPE, "resource_names_subscribe": ["x"]}, "unknown type"),
    "no type": ({"type_url": ""}, "unknown type"),
    "as many names as may be": ({"resource_names_subscribe": [f"n{number}" for number in range(MAX_KEYS)]}, ""),
    "a name too many": ({"resource_names_subscribe": [f"n{number}" for number in range(MAX_KEYS + 1)]}, "names subscribed to"),
    "names of megabytes": ({"resource_names_subscribe": ["x" * (2 << 20)]}, "name of more than"),
    "names that it never asked for": ({"resource_names_unsubscribe": [f"n{number}" for number in range(MAX_KEYS)]}, ""),
    "versions of what it cannot have": ({"initial_resource_versions": {f"n{number}": "1" for number in range(MAX_KEYS)}}, ""),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_nonsense_is_borne_or_ends_the_one_stream_that_it_came_by(tmp_path: Path, name: str) -> None:
    fields, why = GARBAGE[name]

    async def main(plane: Plane, good: Stream) -> None:
        async with plane.channel() as channel:
            stream = Stream(channel)
            await stream.start()
            await stream.ask(**{"type_url": ADDRESS_TYPE, **fields})
            if why:
                code, said = await ended(stream.call)
                assert (code, why in said, len(said) <= 1000) == (grpc.StatusCode.INVALID_ARGUMENT, True, True)
                assert await metric(plane, 'culvert_xds_cut_off_total{reason="protocol"}') == 1
                return
            plane.write("b.yaml", pod("b", "10.0.0.9"))
            await told(stream, "Kubernetes//Pod/shop/b")
            state = (await seen(plane, "n1"))["types"][ADDRESS_TYPE]
            assert (state["nacks"], state["error"]) == (0, None)
            await good.ack(await good.read())

    run(tmp_path, main)


def test_a_rejection_of_megabytes_is_kept_in_part(tmp_path: Path) -> None:
    async def main(plane: Plane, good: Stream) -> None:
        async with plane.channel() as channel:
            stream = Stream(channel)
            first = await stream.start()
            plane.write("b.yaml", pod("b", "10.0.0.9"))
            response = await stream.read()
            await stream.ack(response, "x" * (1 << 20))
            await stream.ack(first[ADDRESS_TYPE])  # an answer to an older one changes nothing
            await good.ack(await good.read())
            while not (state := (await seen(plane, "n1"))["types"][ADDRESS_TYPE])["nacks"]:
                await asyncio.sleep(0.01)
            assert (state["nacks"], len(state["error"]), state["synced"]) == (1, MAX_ERROR_TEXT, False)
            plane.write("b.yaml", pod("b", "10.0.0.10"))
            await stream.ack(await stream.read())
            await good.ack(await good.read())

    run(tmp_path, main)


@pytest.mark.parametrize("method", ["DeltaAggregatedResources", "StreamAggregatedResources"])
def test_bytes_that_are_no_message_end_the_stream(tmp_path: Path, method: str) -> None:
    async def main(plane: Plane, good: Stream) -> None:
        async with plane.channel() as channel:
            call: Any = channel.stream_stream(f"{METHODS}/{method}")(metadata=[("authorization", f"Bearer {TOKENS['n1']}")])  # type: ignore[call-arg]
            await call.write(b"\xff" * 1000)
            assert (await ended(call))[0] is not grpc.StatusCode.OK

    run(tmp_path, main)


def test_a_proxy_that_asks_for_what_there_is_not_leaves_nothing_behind(tmp_path: Path) -> None:
    """Names of a type that is not served are never worked on."""

    async def main(plane: Plane, good: Stream) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{plane.plane.ports['plaintext']}") as channel:
            call: Any = channel.stream_stream(
                f"{METHODS}/StreamAggregatedResources",
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )()  # type: ignore[call-arg]
            node = {"id": "x", "user_agent_name": "gRPC Python"}
            await call.write(discovery_pb2.DiscoveryRequest(type_url=CLUSTER_TYPE, node=node, resource_names=["nobody"]))
            await call.write(discovery_pb2.DiscoveryRequest(type_url="nonsense", resource_names=["a", "b"]))
            assert (await ended(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
            wanted = {ref.type_url for viewed in plane.plane.pipeline.proxies.views.values() for ref in viewed.wanted}
            assert wanted <= {CLUSTER_TYPE}
            assert await metric(plane, "pilot_total_xds_internal_errors") == 0

    run(tmp_path, main)
