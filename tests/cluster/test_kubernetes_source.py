"""The source against a real API server and etcd: what ends a watch, what comes and goes, and a proxy between them that misbehaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import apiserver
from tests.cluster.apiserver import ApiServer
from tests.cluster.faultproxy import FaultProxy
from tests.cluster.faults import Cut, Delay, Fault, Silence, Stale, call, error, gone, gone_event, status, too_many
from tests.cluster.kubernetes import Follower, crd, delete_pod, establish, make_pod, retry, run_pod, slow
from tests.control.keeping import damage

pytestmark = pytest.mark.cluster
POLICIES = "authorizationpolicies.security.istio.io"
PODS = "/api/v1/pods"


def policy(name: str, namespace: str, spec: dict[str, Any] | None = None, version: str = "v1") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": f"security.istio.io/{version}",
        "kind": "AuthorizationPolicy",
        "metadata": metadata,
        "spec": spec or {"action": "DENY", "rules": [{}]},
    }


@pytest.fixture
def follower(server: ApiServer) -> Iterator[Follower]:
    with Follower(server.kubeconfig) as follower:
        follower.synced()
        yield follower


def test_what_there_is_and_what_becomes_of_it(server: ApiServer, namespace: str, follower: Follower) -> None:
    make_pod(server, namespace, "web")
    run_pod(server, namespace, "web", "10.1.2.3")
    spec = {"selector": {"app": "x"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    server.api.post(f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": "web"}, "spec": spec})
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    endpoint = {"addresses": ["10.1.2.3"], "conditions": {"ready": True}, "nodeName": "n1"}
    server.api.post(slices, {"metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": [endpoint], "ports": [{"port": 8080}]})
    follower.eventually("the pod's address", lambda: [str(ip) for ip in follower.pod(f"{namespace}/web").status.addresses] == ["10.1.2.3"])
    follower.agrees(server)
    assert follower.pod(f"{namespace}/web").status.ready
    (service,) = follower.sink.held[f"services/{namespace}/web"].objects
    assert str(service.spec.addresses[0]).startswith("10.96.")  # type: ignore[attr-defined]
    delete_pod(server, namespace, "web")
    follower.agrees(server)


def test_pages_of_a_real_server(server: ApiServer, namespace: str) -> None:
    for number in range(25):
        make_pod(server, namespace, f"p{number}")
    with Follower(server.kubeconfig, slow(page=4)) as follower:
        follower.synced()
        follower.agrees(server)


def test_compaction(tmp_path: Path) -> None:
    """Every watch reads etcd itself here, so a compaction while we are away is 410 when we come back."""
    with apiserver.running(tmp_path, watch_cache=False) as server, _proxy(server) as proxy:
        name = server.make_namespace()
        for pod_name in ("stays", "goes"):
            make_pod(server, name, pod_name)
        with Follower(server.admin_kubeconfig(proxy.url)) as follower:
            follower.synced()
            follower.agrees(server)
            proxy.refuse()
            follower.eventually("it to notice", lambda: follower.source.state.stale_since)
            delete_pod(server, name, "goes")
            make_pod(server, name, "comes")
            server.etcd.compact()
            mark = len(follower.sink.story)
            proxy.accept()
            follower.synced()
            follower.agrees(server)
            assert follower.meter.counts["listed", "pods", "expired"] == 1
            assert sorted(follower.sink.story[mark:]) == [("put", f"pods/{name}/comes"), ("remove", f"pods/{name}/goes")]


def test_restarts_of_the_api_server_and_of_etcd(private_server: ApiServer) -> None:
    server = private_server
    name = server.make_namespace()
    make_pod(server, name, "a")
    with Follower(server.kubeconfig) as follower:
        follower.synced()
        restarts = {
            "API server": server.restart,
            "API server, killed": lambda: (server.kill(), server.start()),
            "etcd": server.etcd.restart,
            "etcd, killed": lambda: (server.etcd.kill(), server.etcd.start()),
            "everything, all versions expired": server.expire,
        }
        for number, (what, restart) in enumerate(restarts.items()):
            mark = len(follower.sink.story)
            restart()
            retry(lambda number=number: make_pod(server, name, f"b{number}"))
            follower.eventually(
                f"the pod that was made after a restart: {what}", lambda number=number: f"{name}/b{number}" in follower.sink.of("pods"), 30
            )
            follower.synced()
            follower.agrees(server)
            assert [what for what, _ in follower.sink.story[mark:] if what == "remove"] == [], "nothing was taken for gone meanwhile"


def test_kinds_appear_later_change_their_version_and_go(private_server: ApiServer) -> None:
    server = private_server
    name = server.make_namespace()
    with Follower(server.kubeconfig) as follower:
        follower.synced()
        establish(server, crd(POLICIES, ("v1beta1",), storage="v1beta1"))
        retry(lambda: server.apply([policy("deny", name, version="v1beta1")]))
        follower.eventually("the policy", lambda: follower.sink.of(POLICIES) == {f"{name}/deny"})
        assert follower.source.state.synced
        kind = follower.source.kind("AuthorizationPolicy")
        assert kind is not None
        assert kind.version == "v1beta1"

        server.apply([crd(POLICIES, ("v1", "v1beta1"), storage="v1beta1")])
        follower.eventually("the better version", lambda: (found := follower.source.kind("AuthorizationPolicy")) and found.version == "v1")
        server.apply([policy("other", name)])
        follower.eventually("the other policy", lambda: follower.sink.of(POLICIES) == {f"{name}/deny", f"{name}/other"})
        follower.synced()

        server.apply([crd(POLICIES, ("v1",), storage="v1beta1")])
        server.apply([policy("third", name)])
        follower.eventually("the third policy", lambda: len(follower.sink.of(POLICIES)) == 3)
        assert ("remove", f"{POLICIES}/{name}/deny") not in follower.sink.story

        server.restart()
        follower.synced()
        assert len(follower.sink.of(POLICIES)) == 3, "a server that has just started and does not list the kind has not lost it"

        server.kubectl("delete", "crd", POLICIES, "--wait=false")
        follower.eventually("the kind to be gone", lambda: follower.source.kind("AuthorizationPolicy") is None, 30)
        assert follower.sink.of(POLICIES) == set()
        follower.synced()


def test_what_the_parser_refuses_is_handed_over_as_refused(private_server: ApiServer) -> None:
    """Behind a schema that takes anything, as somebody else's CRD may be."""
    server = private_server
    name = server.make_namespace()
    establish(server, crd(POLICIES, loose=True))
    with Follower(server.kubeconfig) as follower:
        follower.synced()
        retry(lambda: server.apply([policy("bad", name, {"action": "DENY", "rulez": [{}]}), policy("good", name)]))
        follower.eventually("both", lambda: follower.sink.of(POLICIES) == {f"{name}/bad", f"{name}/good"})
        parsed = follower.sink.held[f"{POLICIES}/{name}/bad"]
        assert parsed.objects == ()
        (refused,) = parsed.refused
        assert (refused.refusals[0].field, refused.namespace, refused.name, refused.policy) == ("spec.rulez", name, "bad", True)
        assert follower.sink.held[f"{POLICIES}/{name}/good"].refused == ()


