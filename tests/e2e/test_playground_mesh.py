"""A playground with the mesh's own processes: started, shown, restarted when they are killed, and gone without a trace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.playgrounds import MANIFESTS, Playground, wait

pytestmark = pytest.mark.e2e

LABEL = "istio.io/dataplane-mode=ambient"
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: web}}
  rules: [{from: [{source: {ipBlocks: ["10.0.0.0/99"]}}]}]
"""


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain manifests with their namespace in the mesh from the start."""
    directory = tmp_path_factory.mktemp("mesh")
    text = (MANIFESTS / "plain.yaml").read_text()
    enrolled = text.replace("  name: shop\n", f"  name: shop\n  labels: {{{LABEL.replace('=', ': ')}}}\n", 1)
    assert enrolled != text
    (directory / "plain.yaml").write_text(enrolled)
    shutil.copy(MANIFESTS / "who.py", directory)
    return directory


@pytest.fixture(scope="module")
def ground(manifests: Path) -> Iterator[Playground]:
    it = Playground(f"pgm{os.getpid()}")
    try:
        it.run("up", "-f", str(manifests))
        yield it
    finally:
        it.run("down")
        assert it.remains() == []


def mesh_states(ground: Playground) -> dict[str, str]:
    return {pod["name"]: pod["mesh"] for pod in ground.status["pods"]}


def kill(ground: Playground, name: str) -> None:
    """Kill one of the mesh's processes and wait until its successor is ready."""
    before = ground.pids()[name]
    os.kill(before, signal.SIGKILL)

    def again() -> bool:
        process = next(item for item in ground.status["processes"] if item["name"] == name)
        return bool(process["ready"]) and process["pid"] not in (None, before)

    wait(f"{name} to be ready again", again, 20)


def test_up_returns_when_every_labelled_pod_is_in_the_mesh(ground: Playground) -> None:
    states = mesh_states(ground)
    assert states.pop("client") == ""
    assert set(states.values()) == {"enabled"}
    assert len(states) == 4


def test_the_pod_object_says_so_as_on_kubernetes(ground: Playground) -> None:
    pod = json.loads(ground.run("get", "pods", "alone", "-o", "json"))
    assert pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled"


def test_status_shows_processes_certificates_and_the_control_planes_view(ground: Playground) -> None:
    names = {"control", "node-1.agent", "node-1.ztunnel", "node-2.agent", "node-2.ztunnel"}
    seen = json.loads(ground.run("status", "--json"))
    assert {item["name"] for item in seen["processes"] if item["ready"]} == names
    assert set(seen["memory"]) == names
    assert set(seen["controlPlane"]["nodes"]) == {"node-1", "node-2"}
    ground.fetch("shop/alone", "http://web/")

    def certified() -> bool:
        found = json.loads(ground.run("status", "--json"))["certificates"]
        return {(item["node"], item["state"]) for item in found if item["expires"]} == {("node-1", "Available"), ("node-2", "Available")}

    wait("certificates on both nodes", certified)
    text = ground.run("status")
    assert "spiffe://cluster.local/ns/shop/sa/default" in text
    assert "synced" in text


def test_pods_inside_and_outside_reach_services(ground: Playground) -> None:
    web = {pod["name"] for pod in ground.pods_of("web")}
    for client in ("shop/alone", "default/client"):
        for option in ("-4", "-6"):
            answers = ground.fetch(client, "http://web.shop/", option, times=40)
            assert {who for who, _ in answers} == web
            assert {peer for _, peer in answers} == {ground.pod(client.partition("/")[2])["ips"][0 if option == "-4" else 1]}


def test_probes_see_through_to_the_app(ground: Playground) -> None:
    victim = ground.pods_of("web")[0]
    url = f"http://{victim['ips'][0]}:8080"
    ground.fetch("default/client", f"{url}/fail/ready")
    wait("the pod to be not ready", lambda: not ground.pod(victim["name"])["ready"])
    ground.fetch("default/client", f"{url}/mend/ready")
    wait("the pod to be ready", lambda: ground.pod(victim["name"])["ready"])


def test_a_killed_agent_comes_back_and_nobody_notices(ground: Playground) -> None:
    lost = failures_while(ground, lambda: kill(ground, "node-1.agent"))
    assert lost == 0
    assert set(mesh_states(ground).values()) == {"enabled", ""}


def test_a_killed_tunnel_comes_back(ground: Playground) -> None:
    kill(ground, "node-2.ztunnel")
    wait("the mesh to carry again", lambda: len(ground.fetch("shop/alone", "http://web/", times=6)) == 6)


