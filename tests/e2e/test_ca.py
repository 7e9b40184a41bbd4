"""The CA of a running playground, of which everything is replaced under load; and that a drill of it can fail."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from culvert.rehearsal.client import Refused, ask
from tests.control.ca.support import secret_lines
from tests.e2e.mesh import Mesh, client, running, server
from tests.e2e.playground import eventually, namespace, service_account
from tests.e2e.test_lifecycle import NODES, load, unharmed

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.slow]

PHASES = ["before", "leaves", "intermediate", "introduce", "switch", "retire", "after"]
CONTROL_HTTP = 15014


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    base = tmp_path_factory.mktemp("ca")
    objects = [
        namespace("shop", ambient=True),
        *(service_account(name, "shop") for name in ("one", "two", "three", "four")),
        client(base, "one", "shop", "node-1", account="one"),
        server("two", "shop", "node-2", account="two"),
        server("three", "shop", "node-1", account="three"),
        client(base, "four", "shop", "node-2", account="four"),
    ]
    with running(base, "ca", objects) as mesh:
        eventually("pods talk", lambda: mesh.may("one", mesh.v4("two")) and mesh.may("four", mesh.v4("three")))
        yield mesh


def certificates(mesh: Mesh) -> dict[tuple[str, str], dict[str, Any]]:
    """What the tunnels hold, by node and identity."""
    return {(node, each["identity"]): each for node in NODES for each in mesh.dump(node)["certificates"]}


def roots(held: dict[str, Any]) -> set[str]:
    return {b64decode(each["pem"]).decode() for each in held["rootCerts"]}


def commands(mesh: Mesh) -> Any:
    return lambda command, **fields: ask(mesh.layout.ca / "command.sock", command, **fields)


def settled(mesh: Mesh) -> bool:
    shown = ask(mesh.layout.ca / "command.sock", "show")
    return all(holder["renewed"] for holder in shown["holders"]) and (shown["gate"] is None or shown["gate"]["open"])


def test_the_drill_breaks_no_connection(mesh: Mesh) -> None:
    before = certificates(mesh)
    assert len(before) == 4
    found = json.loads(mesh.culvert("ca", "rehearse", "--json", "--seconds", "1", timeout=120).stdout)
    assert (found["ok"], found["failed"], found["cut"], found["leftOut"]) == (True, 0, 0, [])
    assert len(found["pairs"]) == 8
    assert [phase["phase"] for phase in found["phases"]] == PHASES
    assert [phase["roots"] for phase in found["phases"]] == [1, 1, 1, 2, 2, 1, 1]
    for phase in found["phases"]:
        assert phase["tried"] > 50, phase
        assert phase["exchanges"] > 50, phase
        assert set(phase["renewedAfter"]) == (set(NODES) if phase["phase"] in PHASES[1:-1] else set())
    after = certificates(mesh)
    published = (mesh.layout.ca / "root-cert.pem").read_text()
    for key, held in after.items():
        assert held["state"] == "Available"
        assert len(held["certChain"]) == 2, "the leaf and the intermediate"
        assert roots(held) == {published}
        assert held["certChain"][0]["serialNumber"] != before[key]["certChain"][0]["serialNumber"]
        assert held["certChain"][1] != before[key]["certChain"][1]
        assert roots(held).isdisjoint(roots(before[key]))


def test_people_are_told_how_it_goes(mesh: Mesh) -> None:
    done = mesh.culvert("ca", "rehearse", "--seconds", "0.3", "--pairs", "2", timeout=120)
    lines = done.stderr.splitlines()
    assert lines[0] == "2 pairs of pods talk: two new connections at a time each, and two that stay"
    assert [line.split()[0] for line in lines[1:]] == PHASES
    assert all("0 failed" in line and "0 cut" in line for line in lines[1:])
    assert all("2 of 2 nodes renewed within" in line for line in lines[2:-1])
    shown = mesh.culvert("ca", "show").stdout
    assert "steady" in shown
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith("node-")] == [["node-1", "renewed"], ["node-2", "renewed"]]


def test_a_change_of_root_goes_on_whatever_dies_between_its_steps(mesh: Mesh) -> None:
    """The control plane is killed after each step, and a pod is made in the middle of it all."""
    do = commands(mesh)
    late = server("late", "shop", "node-2", account="four")
    with load(mesh, {"one": "two", "four": "three"}) as results:
        old = (mesh.layout.ca / "root-cert.pem").read_text()
        for step in ("introduce", "switch", "retire"):
            eventually(f"the way to {step} is free", lambda: settled(mesh))
            do(step)
            if step != "retire":
                with pytest.raises(Refused, match=r"too young|not everybody has renewed"):
                    do("switch" if step == "introduce" else "retire")
            pid = mesh.kill("control", signal.SIGKILL)
            mesh.successor("control", pid)
            assert do(step)["phase"] == {"introduce": "introduced", "switch": "switched", "retire": "steady"}[step]
            if step == "introduce":
                mesh.apply(late)
            if step == "switch":
                eventually("the late pod is reached", lambda: mesh.may("one", mesh.v4("late")))
        eventually("all have renewed", lambda: settled(mesh))
    unharmed(results)
    mesh.culvert("delete", "pod", "late", "-n", "shop")
    published = (mesh.layout.ca / "root-cert.pem").read_text()
    assert published != old
    assert {text for held in certificates(mesh).values() for text in roots(held)} == {published}


def test_a_tunnel_that_restarts_in_the_middle_begins_with_both_roots(mesh: Mesh) -> None:
    do = commands(mesh)
    do("introduce")
    pid = mesh.kill("node-2.ztunnel", signal.SIGKILL)
    mesh.successor("node-2.ztunnel", pid)
    for step in ("switch", "retire"):
        eventually(f"the way to {step} is free", lambda: settled(mesh))
        do(step)
        eventually("pods talk", lambda: mesh.may("one", mesh.v4("two")) and mesh.may("four", mesh.v4("three")))


def test_a_drill_can_fail(mesh: Mesh) -> None:
    """One tunnel stands still: connections fail, it does not renew, and the drill says so and stops."""
    frozen = mesh.pid("node-2.ztunnel")
    command = [sys.executable, "-m", "culvert", "ca", "rehearse", "--seconds", "3", "--patience", "4", "--name", mesh.name, "--json"]
    drill = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert drill.stderr is not None
        assert "pairs of pods talk" in drill.stderr.readline()  # and nothing is renewed yet, for three seconds
        drill.send_signal(signal.SIGSTOP)  # however long it takes to find the tunnel
        frozen = mesh.kill("node-2.ztunnel", signal.SIGSTOP)
        drill.send_signal(signal.SIGCONT)
        output = drill.communicate(timeout=90)[0]
    finally:
        mesh_kill(frozen)
        drill.kill()
    assert drill.returncode == 1
    found = json.loads(output)
    assert not found["ok"]
    assert found["failed"] > 0
    assert [phase["phase"] for phase in found["phases"]] == ["before", "leaves"]
    assert "not renewed: node-2" in found["phases"][-1]["problem"]
    assert found["phases"][-1]["renewedAfter"]["node-2"] is None
    eventually("pods talk again", lambda: mesh.may("one", mesh.v4("two")) and mesh.may("four", mesh.v4("three")))
    eventually("it has caught up", lambda: settled(mesh))


def mesh_kill(pid: int) -> None:
    subprocess.run(["kill", "-CONT", str(pid)], check=False)


def test_no_drill_in_the_middle_of_a_change(mesh: Mesh) -> None:
    do = commands(mesh)
    eventually("nothing is under way", lambda: settled(mesh))
    do("introduce")
    try:
        done = mesh.culvert("ca", "rehearse", check=False)
        assert (done.returncode, "finish it first" in done.stderr) == (2, True)
    finally:
        do("abandon")
    eventually("all have renewed", lambda: settled(mesh))


def test_no_key_is_in_a_log_or_a_dump(mesh: Mesh) -> None:
    """After all of the above: everything that the processes wrote or answer, searched for every line of every key that there is."""
    keys = [path.read_text() for path in mesh.layout.ca.glob("current/*.key")]
    assert len(keys) == 2
    secrets = {line for key in keys for line in secret_lines(key)}
    said = {path.name: path.read_text(errors="replace") for path in mesh.layout.logs.iterdir()}
    for node in NODES:
        said |= {f"{node}{path}": mesh.http(node, 15000, path)[1] for path in ("/config_dump", "/connections", "/pool")}
    with mesh.connect(mesh.layout.control, "127.0.0.1", CONTROL_HTTP) as sock:
        sock.sendall(b"GET /debug/ca HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        said["/debug/ca"] = sock.makefile("r").read()
    said["status"] = json.dumps(mesh.status())
    said["objects"] = yaml.safe_dump([path.read_text() for path in mesh.layout.objects.iterdir()])
    assert '"roots"' in said["/debug/ca"]
    for name, text in said.items():
        assert "PRIVATE KEY" not in text, name
        assert not [secret for secret in secrets if secret in text], name
