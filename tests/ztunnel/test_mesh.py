"""The tunnel process between real pods: namespaces, the kernel programs, TLS, and a control plane and agent that are doubles."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.bpf import Programs, uninstall
from mesh.model.policy import Action, Authorization, Clause, Match, PolicyScope, Rule, StringKind, StringMatch
from mesh.model.workload import NamespacedHostname, NetworkAddress, Service, ServicePort, TunnelProtocol, Workload
from mesh.wire.xds import AUTHORIZATION_TYPE
from tests.bpf.lab import App, Node, Pod, greet, node, receive
from tests.ztunnel.double import Agent, ControlPlane, TunnelProcess, until

pytestmark = pytest.mark.netns

PORT = 7100
VIP = "10.96.0.10"
SERVICE = NamespacedHostname("shop", "b.shop.svc.cluster.local")


@dataclass
class Lab:
    """Pods a and b are enrolled, each with a tunnel of its own; c is outside the mesh."""

    node: Node
    control: ControlPlane
    a: Pod
    b: Pod
    c: Pod
    agent_a: Agent
    agent_b: Agent
    mark: int
    directory: Path
    tunnels: list[TunnelProcess]

    def start(self, agent: Agent, **environment: str) -> TunnelProcess:
        tunnel = TunnelProcess(self.directory / f"t{len(self.tunnels)}", self.control, agent, self.mark, **environment)
        self.tunnels.append(tunnel)
        return tunnel

    @property
    def workload_b(self) -> Workload:
        return workload(self.b, "b", services={SERVICE: {80: PORT}})


def workload(pod: Pod, name: str, **changes: object) -> Workload:
    made = Workload(
        uid=f"Kubernetes//Pod/shop/{name}",
        name=name,
        namespace="shop",
        service_account=name,
        addresses=tuple(pod.addresses),
        protocol=TunnelProtocol.HBONE,
        canonical_name=name,
        canonical_revision="v1",
        workload_name=name,
        node="node-1",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def deny_all_but(*accounts: str, port: int | None = None) -> Authorization:
    principals = tuple(StringMatch(StringKind.EXACT, f"cluster.local/ns/shop/sa/{account}") for account in accounts)
    match = Match(principals=principals, destination_ports=(port,) if port else ())
    rules = (Rule((Clause((match,)),)),) if accounts else ()
    return Authorization("only", "shop", PolicyScope.NAMESPACE, Action.ALLOW, rules)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("mesh")
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(node("zt"))
        a, b, c = made.pod(), made.pod(), made.pod()
        stack.callback(uninstall, made.instance)
        programs = stack.enter_context(closing(Programs.load_or_adopt(made.instance, node_cookie=made.netns.cookie)))
        control = stack.enter_context(closing(ControlPlane()))
        agents = []
        for name, pod in (("a", a), ("b", b)):
            agent = stack.enter_context(closing(Agent(directory / f"{name}.sock")))
            agent.add(f"uid-{name}", name, "shop", name, pod.netns.fd)
            agents.append(agent)
            made.route_deliveries(pod)
            programs.enrol(pod.cookie, pod.netns.fd, pod.addresses)
        found = Lab(made, control, a, b, c, agents[0], agents[1], programs.mark, directory, [])
        service = Service(
            "b", "shop", SERVICE.hostname, vips=(NetworkAddress("", ip_address(VIP)),), ports=(ServicePort(80, PORT),), canonical=True
        )
        control.set(service, workload(a, "a"), found.workload_b)
        try:
            yield found
        finally:
            for tunnel in found.tunnels:
                print(f"--- {tunnel.log}\n{tunnel.log.read_text()}")
                tunnel.close()


@pytest.fixture(scope="module")
def pair(lab: Lab) -> tuple[TunnelProcess, TunnelProcess]:
    found = lab.start(lab.agent_a), lab.start(lab.agent_b)
    for tunnel in found:
        tunnel.ready()
    return found


@pytest.fixture
def app(lab: Lab) -> Iterator[App]:
    with closing(App(lab.b, PORT)) as made:
        yield made


def ended(connected: socket.socket) -> bool:
    """Whether the connection ends without another byte."""
    with connected:
        try:
            return connected.recv(1) == b""
        except ConnectionResetError:
            return True


def refused(pod: Pod, host: str, port: int) -> bool:
    """Whether a new connection ends without a byte. The reset may come so soon that `connect` itself reports it."""
    try:
        return ended(pod.connect(host, port))
    except ConnectionResetError:
        return True


def refused_quickly(pod: Pod, host: str, port: int) -> bool:
    """As `refused`, of an app that greets."""
    try:
        with pod.connect(host, port) as connected:
            return receive(connected, 6) != b"hello\n"
    except ConnectionResetError:
        return True


def refused_by_kernel(pod: Pod, host: str, port: int) -> bool:
    """Whether nobody listens: closed, never open."""
    try:
        return refused(pod, host, port)
    except (ConnectionRefusedError, TimeoutError):
        return True


Pair = tuple[TunnelProcess, TunnelProcess]


@pytest.mark.parametrize("version", [4, 6])
def test_pod_to_pod_over_hbone(lab: Lab, pair: Pair, app: App, version: int) -> None:
    host, client = (str(lab.b.v4), str(lab.a.v4)) if version == 4 else (str(lab.b.v6), str(lab.a.v6))
    connected = lab.a.connect(host, PORT)
    assert connected.getpeername()[:2] == (host, PORT)
    greet(connected, b"x" * 300_000)
    assert app.seen[-1][0][0] == client
    shown = f"[{host}]" if version == 6 else host
    line = pair[0].wait_line(**{"dst.hbone_addr": f"{shown}:{PORT}", "direction": "outbound"})
    assert line["dst.addr"] == f"{shown}:15008"
    assert line["src.identity"] == "spiffe://cluster.local/ns/shop/sa/a"
    assert line["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/b"
    assert (line["bytes_sent"], line["bytes_recv"], line["reason"]) == (300_000, 300_006, "ok")
    line = pair[1].wait_line(**{"dst.hbone_addr": f"{shown}:{PORT}", "direction": "inbound"})
    assert line["src.workload"] == "a"
    assert line["src.identity"] == "spiffe://cluster.local/ns/shop/sa/a"
    assert (line["bytes_sent"], line["bytes_recv"], line["reason"]) == (300_006, 300_000, "ok")


def test_a_service_address_is_resolved_by_the_client_side(lab: Lab, pair: Pair, app: App) -> None:
    connected = lab.a.connect(VIP, 80)
    assert connected.getpeername()[:2] == (VIP, 80)
    greet(connected)
    line = pair[0].wait_line(**{"dst.service": SERVICE.hostname, "direction": "outbound"})
    assert line["dst.hbone_addr"] == f"{lab.b.v4}:{PORT}"
    assert pair[1].wait_line(**{"dst.service": SERVICE.hostname, "direction": "inbound"})["reason"] == "ok"
    labels = {"reporter": "source", "destination_service": SERVICE.hostname, "connection_security_policy": "mutual_tls"}
    assert pair[0].metric("istio_tcp_connections_opened_total", **labels) == 1
    assert pair[0].metric("istio_tcp_received_bytes_total", **labels) == 5  # what the client sent
    assert pair[0].metric("istio_tcp_sent_bytes_total", **labels) == 11


def test_outsiders_come_in_by_plaintext(lab: Lab, pair: Pair, app: App) -> None:
    greet(lab.c.connect(str(lab.b.v4), PORT))
    assert app.seen[-1][0][0] == str(lab.c.v4)
    line = pair[1].wait_line(**{"dst.addr": f"{lab.b.v4}:{PORT}", "direction": "inbound"})
    assert "src.identity" not in line
    assert (line["bytes_sent"], line["bytes_recv"], line["reason"]) == (11, 5, "ok")


def test_outsiders_are_reached_by_passthrough(lab: Lab, pair: Pair) -> None:
    with closing(App(lab.c, PORT)) as app:
        connected = lab.a.connect(str(lab.c.v6), PORT)
        greet(connected)
    assert app.seen[-1][0][0] == str(lab.a.v6)
    line = pair[0].wait_line(**{"dst.addr": f"[{lab.c.v6}]:{PORT}"})
    assert (line["bytes_sent"], line["bytes_recv"], line["reason"]) == (5, 11, "ok")


def test_a_service_port_that_is_not_there_is_refused(lab: Lab, pair: Pair) -> None:
    assert refused(lab.a, VIP, 81)
    assert pair[0].wait_line(reason="no_healthy_upstream")["dst.addr"] == f"{VIP}:81"
    assert pair[0].metric("culvert_refused_total", reason="no_healthy_upstream", direction="outbound") == 1


def test_an_app_that_does_not_listen_is_a_reset_at_the_client(lab: Lab, pair: Pair) -> None:
    assert refused(lab.a, str(lab.b.v4), 7999)
    assert pair[1].wait_line(reason="connect_failed")["direction"] == "inbound"
    assert pair[0].wait_line(reason="peer_unavailable")["direction"] == "outbound"


def test_the_tunnels_ports_are_no_destination(lab: Lab, pair: Pair) -> None:
    assert refused(lab.a, str(lab.b.v4), 15006)
    assert pair[1].wait_line(reason="self_call", direction="inbound")["dst.hbone_addr"] == f"{lab.b.v4}:15006"
    assert refused(lab.c, str(lab.b.v4), 15006)
    until("both refused", lambda: len(pair[1].lines(reason="self_call")) == 2)


def test_policy_denies_allows_and_closes_what_runs(lab: Lab, pair: Pair, app: App) -> None:
    host = str(lab.b.v4)
    running = [lab.a.connect(host, PORT), lab.c.connect(host, PORT)]
    for each in running:
        assert receive(each, 6) == b"hello\n"
    lab.control.set(deny_all_but("a"))
    try:
        assert ended(running[1])
        assert pair[1].wait_line(reason="policy_revoked")["src.addr"].startswith(f"{lab.c.v4}:")
        assert refused(lab.c, host, PORT)
        assert "shop/only" in pair[1].wait_line(reason="policy_no_allow")["error"]
        greet(lab.a.connect(host, PORT))
        running[0].sendall(b"still\n")
        assert receive(running[0], 6) == b"still\n"
        lab.control.set(deny_all_but("nobody"))
        assert ended(running[0])
        assert refused(lab.a, host, PORT)
        assert pair[0].wait_line(reason="peer_denied")["direction"] == "outbound"
        assert pair[0].metric("istio_tcp_connections_closed_total", reporter="source", response_flags="DENY") == 1
    finally:
        lab.control.remove(AUTHORIZATION_TYPE, "shop/only")
    until("the policy is gone", lambda: pair[1].dump()["policies"] == [])
    greet(lab.c.connect(host, PORT))


def test_a_policy_that_cannot_be_read_denies_all_and_is_nacked(lab: Lab, pair: Pair, app: App) -> None:
    lab.control.set_raw(AUTHORIZATION_TYPE, {"shop/broken": b"\xff\xff\xff"})
    try:
        until("a nack", lambda: any("shop/broken" in error for error in lab.control.errors))
        assert refused(lab.a, str(lab.b.v4), PORT)
        assert pair[1].wait_line(reason="policy_unenforceable")["direction"] == "inbound"
    finally:
        lab.control.remove(AUTHORIZATION_TYPE, "shop/broken")
    until("the policy is gone", lambda: pair[1].dump()["policies"] == [])
    greet(lab.a.connect(str(lab.b.v4), PORT))


def test_resets_cross_the_mesh(lab: Lab, pair: Pair, app: App) -> None:
    connected = lab.a.connect(str(lab.b.v4), PORT)
    assert receive(connected, 6) == b"hello\n"
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connected.close()
    assert pair[0].wait_line(reason="reset_by_source")["direction"] == "outbound"
    assert pair[1].wait_line(reason="reset_by_source")["direction"] == "inbound"


def test_the_dump_and_the_ports(lab: Lab, pair: Pair, app: App) -> None:
    with lab.a.connect(str(lab.b.v4), PORT) as connected:
        assert receive(connected, 6) == b"hello\n"
        dump = pair[0].dump()
        assert {each["name"] for each in dump["workloads"]} == {"a", "b"}
        assert dump["services"][0]["endpoints"]["Kubernetes//Pod/shop/b"]["port"] == {"80": PORT}
        (certificate,) = dump["certificates"]
        assert certificate["identity"] == "spiffe://cluster.local/ns/shop/sa/a"
        assert certificate["state"] == "Available"
        assert certificate["certChain"][0]["serialNumber"].isdigit()
        state = dump["workloadState"]["uid-a"]
        assert state["state"] == "Up"
        assert state["connections"]["outbound"][0]["originalDst"] == f"{lab.b.v4}:{PORT}"
    assert pair[0].get("/logging?level=info,xds=trace", method="POST") == (200, "current log level is info,xds=trace\n")
    assert pair[0].get("/logging?level=loud", method="POST")[0] == 400
    assert pair[0].get("/logging?reset", method="POST") == (200, "current log level is debug\n")
    assert pair[0].get("/logging")[0] == 405


def test_the_control_plane_may_go_away_and_come_back(lab: Lab, pair: Pair, app: App) -> None:
    before = len(lab.control.first)
    lab.control.disconnect()
    greet(lab.a.connect(str(lab.b.v4), PORT))
    until("both are back", lambda: len(lab.control.first) == before + 4)
    again = {request.type_url.rpartition(".")[2]: dict(request.initial_resource_versions) for request in lab.control.first[before:]}
    assert set(again["Address"]) == {"Kubernetes//Pod/shop/a", "Kubernetes//Pod/shop/b", str(SERVICE)}


def test_memory_at_rest(pair: Pair) -> None:
    until("start-up is over", lambda: '"message":"ready"' in pair[0].log.read_text())
    assert pair[0].resident() < 45 << 20


def test_a_successor_takes_over_and_the_old_one_drains(lab: Lab, pair: Pair, app: App) -> None:
    """Restarting a tunnel refuses no new connection; running ones go on until the deadline."""
    old = pair[1]
    running = lab.a.connect(str(lab.b.v4), PORT)
    assert receive(running, 6) == b"hello\n"
    successor = lab.start(lab.agent_b)
    successor.ready()
    old.process.send_signal(signal.SIGTERM)
    until("draining", lambda: old.get("/healthz/ready", old.ready_port)[0] == 500)
    for _ in range(20):
        greet(lab.a.connect(str(lab.b.v4), PORT))
    running.sendall(b"still\n")
    assert receive(running, 6) == b"still\n"
    running.close()
    assert old.process.wait(10) == 0
    assert successor.wait_line(direction="inbound")["reason"] == "ok"
    until("all are told", lambda: len(successor.lines(direction="inbound", reason="ok")) == 20)


def test_the_drain_ends_at_its_deadline(lab: Lab, pair: Pair, app: App) -> None:
    """Uses the successor's place: pod b is left without a tunnel, and refuses."""
    tunnel = lab.tunnels[-1]
    tunnel.process.send_signal(signal.SIGTERM)
    assert tunnel.process.wait(15) == 0
    assert refused_by_kernel(lab.c, str(lab.b.v4), PORT)
    tunnel = lab.start(lab.agent_b, CONNECTION_TERMINATION_DEADLINE="500ms")
    tunnel.ready()
    running = lab.a.connect(str(lab.b.v4), PORT), lab.c.connect(str(lab.b.v4), PORT)
    for each in running:
        assert receive(each, 6) == b"hello\n"
    tunnel.process.send_signal(signal.SIGTERM)
    for each in running:
        assert ended(each)
    assert tunnel.process.wait(15) == 0
    assert [line["direction"] for line in tunnel.lines(reason="draining")] == ["inbound", "inbound"]
    lab.start(lab.agent_b).ready()


