"""What every gRPC client does with what our VirtualServices and DestinationRules become. A class of tests inherits it for each client.

A client by itself decides where a call goes, so that each of these is a promise that it and our encoding keep together; and whatever a test
does, nothing that it was sent may be rejected (`mesh_in`). What clients do not have in common is in classes of their own:

    Contract   clients of any kind
    Kept       clients that keep a channel over many calls
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.interop import plane
from tests.interop.grpc_callers import Caller
from tests.interop.grpc_echo import echo
from tests.interop.grpc_mesh import ADDRESSES, NODE_HOST, TARGET, Mesh, mesh_in, rule
from tests.interop.proxied import eventually

BOTH = {"v1", "v2"}
WHOLE = {"value": 100}
POLICIES: list[dict[str, Any]] = [
    {"loadBalancer": {"simple": "LEAST_REQUEST"}},
    {"loadBalancer": {"simple": "RANDOM"}},
    {"loadBalancer": {"simple": "PASSTHROUGH"}},
    {"loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "10s"}}},
    {"loadBalancer": {"localityLbSetting": {"failoverPriority": ["topology.kubernetes.io/zone"]}}},
    {"outlierDetection": {"consecutive5xxErrors": 1, "interval": "1s", "maxEjectionPercent": 100}},
    {"connectionPool": {"tcp": {"maxConnections": 1}, "http": {"http2MaxRequests": 100, "maxRetries": 1}}},
    {"tls": {"mode": "ISTIO_MUTUAL"}},
]
NOWHERE = {
    "no such subset": rule("v9"),
    "no such host": {"route": [{"destination": {"host": "nobody.shop.svc.cluster.local"}}]},
}


BACKENDS = "---".join(
    f"""
apiVersion: v1
kind: Service
metadata: {{name: reviews-{version}, namespace: shop}}
spec: {{clusterIP: 10.96.1.{number}, selector: {{app: reviews, version: {version}}}, ports: [{{port: 9080, name: grpc, targetPort: PORT}}]}}
"""
    for number, version in enumerate(ADDRESSES, 1)
)
GRPC_ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews}]
  rules:
  - matches: [{method: {service: echo.Echo, method: Say}, headers: [{name: end-user, value: jason}]}]
    backendRefs: [{name: reviews-v2, port: 9080}]
  - matches: [{method: {service: echo.Echo}}]
    backendRefs: [{name: reviews-v1, port: 9080}]
"""


