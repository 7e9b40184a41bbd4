"""Leaders, statuses and events on a real API server."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from control.kube.access import Access
from control.kube.client import Api
from control.kube.conditions import Condition, Listener, Parent, Wanted
from control.kube.elector import Elector
from control.kube.events import Announcer, Subject
from control.kube.lease import Timing
from control.kube.status import StatusWriter
from mesh.model.manifest import Key
from tests.cluster import apiserver
from tests.cluster.apiserver import ApiServer
from tests.cluster.faultproxy import FaultProxy
from tests.cluster.faults import call, status
from tests.cluster.kubernetes import Background, Follower, crd, establish
from tests.cluster.processes import eventually

pytestmark = pytest.mark.cluster
ROUTES, GATEWAYS, POLICIES = (
    "httproutes.gateway.networking.k8s.io",
    "gateways.gateway.networking.k8s.io",
    "authorizationpolicies.security.istio.io",
)
TIMING = Timing(lease=3.0, renew=2.0, retry=0.3)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/culvert-control"
ACCEPTED = Condition("Accepted", "True", "Accepted", "fine")
THEIRS = {"type": "Theirs", "status": "True", "reason": "Because", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}

CANDIDATE = """
import asyncio, sys
from pathlib import Path
from control.kube.access import Access
from control.kube.client import Api
from control.kube.elector import Elector
from control.kube.lease import Timing

