"""Where the tunnel could eat itself or run out: its own ports as destinations, file descriptors, a thousand idle connections."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import pytest

from mesh.io.sockets import DELIVERY_PORTS
from tests.e2e.mesh import Mesh, client, running, server
from tests.e2e.playground import eventually, namespace

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

NODES = ("node-1", "node-2")
TUNNEL_PORTS = (15001, 15006, 15008)
CROWD = 1000
PER_IDLE = 16 << 10  # bytes of a tunnel for one idle connection, sockets' and TLS's share included: a bound against leaks, no measure


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    base = tmp_path_factory.mktemp("limits")
    objects = [
        namespace("shop", ambient=True),
        namespace("outside", ambient=False),
        client(base, "app", "shop", "node-1"),
        server("near", "shop", "node-1"),
        server("far", "shop", "node-2"),
        client(base, "stranger", "outside", "node-1"),
    ]
    with running(base, "limits", objects) as mesh:
        yield mesh
        for node in NODES:
            assert mesh.lines(f"{node}.ztunnel", message=lambda text: text is not None and "bug" in text) == []


def descriptors(mesh: Mesh, node: str) -> int:
    pid = next(each["pid"] for each in mesh.now["processes"] if each["name"] == f"{node}.ztunnel")
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture
def steady(mesh: Mesh) -> Iterator[None]:
    """The tunnels hold as many descriptors afterwards as before: nothing went in circles, nothing was left open."""
    for name in ("near", "far"):  # tunnels between the nodes are made now rather than in the middle of the test
        assert mesh.may("app", mesh.v4(name))
        assert mesh.may("app", mesh.v6(name))
    before = {node: descriptors(mesh, node) for node in NODES}
    yield
    for node in NODES:
        eventually(f"the tunnel of {node} is as before", lambda node=node: descriptors(mesh, node) <= before[node])


def refused(mesh: Mesh, netns: str, host: str, port: int) -> str:
    """How a connection from a namespace to a port is refused: at once, or after the tunnel looked at it."""
    try:
        with mesh.connect(netns, host, port) as sock:
            sock.settimeout(5)
            assert sock.recv(1) == b"", "somebody answered"
            return "closed"
    except (ConnectionRefusedError, ConnectionResetError) as error:
        return type(error).__name__


# Its own ports


def test_a_pod_cannot_reach_its_own_tunnel(mesh: Mesh, steady: None) -> None:
    """By loopback or by its own addresses, however they are written. The kernel refuses it, counts it, and the agent says who it was."""
    since, before = mesh.mark("node-1.agent"), mesh.kernel("node-1", "kernel_tunnel_port")
    loopback = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"]
    own = [mesh.v4("app"), mesh.v6("app"), f"::ffff:{mesh.v4('app')}"]
    netns = mesh.where("app")["netns"]
    for host in loopback + own:
        for port in TUNNEL_PORTS:
            assert refused(mesh, netns, host, port) == "ConnectionRefusedError", (host, port)
    tried = len(loopback + own) * len(TUNNEL_PORTS)
    assert mesh.kernel("node-1", "kernel_tunnel_port") == before + tried
    line = eventually("the agent tells", lambda: mesh.lines("node-1.agent", since, reason="kernel_tunnel_port"))[0]
    assert (line["pod"], line["level"]) == ("shop/app", "warn")


def test_other_pods_tunnels_are_no_destination(mesh: Mesh, steady: None) -> None:
    """For a pod of the mesh, one outside it, and the node itself; by either family, on this node and on another."""
    app, stranger, node = mesh.where("app")["netns"], mesh.where("stranger")["netns"], mesh.layout.node("node-1")
    for name, at in (("near", "node-1"), ("far", "node-2")):
        for host in (mesh.v4(name), mesh.v6(name)):
            for port in TUNNEL_PORTS[:2]:
                for netns in (app, stranger, node):
                    since = mesh.mark(f"{at}.ztunnel")
                    assert refused(mesh, netns, host, port) == "ConnectionResetError", (netns, host, port)
                    # What a node's own process reaches directly was not captured, and the outbound listener says so.
                    wanted = ("self_call", "no_original_destination") if netns == node else ("self_call",)
                    assert mesh.line(at, since, reason=lambda reason, wanted=wanted: reason in wanted)["message"]
    assert mesh.may("stranger", mesh.v4("far"))


def test_a_pod_cannot_speak_to_another_tunnel_through_its_own(mesh: Mesh, steady: None) -> None:
    """15008 of another pod is a destination like any other to the capture, and no destination to the tunnels."""
    since = mesh.mark("node-1.ztunnel")
    assert refused(mesh, mesh.where("app")["netns"], mesh.v4("far"), 15008) == "ConnectionResetError"
    reasons = ("self_call", "peer_unavailable")
    assert mesh.line("node-1", since, direction="outbound", reason=lambda reason: reason in reasons)["dst.addr"].startswith(mesh.v4("far"))


# Descriptors


@contextlib.contextmanager
def no_more_descriptors(mesh: Mesh, node: str) -> Iterator[None]:
    """The node's tunnel may keep what it has, and open nothing more but where there are gaps."""
    pid = mesh.pid(f"{node}.ztunnel")
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("node", "direction"), [("node-1", "outbound"), ("node-2", "inbound")])
def test_a_tunnel_without_descriptors(mesh: Mesh, steady: None, node: str, direction: str) -> None:
    """What is new is refused, with the reason; what runs goes on; and all is well when there are some again."""
    host = mesh.v4("far")
    since, before = mesh.mark(f"{node}.ztunnel"), mesh.metric(node, "culvert_refused_total", reason="fds_exhausted", direction=direction)
    pid = mesh.pid(f"{node}.ztunnel")
    mesh.run("app", do="begin", key="run", host=host, workers=0, held=3, pause=0.01)
    assert mesh.run("app", do="crowd", key="idle", host=host, count=20) == {"open": 20}
    with no_more_descriptors(mesh, node):
        more = mesh.run("app", do="crowd", key="more", host=host, count=300)
        assert more["open"] < 300, "the tunnel was never short of descriptors: this test says nothing"
        assert "ConnectionResetError" in more["error"], more
        eventually("nothing more is let in", lambda: _nothing_new(mesh, host, 20))
        more = mesh.run("app", do="crowd", key="more", host=host, count=0)
        line = mesh.line(node, since, reason="fds_exhausted", direction=direction)
        assert line["level"] in ("warn", "error")
        rounds = mesh.run("app", do="look", key="run")["rounds"]
        eventually("what runs goes on", lambda: mesh.run("app", do="look", key="run")["rounds"] > rounds + 10)
        assert mesh.run("app", do="roll_call", key="idle") == {"good": 20, "failed": []}
    eventually("it has descriptors again", lambda: mesh.may("app", host), 5)
    assert mesh.run("app", do="roll_call", key="more") == {"good": more["open"], "failed": []}
    result = mesh.run("app", do="end", key="run")
    assert result["held_failed"] == [], result
    assert mesh.metric(node, "culvert_refused_total", reason="fds_exhausted", direction=direction) >= before + 20
    assert mesh.pid(f"{node}.ztunnel") == pid, "it lived through it"


