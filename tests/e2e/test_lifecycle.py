"""What comes and goes under traffic: membership, agents, tunnels, certificates, the control plane, pods.

Certificates live 20 s all through this file, so that every test runs across renewals.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.mesh import AGENT, LABEL, Mesh, client, known, running, server
from tests.e2e.playground import eventually, namespace, strict

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.slow]

LIFETIME = 20
SLACK = 1.0  # seconds between a tunnel's readiness and the next connection that an unlucky client tries
WORKERS = 2  # threads of each client that make new connections
NODES = ("node-1", "node-2")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """`home` is in the mesh for good, `moving` comes and goes, `outside` is never in it; `vault` takes no plaintext."""
    base = tmp_path_factory.mktemp("life")
    objects = [
        namespace("home", ambient=True),
        namespace("moving", ambient=False),
        namespace("outside", ambient=False),
        namespace("strict", ambient=True),
        strict("strict"),
        client(base, "resident", "home", "node-1"),
        server("keeper", "home", "node-2"),
        server("passing", "home", "node-2"),
        client(base, "caller", "moving", "node-1"),
        server("mover", "moving", "node-2"),
        client(base, "stranger", "outside", "node-1"),
        server("vault", "strict", "node-2"),
    ]
    with running(base, "life", objects, "--certificate-lifetime", str(LIFETIME)) as mesh:
        eventually("STRICT is in force", lambda: not mesh.may("stranger", mesh.v4("vault")))
        yield mesh


@contextmanager
def load(mesh: Mesh, pairs: Mapping[str, str], *, held: int = 2, pause: float = 0.01) -> Iterator[dict[str, dict[str, Any]]]:
    """From each client to its server new connections all the time, and `held` that stay. Their results are in the dict afterwards."""
    results: dict[str, dict[str, Any]] = {}
    began: list[str] = []
    try:
        for name, to in pairs.items():
            mesh.run(name, do="begin", key="load", host=mesh.v4(to), workers=WORKERS, held=held, pause=pause)
            began.append(name)
        yield results
        for name in began:  # what happened is over: from here on, traffic is as it was before
            progress(mesh, name, 10)
    finally:
        for name in began:
            results[name] = mesh.run(name, do="end", key="load")


def progress(mesh: Mesh, name: str, count: int) -> None:
    """Wait for so many more connections that worked."""
    before = mesh.run(name, do="look", key="load")["good"]
    eventually(f"{name} goes on", lambda: mesh.run(name, do="look", key="load")["good"] >= before + count)


def unharmed(results: Mapping[str, Mapping[str, Any]], *, held: bool = True) -> None:
    for name, result in results.items():
        assert result["failed"] == [], (name, result)
        assert result["good"] > 20, (name, result)
        if held:
            assert result["held_failed"] == [], (name, result)
            assert result["rounds"] > 20, (name, result)


def inbound_identity(mesh: Mesh, since: int, **fields: object) -> None:
    """Wait until a connection has come in over mutual TLS."""
    mesh.line("node-2", since, direction="inbound", reason="ok", **{"src.identity": bool, **fields})


# Membership


def test_enrolled_and_unenrolled_again_and_again_under_load(mesh: Mesh) -> None:
    """No new connection fails, whoever makes it; the plain ones from before live through it all."""
    with load(mesh, {"caller": "mover", "stranger": "mover"}) as results, load(mesh, {"resident": "mover"}, held=0) as from_mesh:
        for _ in range(3):
            since = mesh.mark("node-2.ztunnel")
            mesh.culvert("label", "namespace", "moving", f"{LABEL}=ambient")
            eventually("both pods are in the mesh", lambda: mesh.enrolled("mover", "caller"))
            inbound_identity(mesh, since, **{"src.workload": "caller", "dst.workload": "mover"})
            inbound_identity(mesh, since, **{"src.workload": "resident", "dst.workload": "mover"})
            mesh.culvert("label", "namespace", "moving", f"{LABEL}-")
            eventually("both pods have left", lambda: mesh.left("mover", "caller"))
            for name in ("caller", "resident", "stranger"):
                progress(mesh, name, 10)
    unharmed(results)
    unharmed(from_mesh, held=False)


def test_nothing_stays_behind_in_a_pod_that_left(mesh: Mesh) -> None:
    before = {name: mesh.traces(name) for name in ("mover", "caller")}
    mesh.culvert("label", "namespace", "moving", f"{LABEL}=ambient")
    eventually("both pods are in the mesh", lambda: mesh.enrolled("mover", "caller"))
    known(mesh, "mover", "caller")
    assert mesh.may("caller", mesh.v4("mover"))
    for name in ("mover", "caller"):
        during = mesh.traces(name)
        assert {15001, 15006, 15008} <= set(during["listeners"])
        assert during["steering"]
        assert {"cvt_pods", "cvt_addresses", "cvt_listeners"} <= during["maps"]
        assert during["sysctl"] == "1"
        assert "fwmark 0x111/0xfff lookup 100" in during["rules"]
    mesh.culvert("label", "namespace", "moving", f"{LABEL}-")
    eventually("both pods have left", lambda: mesh.left("mover", "caller"))
    after = {name: mesh.traces(name) for name in ("mover", "caller")}
    assert after == before
    assert before["mover"]["maps"] == set()
    tunnel_pods = {each["info"]["name"] for node in NODES for each in mesh.dump(node)["workloadState"].values()}
    assert not tunnel_pods & {"mover", "caller"}
    known(mesh, "mover", "caller")
    since = {node: mesh.mark(f"{node}.ztunnel") for node in NODES}
    assert mesh.may("caller", mesh.v4("mover"))
    assert mesh.may("resident", mesh.v4("mover"))
    mesh.line("node-1", since["node-1"], **{"src.workload": "resident"})  # it would have logged the caller's before
    assert [mesh.lines(f"{node}.ztunnel", since[node], **{"src.workload": "caller"}) for node in NODES] == [[], []]


# The agent


def test_agents_killed_under_load(mesh: Mesh) -> None:
    """Nothing is refused, nothing breaks, and nobody gets in who should not, while no agent runs and while it takes over."""
    with load(mesh, {"resident": "keeper", "stranger": "keeper"}) as results:
        for node in NODES:
            pid = mesh.kill(f"{node}.agent", signal.SIGKILL)
            for _ in range(5):
                assert not mesh.may("stranger", mesh.v4("vault"))
                assert mesh.may("resident", mesh.v4("vault"))
            assert mesh.http(node, AGENT, "/readyz")[0] == 0, "the agent was back too soon for this test to say anything"
            mesh.successor(f"{node}.agent", pid)
            progress(mesh, "resident", 10)
            assert not mesh.may("stranger", mesh.v4("vault"))
    unharmed(results)
    assert mesh.enrolled("resident", "keeper", "vault")


# The tunnel


@pytest.mark.parametrize("node", NODES)
def test_a_tunnel_killed_under_load(mesh: Mesh, node: str) -> None:
    """New connections fail no longer than there is no tunnel; those that it carried are reset at once, none hangs.

    Nobody gets in meanwhile who should not: the kernel refuses in its place. Who does not need the tunnel notices nothing.
    """
    dropped = mesh.kernel(node, "kernel_no_listener")
    with load(mesh, {"resident": "keeper", "stranger": "keeper"}) as results:
        pid = mesh.kill(f"{node}.ztunnel", signal.SIGKILL)
        killed = time.monotonic()
        assert not mesh.may("stranger", mesh.v4("vault"))
        ready = mesh.ready_at(node)
        mesh.successor(f"{node}.ztunnel", pid)
    if node == "node-1":  # where the clients are: the stranger's own traffic is none of the tunnel's business
        unharmed({"stranger": results.pop("stranger")})
    else:
        assert mesh.kernel(node, "kernel_no_listener") > dropped
    for result in results.values():
        within(result, killed, ready)
        assert len(result["held_failed"]) == 2, result
        assert all(killed - SLACK <= moment <= killed + SLACK for moment, _ in result["held_failed"]), result


@pytest.mark.parametrize("node", NODES)
def test_a_tunnel_asked_to_stop_finishes_what_it_carries(mesh: Mesh, node: str) -> None:
    """A transfer that ends inside the drain time ends well; new connections wait for the successor and no longer."""
    with ThreadPoolExecutor(1) as executor, load(mesh, {"resident": "keeper"}, held=0) as results:
        since = mesh.mark(f"{node}.ztunnel")
        transfer = executor.submit(mesh.run, "resident", do="paced", host=mesh.v4("keeper"), size=2_000_000, seconds=4.0)
        eventually("the transfer is under way", lambda: _carries(mesh, node))
        pid = mesh.kill(f"{node}.ztunnel", signal.SIGTERM)
        asked = time.monotonic()
        answer = transfer.result(20)
        eventually("the old one is gone", lambda: mesh.lines(f"{node}.ztunnel", since, message="stopped"))
        stopped = time.monotonic()
        ready = mesh.ready_at(node)
        mesh.successor(f"{node}.ztunnel", pid)
    assert answer["ok"], answer
    assert answer["begun"] < asked < answer["ended"], "the stop was not asked for during the transfer"
    assert stopped < answer["ended"] + 2, "it stops when the last connection has ended, not when the drain time is over"
    within(results["resident"], asked, ready)


def _carries(mesh: Mesh, node: str) -> bool:
    connections = [each for pod in mesh.dump(node)["workloadState"].values() for side in pod["connections"].values() for each in side]
    return any(each["sent"] + each["received"] > 100_000 for each in connections)


def within(result: Mapping[str, Any], ended: float, ready: float) -> None:
    """Every failure lies between the end of one tunnel and the readiness of the next."""
    assert result["good"] > 20, result
    assert result["failures"] > 0, "the tunnel was never away: this test says nothing"
    assert all(ended - SLACK <= begun and since <= ready + SLACK for begun, since in result["outages"]), (ended, ready, result)
    assert len(result["outages"]) <= WORKERS, "it went away once"


# The control plane, certificates


def test_the_control_plane_killed_under_load(mesh: Mesh) -> None:
    """Traffic and policy go on without it; what changes meanwhile is in force when it is back."""
    with load(mesh, {"resident": "keeper", "stranger": "keeper"}) as results:
        pid = mesh.kill("control", signal.SIGKILL)
        assert not mesh.may("stranger", mesh.v4("vault"))
        assert mesh.may("resident", mesh.v4("vault"))
        mesh.apply(strict("home", app="passing"))
        mesh.successor("control", pid)
        eventually("the new policy is in force", lambda: not mesh.may("stranger", mesh.v4("passing")))
        assert mesh.may("resident", mesh.v4("passing"))
    unharmed(results)
    eventually("both tunnels are connected again", lambda: all(mesh.metric(node, "culvert_xds_connected") == 1 for node in NODES))


def test_certificates_are_renewed_under_load(mesh: Mesh) -> None:
    """Two renewals on each side: connections older than their certificate go on, and new ones never fail."""
    with load(mesh, {"resident": "keeper"}) as results:
        seen: dict[str, set[str]] = {node: set() for node in NODES}

        def renewed() -> bool:
            for node, serials in seen.items():
                for each in mesh.dump(node)["certificates"]:
                    if each["identity"] == "spiffe://cluster.local/ns/home/sa/default":
                        assert each["state"] == "Available"
                        serials.add(each["certChain"][0]["serialNumber"])
            return all(len(serials) >= 3 for serials in seen.values())

        begun = time.monotonic()
        eventually("two renewals on each node", renewed, 2 * LIFETIME)
        # Connections that were open before the first renewal have now seen their certificate expire, or do so while we wait.
        eventually("the first certificates have expired", lambda: time.monotonic() > begun + LIFETIME, LIFETIME)
    unharmed(results)
    assert not seen["node-1"] & seen["node-2"], "each node has keys of its own"


# Pods


def test_a_pod_deleted_and_made_again(mesh: Mesh) -> None:
    """It leaves nothing in the kernel's maps, its connections end at once, and its successor of the same name is in the mesh."""
    old = mesh.where("passing")
    cookie_maps = mesh.traces("passing")["maps"]
    assert "cvt_pods" in cookie_maps
    assert mesh.run("resident", do="hold", host=mesh.v4("passing"), key="doomed")["ok"]
    since = mesh.mark("node-2.ztunnel")
    mesh.culvert("delete", "pod", "passing", "-n", "home")
    eventually("its connection ended", lambda: mesh.lines("node-2.ztunnel", since, scope="access", **{"dst.workload": "passing"}))
    assert "error" in mesh.run("resident", do="touch", key="doomed", idle=0)
    uids = {each["uid"] for each in mesh.now["pods"]}
    assert old["uid"] not in uids
    eventually("the tunnel forgot it", lambda: old["uid"] not in mesh.dump("node-2")["workloadState"])
    eventually("the agent forgot it", lambda: old["uid"] not in mesh.http("node-2", AGENT, "/pods")[1])
    mesh.forget("passing")
    mesh.apply(server("passing", "home", "node-2"))
    eventually("the new one is in the mesh", lambda: any(each["name"] == "passing" and each["ready"] for each in mesh.now["pods"]))
    eventually("the new one is in the mesh", lambda: mesh.enrolled("passing"))
    known(mesh, "passing")
    assert mesh.where("passing")["uid"] != old["uid"]
    since = mesh.mark("node-2.ztunnel")
    assert mesh.may("resident", mesh.v4("passing"))
    inbound_identity(mesh, since, **{"src.workload": "resident", "dst.workload": "passing"})