class Contract(ABC):
    """`many`: calls that show a share. `waits`: the client waits for a connection, to whatever it be, before it calls."""

    many = 400
    waits = False

    @abstractmethod
    def client(self, mesh: Mesh, target: str = TARGET) -> AbstractContextManager[Caller]: ...

    @pytest.fixture
    def mesh(self, tmp_path: Path) -> Iterator[Mesh]:
        with mesh_in(tmp_path) as mesh:
            yield mesh

    def test_without_routes_all_endpoints_are_called(self, mesh: Mesh) -> None:
        with self.client(mesh) as caller:
            assert caller.calls(40).keys() == BOTH

    def test_short_names_are_those_of_dns(self, mesh: Mesh) -> None:
        with self.client(mesh, "xds:///reviews:9080") as caller:
            assert caller.call() in BOTH

    def test_weights_headers_and_changes_of_them(self, mesh: Mesh) -> None:
        mesh.route(rule("v2", when={"end-user": {"exact": "jason"}}), rule(("v1", 80), ("v2", 20)))
        with self.client(mesh) as caller:
            assert caller.calls(20, end_user="jason") == {"v2": 20}
            found = caller.calls(self.many)
            assert found.keys() == BOTH
            # Five standard deviations.
            assert abs(found["v1"] - 0.8 * self.many) < 2 * self.many**0.5, found
            mesh.route(rule("v1"))
            eventually(lambda: caller.calls(10) == {"v1": 10}, "everything to v1")

    def test_matches(self, mesh: Mesh) -> None:
        mesh.route(
            rule("v2", match=[{"uri": {"prefix": "/echo.Other/"}}]),
            rule("v2", when={"x-user": {"prefix": "b"}}),
            rule("v2", when={"x-kind": {"regex": "[0-9]+"}}),
            rule("v1", match=[{"uri": {"exact": "/echo.Echo/Say"}, "withoutHeaders": {"x-no": {"exact": "no"}}}]),
        )
        with self.client(mesh) as caller:
            assert caller.call(x_user="bob") == "v2"
            assert caller.call(x_user="ann") == "v1"
            assert caller.call(x_kind="42") == "v2"
            assert caller.call(x_kind="4x") == "v1"
            assert caller.call(x_no="no").startswith("UNAVAILABLE"), "there is no route"

    def test_routes_of_the_gateway_api(self, mesh: Mesh) -> None:
        mesh.running.put(backends=BACKENDS.replace("PORT", str(mesh.servers["v1"].port)), routes=GRPC_ROUTE)
        with self.client(mesh) as caller:
            assert caller.calls(10, end_user="jason") == {"v2": 10}
            assert caller.calls(10) == {"v1": 10}

    def test_a_service_with_a_waypoint_is_called_at_its_address(self, mesh: Mesh) -> None:
        """Where, in a mesh, the tunnel of the client's node takes the call to the waypoint. What is written about it is not done before."""
        mesh.running.put(waypoint=plane.WAYPOINT)
        mesh.route(rule("v1"))
        with echo("node", NODE_HOST) as node:
            target = mesh.address(NODE_HOST, node.port)
            with self.client(mesh, target) as caller:
                assert caller.calls(5) == {"v1": 5}
                mesh.address(NODE_HOST, node.port, "istio.io/use-waypoint: waypoint")
                eventually(lambda: caller.calls(10) == {"node": 10}, "everything to its address")
                mesh.route(rule("v2", fault={"abort": {"grpcStatus": "RESOURCE_EXHAUSTED", "percentage": WHOLE}}))
                mesh.balance({"outlierDetection": {"consecutive5xxErrors": 1}})
                node.failures = 1
                assert caller.call() == "UNAVAILABLE: not now", "nobody tries again"
                assert caller.calls(10) == {"node": 10}
                mesh.route(rule("v2"))
                mesh.address(NODE_HOST, node.port)
                eventually(lambda: caller.calls(10) == {"v2": 10}, "it has no waypoint any more")

    def test_retries(self, mesh: Mesh) -> None:
        mesh.route(rule("v1", retries={"attempts": 3, "retryOn": "unavailable"}))
        with self.client(mesh) as caller:
            mesh.servers["v1"].failures = 2
            assert caller.call() == "v1"
            assert mesh.servers["v1"].calls == 3
            mesh.route(rule("v1", retries={"attempts": 0}))

            def fails() -> bool:
                mesh.servers["v1"].failures = 1
                return caller.call() == "UNAVAILABLE: not now"

            eventually(fails, "no retries")

    def test_endpoints_come_and_go(self, mesh: Mesh) -> None:
        with self.client(mesh) as caller:
            assert caller.calls(20).keys() == BOTH
            mesh.move("v1")
            eventually(lambda: caller.calls(10) == {"v1": 10}, "v2 is gone")
            mesh.move("v2")
            eventually(lambda: caller.calls(10) == {"v2": 10}, "v2 is back, and v1 is gone")

    def test_a_call_that_is_under_way_goes_where_the_endpoints_are_now(self, mesh: Mesh) -> None:
        mesh.move("v1")
        retries = {"attempts": 4, "retryOn": "unavailable", "backoff": "300ms"}
        mesh.route(rule("all", retries=retries))
        mesh.servers["v1"].failures = 1000
        with self.client(mesh) as caller, ThreadPoolExecutor(1) as executor:
            answer = executor.submit(caller.call)
            eventually(lambda: mesh.servers["v1"].calls > 0, "the first attempt")
            mesh.move("v2")
            assert answer.result() == "v2"

    def test_timeouts(self, mesh: Mesh) -> None:
        mesh.route(rule("v1", when={"x-free": {"exact": "yes"}}), rule("v1", timeout="0.8s"))
        with self.client(mesh) as caller:
            assert caller.call(x_free="yes", x_slow="1") == "v1"
            assert caller.call() == "v1"
            began = time.monotonic()
            assert caller.call(x_slow="5").startswith("DEADLINE_EXCEEDED")
            assert 0.7 < time.monotonic() - began < 4.5

    def test_faults(self, mesh: Mesh) -> None:
        faults = {
            "code": {"abort": {"grpcStatus": "RESOURCE_EXHAUSTED", "percentage": WHOLE}},
            "status": {"abort": {"httpStatus": 404, "percentage": WHOLE}},
            "delay": {"delay": {"fixedDelay": "0.4s", "percentage": WHOLE}},
        }
        mesh.route(*(rule("v1", when={"x-fault": {"exact": name}}, fault=fault) for name, fault in faults.items()), rule("v1"))
        with self.client(mesh) as caller:
            assert caller.call() == "v1"
            assert caller.call(x_fault="code").startswith("RESOURCE_EXHAUSTED")
            assert caller.call(x_fault="status").startswith("UNIMPLEMENTED")
            began = time.monotonic()
            assert caller.call(x_fault="delay") == "v1"
            assert time.monotonic() - began > 0.35

    def test_what_a_client_cannot_do_fails(self, mesh: Mesh) -> None:
        mesh.route(
            rule(when={"x-to": {"exact": "denied"}}, directResponse={"status": 403}),
            rule(when={"x-to": {"exact": "moved"}}, redirect={"authority": "elsewhere.example.com"}),
            rule("v1"),
        )
        with self.client(mesh) as caller:
            assert caller.call() == "v1"
            assert caller.call(x_to="denied").startswith("PERMISSION_DENIED")
            assert caller.call(x_to="moved").startswith("UNAVAILABLE")

    def test_where_nothing_is_calls_fail_at_once_and_hold_up_no_others(self, mesh: Mesh) -> None:
        nowhere = ({"match": [{"headers": {"x-to": {"exact": where}}}], **to} for where, to in NOWHERE.items())
        mesh.route(*nowhere, rule("v1"))
        with self.client(mesh) as caller:
            assert caller.call() == "v1"
            for where in NOWHERE:
                began = time.monotonic()
                assert caller.call(x_to=where).startswith("UNAVAILABLE")
                assert time.monotonic() - began < 5

    def test_a_header_keeps_its_server(self, mesh: Mesh) -> None:
        mesh.balance({"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}, subset="all")
        # A ring connects to nobody before it has a call.
        others = [rule("v1")] if self.waits else []
        mesh.route(rule("all", when={"x-user": {"prefix": "user"}}), *others)
        with self.client(mesh) as caller:
            found = [caller.calls(3, x_user=f"user-{number}") for number in range(20)]
            assert all(len(servers) == 1 for servers in found), found
            assert set().union(*found) == BOTH

    def test_every_policy_is_taken(self, mesh: Mesh) -> None:
        with self.client(mesh) as caller:
            for policy in POLICIES:
                mesh.balance(policy)
                assert caller.call(x_user="ann") in BOTH, policy
                mesh.nothing_rejected()

    @pytest.mark.parametrize(
        ("endpoints", "server"),
        [
            ("{address: localhost}", "outside"),
            ("{address: localhost}, {address: nobody.invalid}", "outside"),
            ("{address: 127.0.0.21}", "v1"),
        ],
        ids=["one name", "two names", "an address"],
    )
    def test_hosts_outside_that_clients_look_up(self, mesh: Mesh, endpoints: str, server: str) -> None:
        with echo("outside", "127.0.0.1", mesh.servers["v1"].port) as outside:
            mesh.running.put(
                outside=f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside, namespace: shop}}
spec:
  hosts: [outside.example.com]
  ports: [{{number: 9080, name: grpc, protocol: GRPC, targetPort: {outside.port}}}]
  resolution: DNS
  endpoints: [{endpoints}]
"""
            )
            with self.client(mesh, "xds:///outside.example.com:9080") as caller:
                assert caller.calls(5) == {server: 5}


class Kept(Contract):
    """A channel that lasts can be asked before it has a connection, and counts what goes on in it."""

    @pytest.mark.parametrize("where", NOWHERE)
    def test_where_nothing_is_at_all_calls_fail_at_once(self, mesh: Mesh, where: str) -> None:
        mesh.route(NOWHERE[where])
        with self.client(mesh) as caller:
            assert caller.call().startswith("UNAVAILABLE")

    def test_more_calls_than_are_allowed_at_once_fail(self, mesh: Mesh) -> None:
        mesh.balance({"connectionPool": {"http": {"http2MaxRequests": 2}}})
        mesh.route(rule("v1"))
        with self.client(mesh) as caller:
            caller.call()
            codes = Counter(answer.partition(":")[0] for answer in caller.calls(6, together=True, x_slow="0.5").elements())
            assert codes == {"v1": 2, "UNAVAILABLE": 4}