def _nothing_new(mesh: Mesh, host: str, times: int) -> bool:
    """Whether so many in a row are refused. Where a probe or a question to the tunnel has ended there is a gap: who finds it, fills it."""
    answers = (mesh.run("app", do="crowd", key="more", host=host, count=1) for _ in range(times))
    return all("ConnectionResetError" in answer.get("error", "") for answer in answers)


# Many


@pytest.mark.slow
def test_thousands_of_new_connections_from_outside_the_mesh(mesh: Mesh) -> None:
    """More than there are source ports for their deliveries, beside some that stay: each keeps to its own."""
    mesh.run("stranger", do="begin", key="many", host=mesh.v4("far"), workers=4, held=20, pause=0)
    try:
        count = len(DELIVERY_PORTS) + 500
        eventually("so many were served", lambda: mesh.run("stranger", do="look", key="many")["good"] > count, 60)
    finally:
        result = mesh.run("stranger", do="end", key="many")
    assert (result["failed"], result["held_failed"]) == ([], []), result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["far", "near"])
def test_a_thousand_idle_connections(mesh: Mesh, name: str) -> None:
    """To a server that speaks first. None is lost, others are served meanwhile, and they cost little.

    Of their descriptors only those of the tunnels that carried them stay, a hundred connections in each, for the next to use.
    """
    host = mesh.v4(name)
    before = {node: descriptors(mesh, node) for node in NODES}
    memory = {node: mesh.metric(node, "process_resident_memory_bytes") for node in NODES}
    assert mesh.run("app", do="crowd", key="crowd", host=host, count=CROWD) == {"open": CROWD}
    at = "node-1" if name == "near" else "node-2"
    assert mesh.metric(at, "istio_tcp_sockets_open", reporter="destination") >= CROWD
    grown = {node: mesh.metric(node, "process_resident_memory_bytes") - size for node, size in memory.items()}
    both = 2 if name == "near" else 1  # one tunnel has both ends
    assert all(size < both * CROWD * PER_IDLE for size in grown.values()), grown
    assert mesh.may("app", host)
    assert mesh.talk("app", host, "server_first")["ok"]
    assert mesh.run("app", do="roll_call", key="crowd") == {"good": CROWD, "failed": []}
    kept = both * (CROWD // 100 + 1)
    eventually("their descriptors are closed", lambda: all(descriptors(mesh, node) <= before[node] + kept for node in NODES))
    eventually("they are gone", lambda: mesh.metric(at, "istio_tcp_sockets_open", reporter="destination") == 0)