def test_a_killed_control_plane_comes_back_with_the_same_root(ground: Playground) -> None:
    root = (ground.layout.ca / "root-cert.pem").read_bytes()
    lost = failures_while(ground, lambda: kill(ground, "control"))
    assert lost == 0
    assert (ground.layout.ca / "root-cert.pem").read_bytes() == root


def failures_while(ground: Playground, action: Callable[[], None]) -> int:
    """Requests from a pod to the service, one after another, before, during and after the action: how many failed."""
    made, stop = ground.layout.state / "made", ground.layout.state / "stop"
    made.write_text("")
    stop.unlink(missing_ok=True)
    script = f"until test -e {stop}; do curl -s --fail -m 5 -o /dev/null http://web/ || echo lost; echo >> {made}; done"
    caller = subprocess.Popen(ground.command("exec", "-n", "shop", "alone", "--", "sh", "-c", script), stdout=subprocess.PIPE, text=True)

    def more() -> None:
        goal = made.stat().st_size + 5
        wait("more requests", lambda: made.stat().st_size >= goal, 30)

    try:
        more()
        action()
        more()
    finally:
        stop.touch()
        out, _ = caller.communicate(timeout=30)
    return out.count("lost")


def test_mesh_processes_outlive_the_supervisor(ground: Playground) -> None:
    before = ground.pids()
    os.kill(ground.supervisor(), signal.SIGKILL)
    ground.run("up")
    assert ground.pids() == before
    kill(ground, "node-2.agent")


def test_a_pod_leaves_the_mesh_and_comes_back_without_a_restart(ground: Playground) -> None:
    before = ground.pids()
    ground.run("label", "-n", "shop", "pod", "alone", "istio.io/dataplane-mode=none")
    wait("the pod to leave", lambda: mesh_states(ground)["alone"] == "")
    assert len(ground.fetch("shop/alone", "http://web/", times=3)) == 3
    ground.run("label", "-n", "shop", "pod", "alone", "istio.io/dataplane-mode-")
    wait("the pod to come back", lambda: mesh_states(ground)["alone"] == "enabled")
    assert len(ground.fetch("shop/alone", "http://web/", times=3)) == 3
    assert ground.pids() == before


def test_a_refused_policy_denies_what_it_would_have_covered_until_it_goes(ground: Playground, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    ground.run("apply", "-f", str(tmp_path), code=1)
    wait("the denial", lambda: not reaches_web(ground))
    assert "AuthorizationPolicy shop/closed, until it is accepted: " in ground.run("status", code=1)
    assert ground.fetch("default/client", "http://alone.shop/")
    ground.run("delete", "-n", "shop", "authorizationpolicy", "closed")
    wait("the denial to end", lambda: reaches_web(ground))
    assert ground.run("get", "refused") == "nothing is refused\n"


def test_what_only_the_control_plane_refuses_is_shown_as_well(ground: Playground) -> None:
    text = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: odd, namespace: shop, labels: {a: 'b c'}}\n"
    (ground.layout.applied / "serviceaccount.shop.odd.yaml").write_text(text)  # as no command of ours would
    wait("the refusal", lambda: "ServiceAccount shop/odd: metadata.labels[a]: 'b c' is not accepted" in ground.run("get", "refused"))
    assert json.loads(ground.run("status", "--json", code=1))["troubles"] == ["1 object is refused"]
    ground.run("delete", "serviceaccount", "odd", "-n", "shop")
    wait("the refusal to end", lambda: ground.run("get", "refused") == "nothing is refused\n")


def reaches_web(ground: Playground) -> bool:
    return "200" in ground.in_pod("shop/alone", "sh", "-c", "curl -s -m 5 -o /dev/null -w '%{http_code}' http://web/ || true")


@pytest.mark.parametrize("delay", [0.7, 1.2, 1.7, 2.5])
def test_killed_in_the_middle_of_starting_the_mesh_then_down(manifests: Path, delay: float) -> None:
    it = Playground(f"pgk{os.getpid()}")
    command = it.start("up", "-f", str(manifests))
    time.sleep(delay)
    command.kill()
    command.wait()
    if it.layout.supervisor_pid.exists():
        os.kill(it.supervisor(), signal.SIGKILL)
    it.run("down")
    assert it.remains() == []


def test_kernel_programs_are_found_without_the_state_directory(manifests: Path) -> None:
    it = Playground(f"pgs{os.getpid()}")
    it.run("up", "-f", str(manifests))
    os.kill(it.supervisor(), signal.SIGKILL)
    shutil.rmtree(it.layout.state)
    it.run("down")
    assert it.remains() == []
