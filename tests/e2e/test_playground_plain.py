"""A playground without the mesh: pods, names, services, probes and rollouts as on a cluster."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from culvert.playground.layout import Layout
from tests.e2e.playgrounds import MANIFESTS, Playground, wait

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def ground() -> Iterator[Playground]:
    it = Playground(f"pgp{os.getpid()}")
    try:
        it.run("up", "--no-mesh", "--nodes", "2", "-f", str(MANIFESTS))
        yield it
    finally:
        it.run("down")
        assert it.remains() == []


def gateway_of(ground: Playground, node: str, version: int) -> str:
    gateways = next(item["gateways"] for item in ground.status["nodes"] if item["name"] == node)
    return next(text for text in gateways if ipaddress.ip_address(text).version == version)


def test_pods_are_spread_and_ready(ground: Playground) -> None:
    assert sorted(pod["node"] for pod in ground.pods_of("web")) == ["node-1", "node-1", "node-2"]
    assert all(pod["ready"] for pod in ground.status["pods"])
    assert ground.pod("alone")["node"] == "node-2"


def test_the_machines_own_namespace_has_nothing_of_it(ground: Playground) -> None:
    # Everything else in `remains` is rightly there now; links would be in the root namespace.
    assert [line for line in ground.remains() if line.startswith("link")] == []


@pytest.mark.parametrize("option", ["-4", "-6"])
def test_a_service_spreads_over_all_its_pods_and_shows_them_the_client(ground: Playground, option: str) -> None:
    answers = ground.fetch("default/client", "http://web.shop/", option, times=40)
    assert {who for who, _ in answers} == {pod["name"] for pod in ground.pods_of("web")}
    assert {peer for _, peer in answers} == {ground.pod("client")["ips"][0 if option == "-4" else 1]}


@pytest.mark.parametrize("option", ["-4", "-6"])
def test_a_pod_that_calls_its_own_service_reaches_itself(ground: Playground, option: str) -> None:
    answers = ground.fetch("shop/alone", "http://alone/", option, times=3)
    assert set(answers) == {("alone", gateway_of(ground, "node-2", 4 if option == "-4" else 6))}


def test_pods_reach_each_other_by_address_on_the_same_and_the_other_node(ground: Playground) -> None:
    for pod in ground.pods_of("web"):
        for address in pod["ips"]:
            host = f"[{address}]" if ":" in address else address
            expected = ground.pod("client")["ips"][1 if ":" in address else 0]
            assert ground.fetch("default/client", f"http://{host}:8080/") == [(pod["name"], expected)]


@pytest.mark.parametrize("name", ["web.shop", "web.shop.svc", "web.shop.svc.cluster.local"])
def test_names_of_services(ground: Playground, name: str) -> None:
    service = next(item for item in ground.status["services"] if item["name"] == "web")
    found = ground.in_pod("default/client", "getent", "ahosts", name)
    assert {line.split()[0] for line in found.splitlines()} == set(service["addresses"])


def test_a_short_name_is_of_the_own_namespace_only(ground: Playground) -> None:
    assert ground.in_pod("shop/alone", "getent", "hosts", "web")
    ground.in_pod("default/client", "getent", "hosts", "web", code=2)


@pytest.mark.parametrize("option", ["-4", "-6"])
@pytest.mark.parametrize("url", ["http://nobody.shop/", "http://web.shop:81/"])
def test_a_service_nobody_answers_for_refuses_at_once(ground: Playground, url: str, option: str) -> None:
    refused = 7  # curl's exit code for a connection that could not be made; 28 would be a timeout
    ground.in_pod("default/client", "curl", "-s", "-m", "5", option, url, code=refused)


def test_a_pod_that_is_not_ready_leaves_every_service_and_comes_back(ground: Playground) -> None:
    victim = ground.pods_of("web")[0]
    address = victim["ips"][0]
    ground.fetch("default/client", f"http://{address}:8080/fail/ready")
    wait("the pod to be not ready", lambda: not ground.pod(victim["name"])["ready"])
    wait("the headless name to lose it", lambda: address not in ground.in_pod("shop/alone", "getent", "ahosts", "peers"))
    assert victim["name"] not in {who for who, _ in ground.fetch("default/client", "http://web.shop/", times=20)}
    ground.fetch("default/client", f"http://{address}:8080/mend/ready")
    wait("the pod to be ready", lambda: ground.pod(victim["name"])["ready"])
    wait("the headless name to have it", lambda: address in ground.in_pod("shop/alone", "getent", "ahosts", "peers"))
    assert ground.pod(victim["name"])["restarts"] == 0


def test_a_failing_liveness_probe_restarts_the_container(ground: Playground) -> None:
    before = ground.pod("alone")
    ground.fetch("default/client", "http://alone.shop/fail/live")
    wait("a restart", lambda: ground.pod("alone")["restarts"] == before["restarts"] + 1 and ground.pod("alone")["ready"])
    assert ground.pod("alone")["ips"] == before["ips"]
    assert ground.pod("alone")["containers"][0]["pid"] != before["containers"][0]["pid"]


def test_logs_arguments_and_working_directory(ground: Playground) -> None:
    pod = ground.pods_of("web")[0]
    assert ground.run("logs", pod["name"]) == f"serving {MANIFESTS} {pod['node']} $(WHERE)\n"


def test_exec_exits_as_the_command_does(ground: Playground) -> None:
    ground.in_pod("default/client", "sh", "-c", "exit 7", code=7)
    assert ground.in_pod("default/client", "hostname") == "client\n"
    ground.in_pod("default/client", "no-such-program", code=127)


def test_a_pod_has_its_own_address_only_and_everything_else_behind_the_node(ground: Playground) -> None:
    links = json.loads(ground.in_pod("default/client", "ip", "-j", "addr", "show", "dev", "eth0"))
    lengths = {item["local"]: item["prefixlen"] for item in links[0]["addr_info"] if item["scope"] == "global"}
    four, six = ground.pod("client")["ips"]
    assert lengths == {four: 32, six: 128}


def test_a_rollout_loses_no_request(ground: Playground, tmp_path: Path) -> None:
    text = (MANIFESTS / "plain.yaml").read_text()
    stop = tmp_path / "stop"
    script = f"until test -e {stop}; do curl -s --fail -m 5 http://web.shop/ || echo lost; done"
    caller = subprocess.Popen(
        ground.command("exec", "-n", "default", "client", "--", "sh", "-c", script),
        stdout=subprocess.PIPE,
        text=True,
        cwd=MANIFESTS.parents[2],
    )
    try:
        changed = tmp_path / "plain.yaml"
        changed.write_text(text.replace("value: one", "value: two").replace("python3, who.py", f"python3, {MANIFESTS}/who.py"))
        before = {pod["name"] for pod in ground.pods_of("web")}
        ground.run("apply", "--wait", "-f", str(changed))
        assert len(ground.pods_of("web")) == 3
        assert not before & {pod["name"] for pod in ground.pods_of("web")}
    finally:
        stop.touch()
        out, _ = caller.communicate(timeout=30)
    assert "lost" not in out
    assert out.count(" one") > 0
    assert ground.in_pod("default/client", "curl", "-s", "http://web.shop/").split()[2] == "two"


def test_a_deleted_pod_of_a_deployment_is_replaced(ground: Playground) -> None:
    victim = ground.pods_of("web")[0]["name"]
    ground.run("delete", "-n", "shop", "pod", victim)
    wait("three ready pods", lambda: sum(pod["ready"] for pod in ground.pods_of("web")) == 3)
    assert victim not in {pod["name"] for pod in ground.pods_of("web")}


def test_scaling_down_and_objects_that_go(ground: Playground, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: job}\n"
        "spec: {restartPolicy: Never, containers: [{name: c, image: none, command: [sh, -c, 'echo done; exit 0']}]}\n"
    )
    ground.run("apply", "--wait", "-f", str(tmp_path))
    assert (ground.pod("job")["phase"], ground.pod("job")["reason"]) == ("Succeeded", "Completed")
    assert ground.run("logs", "job") == "done\n"
    ground.run("delete", "-f", str(tmp_path))
    assert "job" not in {pod["name"] for pod in ground.status["pods"]}
    ground.run("get", "pods", "job", code=1)


def test_refusals_and_wrong_usage_have_their_exit_codes(ground: Playground, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 0}]}\n")
    assert ground.run("apply", "-f", str(tmp_path), code=1) == ""
    assert "Service default/bad: spec.ports[0].port" in ground.run("get", "refused")
    assert len(json.loads(ground.run("status", "--json", code=1))["refused"]) == 1
    ground.run("delete", "service", "bad")
    assert ground.run("get", "refused") == "nothing is refused\n"
    (tmp_path / "bad.yaml").write_text("oops: [\n")
    ground.run("apply", "-f", str(tmp_path), code=1)
    assert ground.run("delete", "refused", str(tmp_path / "bad.yaml")).startswith("what could not be read in ")
    assert ground.run("get", "refused") == "nothing is refused\n"
    ground.run("apply", "-f", str(tmp_path / "none"), code=2)
    ground.run("up", "--no-mesh", "--nodes", "3", code=2)
    ground.run("label", "namespace", "nowhere", "a=b", code=1)
    ground.run("label", "namespace", "shop", "a=b c", code=1)
    assert json.loads(ground.run("status", "--json"))["troubles"] == []


def test_a_second_up_changes_nothing(ground: Playground) -> None:
    before = ground.pids()
    ground.run("up", "--no-mesh", "--nodes", "2")
    assert ground.pids() == before


def test_a_state_directory_means_its_own_playground(ground: Playground, tmp_path: Path) -> None:
    state = tmp_path / "elsewhere"
    it = Playground(f"pge{os.getpid()}")
    it.layout = Layout(it.name, state)

    def culvert(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "culvert", *arguments], capture_output=True, text=True, timeout=60, check=False)

    try:
        it.run("up", "--no-mesh", "--nodes", "1", "--state", str(state))
        found = culvert("get", "nodes", "--state", str(state))
        assert (found.returncode, "node-1" in found.stdout) == (0, True), found.stderr
        for command in ("up", "down"):
            found = culvert(command, "--name", it.name)
            assert (found.returncode, f"keeps its state in {state}" in found.stderr) == (2, True), found.stderr
        found = culvert("down", "--state", str(state), "--name", ground.name)
        assert (found.returncode, f"the state of playground {it.name}" in found.stderr) == (2, True), found.stderr
        found = culvert("down", "--state", str(state))
        assert (found.returncode, f"playground {it.name} removed" in found.stderr) == (0, True), found.stderr
    finally:
        it.run("down", "--state", str(state))
        assert it.remains() == []
    assert ground.run("get", "pods")