async def main():
    api = Api(Access(Path(sys.argv[1])))
    timing = Timing(3.0, 2.0, 0.3)
    await Elector(api, sys.argv[2], sys.argv[3], timing=timing, changed=lambda leading: print(leading, flush=True)).run()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With our CRDs."""
    with apiserver.running(tmp_path_factory.mktemp("leader")) as server:
        establish(server, crd(ROUTES), crd(GATEWAYS), crd(POLICIES))
        yield server


# Leaders


def _holder(server: ApiServer, namespace: str) -> str:
    spec: dict[str, Any] = server.get(LEASES.format(namespace))["spec"]
    return str(spec.get("holderIdentity", ""))


def _candidate(server: ApiServer, namespace: str, name: str) -> subprocess.Popen[str]:
    command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-c", CANDIDATE, str(server.kubeconfig), namespace, name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_leader_is_killed_and_another_one_follows(server: ApiServer, namespace: str) -> None:
    one = _candidate(server, namespace, "one")
    assert one.stdout is not None
    assert one.stdout.readline() == "True\n"
    two = _candidate(server, namespace, "two")
    assert two.stdout is not None
    try:
        time.sleep(1.0)
        assert _holder(server, namespace) == "one"
        one.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert two.stdout.readline() == "True\n"
        waited = time.monotonic() - killed
        assert TIMING.lease - TIMING.retry * TIMING.JITTER - 0.5 < waited < TIMING.lease + 5.0, (
            "not before the lease was over, and then soon"
        )
        assert _holder(server, namespace) == "two"
        lease = server.get(LEASES.format(namespace))["spec"]
        assert (lease["leaseTransitions"], lease["leaseDurationSeconds"]) == (1, 3)
    finally:
        for process in (one, two):
            process.kill()
            process.communicate()


def test_a_leader_that_ends_in_order_lets_go(server: ApiServer, namespace: str) -> None:
    told: list[tuple[str, bool, float]] = []
    apis: list[Api] = []

    def candidate(name: str) -> Elector:
        def changed(leading: bool) -> None:
            told.append((name, leading, time.monotonic()))

        apis.append(Api(Access(server.kubeconfig)))
        return Elector(apis[-1], namespace, name, timing=TIMING, changed=changed)

    async def test() -> None:
        tasks = {name: asyncio.create_task(candidate(name).run()) for name in ("one", "two", "three")}
        for _ in range(3):
            while not told or not told[-1][1]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            task = tasks.pop(told[-1][0])
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for api in apis:
            await api.close()

    asyncio.run(test())
    assert [leading for _, leading, _ in told] == [True, False] * 3, "never two, and each told when it was over"
    assert len({name for name, _, _ in told}) == 3
    assert all(then[2] - now[2] < TIMING.lease / 2 for now, then in zip(told[1:-1:2], told[2::2], strict=True))


def test_a_server_that_is_away_makes_nobody_leader_twice(private_server: ApiServer) -> None:
    server = private_server
    name = server.make_namespace()
    with Background() as background:
        api = background.connect(server.kubeconfig)
        electors = [background.call(lambda number=number: Elector(api, name, f"e{number}", timing=TIMING)) for number in range(2)]
        for elector in electors:
            background.start(elector.run())
        eventually("a leader", lambda: any(elector.leading for elector in electors))
        server.stop()
        stopped = time.monotonic()
        eventually("the leader to stop", lambda: not any(elector.leading for elector in electors))
        assert time.monotonic() - stopped < TIMING.renew + 0.5
        server.start()
        eventually("a leader", lambda: any(elector.leading for elector in electors), 30)
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            assert sum(elector.leading for elector in electors) <= 1
            time.sleep(0.01)


# Statuses


class Always:
    leading = True


class Writing(Follower):
    """A source and a writer of statuses over it."""

    def __enter__(self) -> Writing:
        super().__enter__()
        self.leadership = Always()
        self.writer = self.call(self._writer)
        self.start(self.writer.run())
        self.synced()
        return self

    def _writer(self) -> StatusWriter:
        writer = StatusWriter(self.api, self.source, self.leadership)
        self.source.watch_live(writer.look)
        return writer

    def want(self, key: Key, wanted: Wanted) -> None:
        self.call(self.writer.want, key, wanted)


def _route(name: str, namespace: str) -> dict[str, Any]:
    spec = {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def _policy(name: str, namespace: str) -> dict[str, Any]:
    head = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
    return {**head, "metadata": {"name": name, "namespace": namespace}, "spec": {"action": "DENY", "rules": [{}]}}


def _proxied(server: ApiServer) -> FaultProxy:
    return FaultProxy(server.url, server.ca, server.pki.server("proxy", ["127.0.0.1"]))


def test_a_status_is_written_once_and_people_can_wait_for_it(server: ApiServer, namespace: str) -> None:
    path = f"/apis/security.istio.io/v1/namespaces/{namespace}/authorizationpolicies/deny/status"
    patches = call("PATCH", path)
    with _proxied(server) as proxy, Writing(server.admin_kubeconfig(proxy.url)) as writing:
        server.apply([_policy("deny", namespace)])
        key = Key("AuthorizationPolicy", namespace, "deny")
        writing.eventually("the policy", lambda: writing.source.live(key))
        story = len(writing.sink.story)
        writing.want(key, Wanted(1, (ACCEPTED, Condition("Enforced", "False", "NeedsWaypoint", "it has rules for requests"))))
        server.kubectl("wait", "-n", namespace, "authorizationpolicy/deny", "--for=condition=Accepted", "--timeout=20s")
        server.kubectl("wait", "-n", namespace, "authorizationpolicy/deny", "--for=condition=Enforced=false", "--timeout=20s")
        for _ in range(3):
            writing.want(key, Wanted(1, (ACCEPTED, Condition("Enforced", "False", "NeedsWaypoint", "it has rules for requests"))))
            writing.call(writing.writer.look, key)
            time.sleep(0.5)
        assert proxy.count(patches) == 1
        assert len(writing.sink.story) == story, "our own status is no news of the object"
        value = server.get(path.removesuffix("/status"))
        first = {one["type"]: one for one in value["status"]["conditions"]}
        assert first["Accepted"]["observedGeneration"] == 1
        assert value["metadata"]["generation"] == 1
        manager = next(one for one in value["metadata"]["managedFields"] if one.get("subresource") == "status")
        assert manager["manager"] == "culvert.dev/control"

        time.sleep(1.0)
        writing.want(key, Wanted(1, (ACCEPTED, Condition("Enforced", "True", "Enforced"))))
        server.kubectl("wait", "-n", namespace, "authorizationpolicy/deny", "--for=condition=Enforced", "--timeout=20s")
        second = {one["type"]: one for one in server.get(path.removesuffix("/status"))["status"]["conditions"]}
        assert second["Accepted"] == first["Accepted"]
        assert second["Enforced"]["lastTransitionTime"] > first["Enforced"]["lastTransitionTime"]
        assert proxy.count(patches) == 2


def test_routes_keep_what_other_controllers_say(server: ApiServer, namespace: str) -> None:
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/web"
    key = Key("HTTPRoute", namespace, "web")
    server.apply([_route("web", namespace)])
    theirs = {
        "parentRef": {"name": "gw"},
        "controllerName": "example.net/controller",
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        ],
    }
    with Writing(server.kubeconfig) as writing:
        server.api.patch(f"{path}/status", {"status": {"parents": [theirs]}})
        writing.eventually("the route", lambda: (live := writing.source.live(key)) and live.status)
        writing.want(key, Wanted(1, parents=(Parent({"name": "gw"}, (ACCEPTED, Condition("ResolvedRefs", "True", "ResolvedRefs"))),)))
        eventually("both", lambda: len(server.get(path)["status"]["parents"]) == 2)
        parents = {one["controllerName"]: one for one in server.get(path)["status"]["parents"]}
        assert parents["example.net/controller"]["conditions"] == theirs["conditions"]
        assert [one["type"] for one in parents["culvert.dev/control"]["conditions"]] == ["Accepted", "ResolvedRefs"]
        # They write as we do, and do not know of us: what they took away comes back.
        server.api.patch(f"{path}/status", {"status": {"parents": [theirs]}})
        eventually("ours to be back", lambda: len(server.get(path)["status"]["parents"]) == 2)


def test_a_gateway_says_its_addresses_and_listeners(server: ApiServer, namespace: str) -> None:
    key = Key("Gateway", namespace, "gw")
    spec = {"gatewayClassName": "istio-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]}
    head = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway"}
    server.apply([{**head, "metadata": {"name": "gw", "namespace": namespace}, "spec": spec}])
    with Writing(server.kubeconfig) as writing:
        kind = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}
        listener = Listener("mesh", 2, (kind,), (ACCEPTED, Condition("Programmed", "True", "Programmed")))
        addresses = [{"type": "IPAddress", "value": "10.96.3.4"}]
        programmed = Condition("Programmed", "True", "Programmed")
        type_ = next(name for name in ("Gateway", "GatewayAPI") if writing.source.kind(name))
        writing.want(Key(type_, *key[1:]), Wanted(1, (ACCEPTED, programmed), listeners=(listener,), fields={"addresses": addresses}))
        server.kubectl("wait", "-n", namespace, f"{GATEWAYS}/gw", "--for=condition=Programmed", "--timeout=20s")
        value = server.get(f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/gw")["status"]
        assert value["addresses"] == addresses
        assert value["listeners"][0]["attachedRoutes"] == 2


def test_after_a_change_of_leader_nothing_is_written_that_is_there(server: ApiServer, namespace: str) -> None:
    keys = [Key("AuthorizationPolicy", namespace, f"p{number}") for number in range(30)]
    server.apply([_policy(key.name, namespace) for key in keys])
    wanted = {key: Wanted(1, (ACCEPTED,)) for key in keys}
    patches = call("PATCH")
    with _proxied(server) as proxy:
        for life in range(2):
            with Writing(server.admin_kubeconfig(proxy.url)) as writing:
                writing.eventually("the policies", lambda writing=writing: all(writing.source.live(key) for key in keys))
                for key, value in wanted.items():
                    writing.want(key, value)
                if life == 0:
                    eventually("all to be written", lambda: proxy.count(patches) == 30)
                else:
                    time.sleep(1.0)
                    assert proxy.count(patches) == 30


def test_a_conflict_is_decided_anew(server: ApiServer, namespace: str) -> None:
    path = f"/apis/security.istio.io/v1/namespaces/{namespace}/authorizationpolicies/deny"
    key = Key("AuthorizationPolicy", namespace, "deny")
    server.apply([_policy("deny", namespace)])
    with _proxied(server) as proxy, Writing(server.admin_kubeconfig(proxy.url)) as writing:
        writing.eventually("the policy", lambda: writing.source.live(key))
        patch = call("PATCH", f"{path}/status")
        # The watch is held up, so that what we know is old when we write.
        proxy.inject(status(503, "ServiceUnavailable"), call("WATCH", "/apis/security.istio.io/v1/authorizationpolicies"), 3)
        proxy.cut(call("WATCH", "/apis/security.istio.io/v1/authorizationpolicies"))
        server.api.patch(f"{path}/status", {"status": {"conditions": [THEIRS]}})
        writing.want(key, Wanted(1, (ACCEPTED,)))
        eventually("both", lambda: [one["type"] for one in server.get(path)["status"]["conditions"]] == ["Theirs", "Accepted"])
        assert proxy.count(patch) >= 2


# Events


def test_an_event_is_shown_with_its_object(server: ApiServer, namespace: str) -> None:
    server.apply([_policy("deny", namespace)])
    value = server.get(f"/apis/security.istio.io/v1/namespaces/{namespace}/authorizationpolicies/deny")
    subject = Subject("security.istio.io/v1", "AuthorizationPolicy", namespace, "deny", value["metadata"]["uid"])

    def events() -> list[dict[str, Any]]:
        return server.api.items(f"/api/v1/namespaces/{namespace}/events")

    with Background() as background:
        for life in range(2):
            api = background.connect(server.kubeconfig)
            announcer = background.call(lambda api=api: Announcer(api, Always(), "pod-1"))
            background.start(announcer.run())
            for generation in (1, 2) if life == 0 else (2,):
                background.call(announcer.report, subject, "Refused", "spec.rulez is not accepted", generation)
                eventually("the event", lambda generation=generation: [one["count"] for one in events()] == [generation])
        time.sleep(0.3)
    (event,) = events()
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "Refused", 2), "the second leader found it said"
    described = server.kubectl("describe", "-n", namespace, "authorizationpolicy/deny")
    assert "spec.rulez is not accepted" in described