FAULTS: dict[str, tuple[Fault, str, int | None]] = {
    "watches are cut after an event": (Cut(events=1), "WATCH", 8),
    "watches are cut within a line": (Cut(events=1, half_line=True), "WATCH", 6),
    "watches are cut within a line, at once": (Cut(after_bytes=10), "WATCH", 6),
    "lists are cut": (Cut(after_bytes=100), "LIST", 4),
    "lists are throttled": (too_many(1), "LIST", 2),
    "watches are throttled": (too_many(1), "WATCH", 2),
    "lists fail": (error(), "LIST", 3),
    "watches fail": (error(), "WATCH", 3),
    "lists are gone": (gone(), "LIST", 2),
    "watches are gone": (gone_event(), "WATCH", 3),
    "everything is slow": (Delay(0.3), "", None),
    "another kind of server answers": (status(200, "", "hello"), "", 5),
}


@pytest.mark.parametrize("name", FAULTS)
def test_misbehaviour(server: ApiServer, namespace: str, fault_proxy: FaultProxy, name: str) -> None:
    fault, verb, times = FAULTS[name]
    make_pod(server, namespace, "first")
    with Follower(server.admin_kubeconfig(fault_proxy.url)) as follower:
        if verb == "WATCH":
            follower.synced()
        rule = fault_proxy.inject(fault, call(verb, PODS), times)
        fault_proxy.cut(call("WATCH", PODS))
        for number in range(12):
            make_pod(server, namespace, f"p{number}")
            run_pod(server, namespace, f"p{number}", f"10.9.0.{number}")
            if number % 3 == 0:
                delete_pod(server, namespace, f"p{number}")
            time.sleep(0.05)
        follower.eventually("the faults to have happened", lambda: rule.hits >= (times or 2), 30)
        follower.synced(60)
        follower.agrees(server)
        for number in (1, 2, 11):
            assert [str(ip) for ip in follower.pod(f"{namespace}/p{number}").status.addresses] == [f"10.9.0.{number}"]


def test_stale_lists_undo_nothing(server: ApiServer, namespace: str, fault_proxy: FaultProxy) -> None:
    make_pod(server, namespace, "goes")
    with Follower(server.admin_kubeconfig(fault_proxy.url)) as follower:
        stale = fault_proxy.inject(Stale(), call("LIST", PODS))
        follower.synced()
        delete_pod(server, namespace, "goes")
        make_pod(server, namespace, "comes")
        follower.agrees(server)
        mark = len(follower.sink.story)
        fault_proxy.inject(gone_event(), call("WATCH", PODS), 1)
        fault_proxy.cut(call("WATCH", PODS))
        follower.eventually("stale lists", lambda: follower.meter.total("stale", "pods") >= 2)
        assert "older than" in follower.source.state.error
        assert follower.sink.story[mark:] == []
        stale.remove()
        follower.synced()
        follower.agrees(server)
        assert follower.sink.story[mark:] == []


