"""A real Consul, a playground, and a pod of the mesh that calls a service by the name that Consul gives it.

[machine]  consul agent -dev, 127.0.0.1        what an operator registers there are pods of a namespace that is not in the mesh
                ▲ supervisor
[playground]  control plane ── names and addresses ──▶ supervisor ──▶ /etc/hosts of pods
                │ xDS
              tunnels ◀── client (in the mesh): curl http://web.service.consul/
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from tests.cluster import consul as consuls
from tests.cluster.consul import Consul
from tests.e2e.playgrounds import MANIFESTS, Playground, wait

pytestmark = [pytest.mark.cluster, pytest.mark.e2e]

HOST = "web.service.consul"
META = {"protocol": "http", "culvert-port": "80"}
OBJECTS = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: machines}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-1, containers: [{name: main, image: none, command: [sleep, infinity]}]}
"""
SERVER = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: machines}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 2
  containers:
    - {{name: main, image: none, command: [python3, who.py], readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}
"""


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """On the machine's loopback, where no pod can reach it."""
    with consuls.running(tmp_path_factory.mktemp("consul"), durable=False) as running:
        yield running


@pytest.fixture(scope="module")
def ground(consul: Consul, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    directory = tmp_path_factory.mktemp("manifests")
    shutil.copy(MANIFESTS / "who.py", directory)
    servers = SERVER.format(name="one", node="node-1") + SERVER.format(name="two", node="node-2")
    (directory / "objects.yaml").write_text(OBJECTS + servers)
    it = Playground(f"pgc{os.getpid()}")
    try:
        it.run("up", "-f", str(directory), "--consul", consul.url)
        yield it
    finally:
        it.run("down")
        assert it.remains() == []


def address(ground: Playground, pod: str) -> str:
    return next(ip for ip in ground.pod(pod)["ips"] if ":" not in ip)


def known(ground: Playground, host: str) -> list[str]:
    """The addresses that the client's own resolver finds; none for a name that it does not know."""
    try:
        return ground.in_pod("shop/client", "getent", "ahostsv4", host).split()[:1]
    except AssertionError:
        return []


def answers(ground: Playground, times: int = 8) -> set[str]:
    """Who answers: host names of the servers."""
    return {who for who, _ in ground.fetch("shop/client", f"http://{HOST}/", times=times)}


def test_a_service_in_consul_is_called_by_its_name_from_a_pod_of_the_mesh(ground: Playground, consul: Consul) -> None:
    assert ground.pod("client")["mesh"] == "enabled"
    assert known(ground, HOST) == []

    consul.register("web", address(ground, "one"), 8080, id="one", tags=["v1"], meta=META)
    wait("the name to be known in the pod", lambda: known(ground, HOST))
    assert known(ground, HOST) != [address(ground, "one")]  # a virtual address, which the tunnel takes to an instance
    wait("the tunnels to know it, too", lambda: answers(ground) == {"one"})

    consul.register("web", address(ground, "two"), 8080, id="two", tags=["v2"], meta=META)
    wait("both instances to be called", lambda: answers(ground, 20) == {"one", "two"})

    consul.set_health("one", "critical")
    wait("only the healthy one to be called", lambda: answers(ground, 20) == {"two"})
    assert answers(ground, 20) == {"two"}

    consul.set_health("one", "passing")
    wait("both again", lambda: answers(ground, 20) == {"one", "two"})


def test_the_control_plane_and_the_consul_may_go_and_come_back_meanwhile(ground: Playground, consul: Consul) -> None:
    consul.register("web", address(ground, "two"), 8080, id="two", tags=["v2"], meta=META)
    consul.deregister("one")  # or some calls in a row may all be its own
    wait("the service to be called", lambda: answers(ground) == {"two"})
    consul.restart()  # with nothing of what it knew
    assert answers(ground, 4) == {"two"}
    consul.register("web", address(ground, "two"), 8080, id="two", tags=["v2"], meta=META)
    os.kill(ground.pids()["control"], 9)
    assert answers(ground, 4) == {"two"}
    wait("the control plane to be back", lambda: next(one for one in ground.status["processes"] if one["name"] == "control")["ready"])
    wait("the service to be called as before", lambda: answers(ground) == {"two"})


def test_a_name_that_is_gone_from_consul_is_gone_from_the_pod(ground: Playground, consul: Consul) -> None:
    consul.register("short-lived", address(ground, "one"), 8080, meta=META)
    wait("the name to be known", lambda: known(ground, "short-lived.service.consul"))
    consul.deregister("short-lived")
    wait("the name to be gone", lambda: not known(ground, "short-lived.service.consul"))
    assert known(ground, "localhost") == ["127.0.0.1"]


def test_a_consul_that_cannot_be_reached_is_said(ground: Playground, consul: Consul) -> None:
    consul.stop()
    try:
        found = wait("the supervisor to say so", lambda: ground.status["problems"].get("Consul"))
        assert "cannot be reached" in found
        assert json.loads(ground.run("status", "--json", code=1))["problems"]["Consul"]
    finally:
        consul.start()
    wait("the problem to be over", lambda: "Consul" not in ground.status["problems"], 30)
