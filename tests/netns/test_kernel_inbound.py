"""Inbound: what reaches an enrolled pod's app, by which way, and what its app then sees."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from ctypes import c_uint64

import pytest

from agent.bpf import abi
from agent.bpf.maps import Map
from tests.bpf.lab import IP_TRANSPARENT, IPV6_TRANSPARENT, App, Mesh, Tunnel, expect_reset, greet, mesh, until

pytestmark = pytest.mark.netns

PORT = 7100


@pytest.fixture(scope="module")
def lab() -> Iterator[Mesh]:
    with mesh("inbound") as made:
        yield made


@pytest.fixture(params=["::", "0.0.0.0"], ids=["dual-stack", "v4-only"])
def app(request: pytest.FixtureRequest, lab: Mesh) -> Iterator[App]:
    with closing(App(lab.b, PORT, request.param)) as made:
        yield made


@pytest.mark.parametrize(("host", "client"), [("10.98.0.3", "10.98.0.4"), ("fd98::3", "fd98::4"), ("::ffff:10.98.0.3", "10.98.0.4")])
def test_an_outsider_is_steered_and_the_app_sees_him(lab: Mesh, app: App, host: str, client: str) -> None:
    if host == "fd98::3" and app.host == "0.0.0.0":
        pytest.skip("the app does not serve IPv6")
    with lab.counted(steered=1, delivered=1, captured=0):
        connected = lab.c.connect(host, PORT)
        assert connected.getpeername()[:2] == (host, PORT)
        greet(connected)
    (peer, own), (seen_peer, seen_own, mark) = lab.tunnel_b.inbound[-1], app.seen[-1]
    assert (peer[0], own) == (client, (host.removeprefix("::ffff:"), PORT))
    assert (seen_peer[0], seen_own) == (client, own)
    assert mark == abi.MARK_DELIVERY  # and no bit of the secret


@pytest.mark.parametrize("host", ["10.98.0.3", "fd98::3"])
def test_pod_to_pod_passes_both_tunnels(lab: Mesh, host: str) -> None:
    with closing(App(lab.b)) as app, lab.counted(captured=1, steered=1, delivered=1):
        greet(lab.a.connect(host, PORT), b"x" * 300_000)
    assert app.seen[-1][0][0] == str(lab.a.v6 if ":" in host else lab.a.v4)


@pytest.mark.parametrize("host", ["10.98.0.3", "fd98::3"])
def test_a_port_where_nobody_listens_is_steered_too(lab: Mesh, host: str) -> None:
    """Whether there is an app is not told before policy has spoken; then the tunnel learns it at once (the pod's reset comes over lo)."""
    began = time.monotonic()
    with lab.counted(steered=1, delivered=1):
        expect_reset(lab.c, host, 7999)
    assert time.monotonic() - began < 3  # not the tunnel's timeout


@pytest.mark.parametrize("port", [15001, 15006])
def test_the_tunnels_ports_from_outside_are_inbound_like_any(lab: Mesh, port: int) -> None:
    """Nobody outside reaches the outbound listener, although it is bound to any address."""
    unanswered, carried = lab.tunnel_b.unanswered, len(lab.tunnel_b.inbound)
    # This tunnel is careless and delivers to its own port: the kernel saves it from feeding itself.
    with lab.counted(steered=1, delivered=0, kernel_tunnel_port=1):
        expect_reset(lab.c, "10.98.0.3", port)
    assert (lab.tunnel_b.unanswered, len(lab.tunnel_b.inbound)) == (unanswered, carried + 1)


def test_hbone_is_not_steered(lab: Mesh) -> None:
    with closing(App(lab.b, 15008)) as hbone, lab.counted(steered=0):
        greet(lab.c.connect("10.98.0.3", 15008))
        greet(lab.c.connect("fd98::3", 15008))
    assert [peer[0] for peer, _, _ in hbone.seen] == ["10.98.0.4", "fd98::4"]


def test_datagrams_are_not_steered(lab: Mesh) -> None:
    with lab.counted(steered=0), lab.b.socket(kind=socket.SOCK_DGRAM) as server, lab.c.socket(kind=socket.SOCK_DGRAM) as client:
        server.bind(("0.0.0.0", PORT))
        client.sendto(b"hello", ("10.98.0.3", PORT))
        data, (host, _) = server.recvfrom(100)
        assert (data, host) == (b"hello", "10.98.0.4")


@pytest.mark.parametrize("host", ["10.98.0.3", "fd98::3"])
def test_without_a_listener_inbound_is_refused(lab: Mesh, host: str) -> None:
    lab.tunnel_b.close()
    try:
        until(lambda: not lab.programs.has_listener(lab.b.cookie))
        with closing(App(lab.b)) as app, lab.counted(kernel_no_listener=1), pytest.raises(ConnectionRefusedError):
            lab.c.connect(host, PORT)
        assert app.seen == []
    finally:
        lab.tunnel_b = Tunnel(lab.b, lab.programs.mark)
    with closing(App(lab.b)):
        greet(lab.c.connect(host, PORT))


def test_the_newest_listener_takes_over(lab: Mesh) -> None:
    """A tunnel restarts: the new one listens before the old one stops."""
    old, lab.tunnel_b = lab.tunnel_b, Tunnel(lab.b, lab.programs.mark)
    with closing(App(lab.b)):
        greet(lab.c.connect("10.98.0.3", PORT))
        old.close()
        greet(lab.c.connect("10.98.0.3", PORT))
    assert len(lab.tunnel_b.inbound) == 2


@pytest.mark.parametrize("mark", [0, 0x539, 0x111], ids=hex)
def test_a_listener_without_the_secret_is_never_adopted(lab: Mesh, mark: int) -> None:
    pod = lab.node.pod()
    with closing(Tunnel(pod, mark, mark_before_listen=False)), closing(Tunnel(pod, mark)):
        assert not lab.programs.adopt_listeners(pod.netns)


@pytest.mark.parametrize("version", [4, 6])
def test_a_tunnel_that_marks_after_listen_is_adopted(lab: Mesh, version: int) -> None:
    """As Istio's does. The programs of the node's other pods are not disturbed."""
    pod = lab.node.pod()
    host = str(pod.v4 if version == 4 else pod.v6)
    try:
        lab.node.route_deliveries(pod)
        with closing(Tunnel(pod, lab.programs.mark, mark_before_listen=False)), closing(App(pod)) as app:
            lab.programs.enrol(pod.cookie, pod.netns.fd, pod.addresses)
            assert not lab.programs.has_listener(pod.cookie)
            with pytest.raises(ConnectionRefusedError):
                lab.c.connect(host, PORT)
            assert lab.programs.adopt_listeners(pod.netns)
            greet(lab.c.connect(host, PORT))
            assert app.seen[-1][2] == abi.MARK_DELIVERY
    finally:
        lab.programs.unenrol(pod.cookie)


@pytest.mark.parametrize(("host", "flag"), [("10.98.0.33", "-4"), ("fd98::33", "-6")])
def test_an_address_that_is_not_registered_is_refused(lab: Mesh, host: str, flag: str) -> None:
    lab.node.ip(f"{flag} addr add {host}/{24 if flag == '-4' else 64} dev eth0 {'' if flag == '-4' else 'nodad'}", inside=lab.b.name)
    lab.programs.drain_events()
    with closing(App(lab.b)) as app:
        with lab.counted(kernel_unknown_address=1), pytest.raises(ConnectionRefusedError):
            lab.c.connect(host, PORT)
        assert app.seen == []
        (event,) = lab.programs.drain_events()
        assert event.destination is not None
        assert (event.reason, str(event.destination.ip), event.destination.port) == ("kernel_unknown_address", host, PORT)
    lab.node.ip(f"{flag} addr del {host}/{24 if flag == '-4' else 64} dev eth0", inside=lab.b.name)


@pytest.mark.parametrize("host", ["10.98.0.3", "fd98::3"])
def test_the_nodes_own_probe_reaches_the_app(lab: Mesh, host: str) -> None:
    with closing(App(lab.b)) as app, lab.counted(kernel_node_probe=1, steered=0):
        greet(lab.node.host.connect(host, PORT))
    assert app.seen[-1][0][0] == str(lab.node.host.v6 if ":" in host else lab.node.host.v4)
    assert app.seen[-1][2] == 0


@pytest.mark.parametrize("host", ["10.98.0.3", "fd98::3"])
def test_the_nodes_address_alone_opens_nothing(lab: Mesh, host: str) -> None:
    """A pod that sends with the node's source address is steered like anybody, whatever ports the node's probes have used."""
    source = "fd98::1" if ":" in host else "10.98.0.1"
    with closing(App(lab.b)):
        probe = lab.node.host.connect(host, PORT)
        port = probe.getsockname()[1]
        greet(probe)
        assert leftover_probes(lab) == []
    with lab.counted(steered=1), lab.c.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as forged:
        forged.settimeout(0.3)
        forged.setsockopt(*((socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1) if ":" in host else (socket.SOL_IP, IP_TRANSPARENT, 1)))
        forged.bind((source, port))
        with pytest.raises(OSError, match="timed out"):
            forged.connect((host, PORT))


def leftover_probes(lab: Mesh) -> list[abi.Tuple]:
    probes = Map("cvt_probes", lab.programs.map_fd("cvt_probes"), abi.Tuple, c_uint64)
    return list(probes.keys())


def test_enrolment_is_idempotent_and_addresses_may_change(lab: Mesh) -> None:
    try:
        for _ in range(3):
            lab.programs.enrol(lab.b.cookie, lab.b.netns.fd, lab.b.addresses)
        assert set(lab.programs.enrolled()[lab.b.cookie]) == set(lab.b.addresses)
        lab.programs.enrol(lab.b.cookie, lab.b.netns.fd, [lab.b.v4])
        assert lab.programs.enrolled()[lab.b.cookie] == [lab.b.v4]
        with closing(App(lab.b)):
            with lab.counted(kernel_unknown_address=1), pytest.raises(ConnectionRefusedError):
                lab.c.connect("fd98::3", PORT)
            with lab.counted(steered=1):  # once: enrolling again has not attached the program again
                greet(lab.c.connect("10.98.0.3", PORT))
    finally:
        lab.programs.enrol(lab.b.cookie, lab.b.netns.fd, lab.b.addresses)


def test_an_address_that_moved_to_another_pod_survives_the_old_pods_end(lab: Mesh) -> None:
    """A pod's address is given to a new pod while the old one is on its way out."""
    lab.programs.unenrol(lab.b.cookie)
    lab.programs.prepare(12345, lab.b.addresses)
    lab.programs.release(12345)
    lab.programs.enrol(lab.b.cookie, lab.b.netns.fd, lab.b.addresses)
    lab.programs.unenrol(12345)
    with closing(App(lab.b)), lab.counted(steered=1):
        greet(lab.c.connect("10.98.0.3", PORT))