def test_a_connection_that_is_dead_without_a_sign(server: ApiServer, namespace: str, fault_proxy: FaultProxy) -> None:
    with Follower(server.admin_kubeconfig(fault_proxy.url), slow(watch=2.0, silence=1.0)) as follower:
        follower.synced()
        silence = fault_proxy.inject(Silence(), call("WATCH", PODS), 1)
        fault_proxy.cut(call("WATCH", PODS))
        follower.eventually("the silence", lambda: silence.hits == 1)
        make_pod(server, namespace, "a")
        follower.eventually("the pod", lambda: f"{namespace}/a" in follower.sink.of("pods"))


def test_an_object_that_changes_all_the_time(server: ApiServer, namespace: str, follower: Follower) -> None:
    make_pod(server, namespace, "busy")
    for number in range(300):
        run_pod(server, namespace, "busy", f"10.8.{number // 250}.{number % 250}")
    follower.eventually("the last address", lambda: [str(ip) for ip in follower.pod(f"{namespace}/busy").status.addresses] == ["10.8.1.49"])
    follower.agrees(server)


def test_missing_permissions_are_said(server: ApiServer, namespace: str) -> None:
    server.make_account(namespace, "nobody")
    with Follower(server.kubeconfig_for(namespace, "nobody")) as follower:
        follower.eventually(
            "it to be said",
            lambda: "the role needs the verb 'get' on 'customresourcedefinitions.apiextensions.k8s.io'" in follower.source.state.error,
        )
        assert not follower.source.state.synced
        bind = ["create", "clusterrolebinding", f"see-{namespace}", "--clusterrole=view-all", f"--serviceaccount={namespace}:nobody"]
        server.kubectl("create", "clusterrole", "view-all", "--verb=get,list,watch", "--resource=*.*", check=False)
        server.kubectl(*bind)
        follower.synced(60)


def test_a_credential_that_ends_is_read_anew(server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig whose token is replaced on disk, as by whoever rotates it."""
    monkeypatch.setattr("control.kube.client.RELOAD_PAUSE", 0.5)
    server.make_account(namespace, "reader")
    server.kubectl(
        "create", "clusterrolebinding", f"read-{namespace}", "--clusterrole=cluster-admin", f"--serviceaccount={namespace}:reader"
    )
    kubeconfig = server.kubeconfig_for(namespace, "reader")
    good = kubeconfig.read_bytes()
    with Follower(kubeconfig) as follower:
        follower.synced()
        kubeconfig.write_bytes(good.replace(b"token: ", b"token: x"))
        follower.run(follower.api.reload())
        follower.eventually("it to be refused", lambda: "does not accept our credential" in follower.source.state.error)
        kubeconfig.write_bytes(good)
        follower.synced(30)


def test_it_serves_what_it_had_when_it_starts_without_an_api_server(private_server: ApiServer, tmp_path: Path) -> None:
    server = private_server
    name = server.make_namespace()
    for pod_name in ("a", "b"):
        make_pod(server, name, pod_name)
    establish(server, crd(POLICIES))
    retry(lambda: server.apply([policy("deny", name)]))
    with Follower(server.kubeconfig, keep=tmp_path / "keep.db") as follower:
        follower.synced()
        follower.eventually("the policy", lambda: follower.sink.of(POLICIES) == {f"{name}/deny"})
        follower.agrees(server)
        pods = follower.sink.of("pods")
    delete_pod(server, name, "a")
    server.stop()
    with Follower(server.kubeconfig, keep=tmp_path / "keep.db") as follower:
        follower.eventually("what was kept to count", lambda: follower.source.state.synced)
        assert follower.source.state.stale_since is not None
        assert follower.sink.of("pods") == pods
        assert follower.sink.of(POLICIES) == {f"{name}/deny"}
        server.start()
        follower.synced(30)
        follower.agrees(server)


def test_what_it_keeps_is_all_there_again_after_the_file_was_damaged(private_server: ApiServer, tmp_path: Path) -> None:
    server = private_server
    name = server.make_namespace()
    make_pod(server, name, "a")
    with Follower(server.kubeconfig, keep=tmp_path / "keep.db") as follower:
        follower.synced()
        keeper = follower.keeper
        assert keeper is not None
        follower.eventually("it to be kept", lambda: not keeper.book("kubernetes").forget)

        async def harm() -> None:
            await keeper._on_thread(lambda: damage(keeper))

        follower.run(harm())
        make_pod(server, name, "b")
        follower.eventually("the damage to be found", lambda: keeper.trouble)
        follower.eventually("it to be whole again", lambda: not keeper.trouble)
        follower.agrees(server)
        pods = follower.sink.of("pods")
        assert {f"{name}/a", f"{name}/b"} <= pods
    server.stop()
    with Follower(server.kubeconfig, keep=tmp_path / "keep.db") as follower:
        follower.eventually("what was kept to count", lambda: follower.source.state.synced)
        assert follower.sink.of("pods") == pods
        server.start()
        follower.synced(30)


def _proxy(server: ApiServer) -> FaultProxy:
    return FaultProxy(server.url, server.ca, server.pki.server("proxy", ["127.0.0.1"]))
