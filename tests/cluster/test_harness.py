"""The harness does what it says: what other tests of this tier take for granted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import apiserver, consul, ports
from tests.cluster.api import Api, ApiError, Object
from tests.cluster.apiserver import ApiServer
from tests.cluster.consul import Consul
from tests.cluster.conversation import assert_expired, config_map, in_background, maps_in
from tests.cluster.processes import Program, eventually

pytestmark = pytest.mark.cluster

ISTIO = "istio-ca"


# Programs and ports


def test_a_port_is_nobody_elses_until_it_is_released() -> None:
    port = ports.take()
    assert ports.try_lock("ports", port.number) is None
    port.release()
    lock = ports.try_lock("ports", port.number)
    assert lock is not None
    ports.Reserved(port.number, lock).release()


def test_a_program_that_ends_early_fails_with_its_own_last_words(tmp_path: Path) -> None:
    program = Program("doomed", ["/bin/sh", "-c", "echo no such luck; exit 3"], tmp_path / "log")
    program.start()
    with pytest.raises(AssertionError, match=r"doomed ended while we waited for better days(?s:.*)no such luck"):
        program.wait_until("better days", lambda: False, 10)
    program.stop()


def test_a_program_that_ignores_the_request_to_end_is_killed_with_its_children(tmp_path: Path) -> None:
    program = Program("stubborn", ["/bin/sh", "-c", "trap '' TERM; echo ready; sleep 1000 & wait; sleep 1000"], tmp_path / "log")
    program.start()
    program.wait_until("its first words", lambda: "ready" in program.log_end(), 10)
    program.stop(grace=0.1)
    assert not program.running


# The API server and etcd


def test_objects_survive_a_restart_of_server_and_etcd(private_server: ApiServer) -> None:
    namespace = private_server.make_namespace()
    private_server.apply([config_map("kept", a="1") | {"metadata": {"name": "kept", "namespace": namespace}}])
    private_server.restart()
    private_server.etcd.restart()
    assert private_server.get(f"{maps_in(namespace)}/kept")["data"] == {"a": "1"}
    assert "kept" in private_server.kubectl("get", "configmaps", "-n", namespace, "-o", "name")


def test_a_watch_from_before_a_compaction_is_told_410(tmp_path: Path) -> None:
    with apiserver.running(tmp_path / "apiserver", watch_cache=False) as server:
        path = maps_in(server.make_namespace())
        old = server.get(path)["metadata"]["resourceVersion"]
        server.api.post(path, config_map("one"))
        assert [event["type"] for event in server.api.watch(path, old, seconds=1)] == ["ADDED"]
        server.etcd.compact()
        assert_expired(server.api, path, old)


def test_expire_makes_every_version_too_old_with_the_watch_cache_on(private_server: ApiServer) -> None:
    path = maps_in(private_server.make_namespace())
    old = private_server.get(path)["metadata"]["resourceVersion"]
    private_server.expire()
    assert_expired(private_server.api, path, old)


def test_tokens_are_good_for_their_audience_only(server: ApiServer, namespace: str) -> None:
    token = server.token(namespace, "default", ISTIO)
    reviewed = server.review(token, ISTIO)
    assert reviewed["authenticated"]
    assert reviewed["user"]["username"] == f"system:serviceaccount:{namespace}:default"
    assert not server.review(token).get("authenticated")
    assert not server.review(server.token(namespace, "default"), ISTIO).get("authenticated")
    with pytest.raises(ApiError) as caught:
        Api(server.url, server.ca, token).get("/api/v1/namespaces")
    assert caught.value.status == 401


def test_a_bound_token_names_its_pod_and_dies_with_it(server: ApiServer, namespace: str) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"containers": [{"name": "main", "image": "localhost/none"}], "terminationGracePeriodSeconds": 0}
    made = server.api.post(pods, {"metadata": {"name": "web"}, "spec": spec})
    extra = server.review(server.token(namespace, "default", ISTIO, pod="web"), ISTIO)["user"]["extra"]
    token = server.token(namespace, "default", ISTIO, pod="web")  # one that the server has not seen: what it has, it believes for 10 s
    assert extra["authentication.kubernetes.io/pod-name"] == ["web"]
    assert extra["authentication.kubernetes.io/pod-uid"] == [made["metadata"]["uid"]]
    server.api.delete(f"{pods}/web")
    assert not server.review(token, ISTIO).get("authenticated")


def test_rbac_is_on_and_says_who_was_refused(server: ApiServer, namespace: str) -> None:
    with pytest.raises(ApiError, match=f"system:serviceaccount:{namespace}:default") as caught:
        server.as_account(namespace, "default").get(maps_in(namespace))
    assert (caught.value.status, caught.value.reason) == (403, "Forbidden")
    config = server.kubeconfig_for_user("anna", "readers")

    def refused() -> bool:
        return 'User "anna" cannot list' in server.kubectl("get", "pods", "-n", namespace, kubeconfig=config, check=False)

    assert refused()
    # A role of its own: those for people (view, edit) are filled in by a controller, and none runs.
    server.kubectl("create", "role", "readers", "--verb=list", "--resource=pods", "-n", namespace)
    server.kubectl("create", "rolebinding", "readers", "--role=readers", "--group=readers", "-n", namespace)
    eventually("the role to be in force", lambda: not refused())


def test_controllers_make_pods_of_deployments_and_end_namespaces(private_server: ApiServer) -> None:
    with apiserver.controllers(private_server):
        namespace = private_server.make_namespace()
        private_server.kubectl("create", "deployment", "web", "--image=localhost/none", "-n", namespace)
        private_server.kubectl("wait", "--for=create", "pods", "-l", "app=web", "-n", namespace, "--timeout=20s")
        private_server.kubectl("delete", "deployment", "web", "-n", namespace)
        private_server.api.delete(f"/api/v1/namespaces/{namespace}")
        apiserver.wait_gone(private_server, f"/api/v1/namespaces/{namespace}")


# Consul


def test_services_tags_and_health_of_a_real_agent(consul_agent: Consul) -> None:
    consul_agent.register("web", "10.0.0.1", 80, id="web-1", tags=["v1"])
    consul_agent.register("web", "10.0.0.2", 80, id="web-2", tags=["v2"], meta={"version": "2"}, health="critical")
    index, services = consul_agent.services()
    assert sorted(services["web"]) == ["v1", "v2"]
    index, entries = consul_agent.health("web")
    assert health_of(entries) == {"web-1": "passing", "web-2": "critical"}
    with in_background(lambda: consul_agent.health("web", index, wait="30s")) as outcome:
        consul_agent.set_health("web-2", "passing")
        newer, entries = outcome()
    assert newer > index
    assert health_of(entries) == {"web-1": "passing", "web-2": "passing"}
    consul_agent.deregister("web-1")
    assert health_of(consul_agent.health("web")[1]) == {"web-2": "passing"}


def test_a_durable_agent_keeps_its_catalog_and_one_in_memory_begins_again(consul_agent: Consul, tmp_path: Path) -> None:
    with consul.running(tmp_path / "dev", durable=False) as dev:
        for agent in (consul_agent, dev):
            agent.register("web", "10.0.0.1", 80)
        before = dev.services()[0]
        for agent in (consul_agent, dev):
            agent.restart()
        assert "web" in consul_agent.services()[1]
        index, services = dev.services()
        assert "web" not in services
        assert index < before


def health_of(entries: list[Object]) -> dict[str, str]:
    """By instance, of its own check."""
    return {
        entry["Service"]["ID"]: next(check["Status"] for check in entry["Checks"] if check["ServiceID"] == entry["Service"]["ID"])
        for entry in entries
    }