def test_without_descriptors_new_connections_are_refused_and_running_ones_go_on(lab: Lab, pair: Pair, app: App) -> None:
    tunnel = lab.tunnels[-1]
    # Else the fetch is what runs out of descriptors, and the pod has no certificate until it is tried again.
    until("the certificate is there", lambda: [entry["state"] for entry in tunnel.dump()["certificates"]] == ["Available"])
    running = lab.c.connect(str(lab.b.v4), PORT)
    assert receive(running, 6) == b"hello\n"
    pid = tunnel.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
    try:
        for _ in range(3):
            assert refused(lab.c, str(lab.b.v4), PORT)
        tunnel.wait_line(reason="fds_exhausted")
        running.sendall(b"still\n")
        assert receive(running, 6) == b"still\n"
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    until("it recovers", lambda: not refused_quickly(lab.c, str(lab.b.v4), PORT))
    running.close()
    assert tunnel.metric("culvert_refused_total", reason="fds_exhausted") >= 3


def test_a_removed_pod_takes_its_connections_along(lab: Lab, pair: Pair, app: App) -> None:
    tunnel = pair[0]
    running = lab.a.connect(str(lab.b.v4), PORT)
    assert receive(running, 6) == b"hello\n"
    lab.agent_a.delete("uid-a")
    assert ended(running)
    assert tunnel.wait_line(reason="pod_removed")["direction"] == "outbound"
    until("certificate forgotten", lambda: tunnel.dump()["certificates"] == [])
    with pytest.raises(ConnectionRefusedError):
        lab.a.connect(str(lab.b.v4), PORT)  # captured, and nobody is there: closed, never open
    lab.agent_a.add("uid-a", "a", "shop", "a", lab.a.netns.fd)
    until("served again", lambda: tunnel.dump()["workloadState"].get("uid-a", {}).get("state") == "Up")
    greet(lab.a.connect(str(lab.b.v4), PORT))
