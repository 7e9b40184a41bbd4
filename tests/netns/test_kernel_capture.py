"""Outbound: what an app of an enrolled pod can do with a socket, and what it then sees."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.bpf.lab import SO_ORIGINAL_DST, App, Mesh, Pod, greet, mesh, receive, run, until

pytestmark = pytest.mark.netns

PORT = 7100
AF_UNSPEC_ADDRESS = (ctypes.c_ubyte * 16)()
MSG_FASTOPEN, TCP_FASTOPEN_CONNECT, IPPROTO_MPTCP = 0x20000000, 30, 262
LOOPBACKS = ["127.0.0.1", "127.3.4.5", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Mesh]:
    with mesh("capture") as made:
        yield made


@pytest.fixture
def server(lab: Mesh) -> Iterator[App]:
    """An app outside the mesh, so that only the client's side is in play."""
    with closing(App(lab.c)) as app:
        yield app


@pytest.mark.parametrize(
    ("host", "asked", "own"),
    [
        ("10.98.0.4", "10.98.0.4", "10.98.0.2"),
        ("fd98::4", "fd98::4", "fd98::2"),
        ("::ffff:10.98.0.4", "10.98.0.4", "::ffff:10.98.0.2"),
    ],
)
def test_captured_and_none_the_wiser(lab: Mesh, server: App, host: str, asked: str, own: str) -> None:
    """The tunnel learns where the app meant to go; the app sees its peer and its own address as if nobody were between."""
    with lab.counted(captured=1):
        client = lab.a.connect(host, PORT)
        assert client.getpeername()[:2] == (host, PORT)
        assert client.getsockname()[0] == own
        greet(client)
    assert lab.tunnel_a.outbound[-1] == (asked, PORT)
    # The tunnel dialled from the pod's own namespace, so the server sees the pod.
    assert server.seen[-1][0][0] == own.removeprefix("::ffff:")


def test_a_namespace_that_is_not_enrolled_is_untouched(lab: Mesh, server: App) -> None:
    with lab.counted(captured=0):
        client = lab.c.connect("10.98.0.4", PORT)
        assert client.getsockname()[0] == "10.98.0.4"
        greet(client)


@pytest.mark.parametrize("mark", [0x539, 0x111, 0x7FFFF539], ids=hex)
def test_only_the_secret_mark_escapes_capture(lab: Mesh, server: App, mark: int) -> None:
    assert mark != lab.programs.mark
    with lab.counted(captured=1):
        greet(lab.a.connect("10.98.0.4", PORT, lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)))
    with lab.counted(captured=0):
        greet(lab.a.connect("10.98.0.4", PORT, lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, lab.programs.mark)))


@pytest.mark.parametrize("host", ["10.98.0.4", "fd98::4"])
def test_non_blocking_connect(lab: Mesh, server: App, host: str) -> None:
    client = lab.a.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    client.setblocking(False)
    with lab.counted(captured=1):
        assert client.connect_ex((host, PORT)) == errno.EINPROGRESS
        assert select.select([], [client], [], 5)[1] == [client]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert client.getpeername()[:2] == (host, PORT)
    client.settimeout(5)
    greet(client)


def test_fast_open_does_not_slip_through(lab: Mesh, server: App) -> None:
    """sendto with MSG_FASTOPEN connects without connect(2)."""
    lab.a.netns.run(lambda: Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3"))
    with lab.counted(captured=2), lab.a.socket() as client, lab.a.socket() as deferred:
        client.settimeout(None)  # Fast Open on a non-blocking socket answers EINPROGRESS
        client.sendto(b"ping\n", MSG_FASTOPEN, ("10.98.0.4", PORT))
        assert receive(client, 11) == b"hello\nping\n"
        assert client.getpeername() == ("10.98.0.4", PORT)
        deferred.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        deferred.connect(("10.98.0.4", PORT))
        deferred.sendall(b"ping\n")
        assert receive(deferred, 11) == b"hello\nping\n"
        assert deferred.getpeername() == ("10.98.0.4", PORT)


@pytest.mark.parametrize("host", ["10.98.0.4", "fd98::4"])
def test_multipath_tcp_is_captured_as_tcp(lab: Mesh, server: App, host: str) -> None:
    try:
        client = lab.a.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, protocol=IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP: {error}")
    with lab.counted(captured=1):
        client.connect((host, PORT))
    assert client.getpeername()[:2] == (host, PORT)
    assert client.getsockname()[0] == str(lab.a.v6 if ":" in host else lab.a.v4)
    greet(client)


@pytest.mark.parametrize("device", ["eth0", "lo"])
def test_a_socket_bound_to_a_device_is_captured(lab: Mesh, server: App, device: str) -> None:
    with lab.counted(captured=1):
        greet(lab.a.connect("10.98.0.4", PORT, lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())))


def test_a_device_that_cannot_be_taken_off_is_refused_and_counted(lab: Mesh, server: App) -> None:
    """Binding a socket to a device needs no right, undoing it needs CAP_NET_RAW: such a socket cannot be redirected, so it is refused."""
    code = (
        "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0'); "
        f"print(s.connect_ex(('10.98.0.4', {PORT})))"
    )
    unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "/usr/bin/python3", "-c", code]
    with lab.counted(kernel_unredirectable=1):
        done = subprocess.run(["nsenter", f"--net=/run/netns/{lab.a.name}", *unprivileged], capture_output=True, text=True, check=True)
    assert int(done.stdout) == errno.EPERM


@pytest.mark.parametrize(("host", "source"), [("10.98.0.4", "10.98.0.2"), ("fd98::4", "fd98::2")])
def test_a_socket_bound_to_the_pods_address_keeps_it(lab: Mesh, server: App, host: str, source: str) -> None:
    with lab.counted(captured=1):
        client = lab.a.connect(host, PORT, lambda s: s.bind((source, 0)))
    assert client.getsockname()[0] == source
    assert client.getpeername()[:2] == (host, PORT)
    greet(client)


def test_undone_connect_leaves_no_false_names(lab: Mesh, server: App) -> None:
    """connect(2) with AF_UNSPEC takes a captured socket back; what it does next is told as it is."""
    with closing(App(lab.a)):
        accepted = len(lab.tunnel_a.outbound) + lab.tunnel_a.unanswered
        client = lab.a.connect("10.98.0.4", PORT)
        assert ctypes.CDLL(None).connect(client.fileno(), AF_UNSPEC_ADDRESS, 16) == 0
        until(lambda: len(lab.tunnel_a.outbound) + lab.tunnel_a.unanswered > accepted)  # it is late at times, and counts then
        with pytest.raises(OSError, match="not connected"):
            client.getpeername()
        assert client.getsockname()[0] == "0.0.0.0"
        client.connect(("127.0.0.1", PORT))
        assert (client.getpeername(), client.getsockname()[0]) == (("127.0.0.1", PORT), "127.0.0.1")
        greet(client)


def test_failed_connect_leaves_no_false_names(lab: Mesh) -> None:
    with lab.a.socket() as client:
        client.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", 9))
        assert client.getsockname()[0] == "127.0.0.1"


def test_unconnected_listening_and_datagram_sockets_are_untouched(lab: Mesh) -> None:
    with (
        lab.counted(captured=0),
        lab.a.socket(kind=socket.SOCK_DGRAM) as datagram,
        lab.a.socket() as fresh,
        lab.a.listen(7200, "127.0.0.1") as server,
    ):
        datagram.connect(("10.98.0.4", 15001))
        assert (datagram.getpeername(), datagram.getsockname()[0]) == (("10.98.0.4", 15001), "10.98.0.2")
        datagram.sendto(b"x", ("10.98.0.4", 15001))
        assert fresh.getsockname() == ("0.0.0.0", 0)
        assert server.getsockname() == ("127.0.0.1", 7200)


@pytest.mark.parametrize("host", [*LOOPBACKS, "10.98.0.2", "fd98::2", "::ffff:10.98.0.2"])
@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_the_tunnels_ports_are_refused_to_apps(lab: Mesh, host: str, port: int) -> None:
    """The tunnel would relay such a connection to itself until it is out of descriptors."""
    accepted = lab.tunnel_a.unanswered
    with lab.counted(kernel_tunnel_port=1), pytest.raises(ConnectionRefusedError):
        lab.a.connect(host, port)
    assert lab.tunnel_a.unanswered == accepted


def test_the_tunnels_ports_of_others_are_ordinary_destinations(lab: Mesh) -> None:
    with closing(App(lab.c, 15006)), lab.counted(captured=1):
        greet(lab.a.connect("10.98.0.4", 15006))


@pytest.mark.parametrize("host", LOOPBACKS)
def test_loopback_stays_in_the_pod(lab: Mesh, host: str) -> None:
    with closing(App(lab.a)), lab.counted(captured=0, self_call=0):
        client = lab.a.connect(host, PORT)
        assert client.getpeername()[0].removeprefix("::ffff:").startswith(("127.", "::1"))
        greet(client)


@pytest.mark.parametrize("host", ["10.98.0.2", "fd98::2", "::ffff:10.98.0.2"])
def test_a_pod_that_calls_itself_is_not_in_the_mesh(lab: Mesh, host: str) -> None:
    with closing(App(lab.a)) as app, lab.counted(self_call=1, captured=0, steered=0):
        greet(lab.a.connect(host, PORT))
    assert app.seen[-1][0][0] == host.removeprefix("::ffff:")


@pytest.mark.parametrize("host", ["224.0.0.1", "255.255.255.255", "ff02::1"])
def test_multicast_gets_the_kernels_own_answer(lab: Mesh, host: str) -> None:
    with lab.counted(captured=0), pytest.raises(OSError) as raised:  # noqa: PT011 (the number is checked below)
        lab.a.connect(host, PORT)
    assert raised.value.errno in (errno.ENETUNREACH, errno.EINVAL)


def test_ipv6_link_local_is_let_through_and_counted(lab: Mesh, server: App) -> None:
    """Its interface is not part of what the tunnel could learn."""
    interface = lab.a.netns.run(lambda: socket.if_nametoindex("eth0"))
    with lab.counted(captured=0, link_local=1), lab.a.socket(socket.AF_INET6) as client:
        client.connect((link_local(lab.c), PORT, 0, interface))
        assert receive(client, 6) == b"hello\n"


def link_local(pod: Pod) -> str:
    lines = pod.netns.run(lambda: Path("/proc/thread-self/net/if_inet6").read_text()).splitlines()
    (digits,) = (line.split()[0] for line in lines if line.startswith("fe80") and line.endswith("eth0"))
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))


def test_no_tunnel_means_refused_never_open(lab: Mesh, server: App) -> None:
    """An enrolled pod without a tunnel: its connects fail, they do not go out in clear."""
    pod = lab.node.pod()
    lab.programs.enrol(pod.cookie, pod.netns.fd, pod.addresses)
    seen = len(server.seen)
    try:
        for host in ("10.98.0.4", "fd98::4"):
            with pytest.raises(ConnectionRefusedError):
                pod.connect(host, PORT)
        assert len(server.seen) == seen
    finally:
        lab.programs.unenrol(pod.cookie)
    greet(pod.connect("10.98.0.4", PORT))


def test_an_original_destination_that_is_not_known_is_an_error(lab: Mesh) -> None:
    """Where connections are tracked the kernel itself would answer, with the address of the tunnel."""
    run(f"ip netns exec {lab.a.name} nft add table inet t")
    run(f"ip netns exec {lab.a.name} nft add chain inet t c {{ type filter hook input priority 0 ; }}")
    run(f"ip netns exec {lab.a.name} nft add rule inet t c ct state invalid drop")
    try:
        with lab.a.socket() as ours, closing(App(lab.c)):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, lab.programs.mark)
            with contextlib.suppress(ConnectionResetError):  # the tunnel refuses it at once
                ours.connect(("127.0.0.1", 15001))
            until(lambda: lab.tunnel_a.unanswered == 1)
            greet(lab.a.connect("10.98.0.4", PORT))
        assert lab.tunnel_a.outbound[-1] == ("10.98.0.4", PORT)
    finally:
        run(f"ip netns exec {lab.a.name} nft delete table inet t")
        lab.tunnel_a.unanswered = 0


def test_original_destination_elsewhere_is_left_to_the_kernel(lab: Mesh) -> None:
    """On other ports, and in namespaces that are not enrolled: whatever the kernel says there."""
    for pod, port in ((lab.a, 7300), (lab.c, 15001)):
        with pod.listen(port, "127.0.0.1") as server, pod.connect("127.0.0.1", port) as client:
            accepted, _ = server.accept()
            with accepted, pytest.raises(OSError):  # noqa: PT011 (ENOPROTOOPT or ENOENT, as connection tracking is built)
                accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            assert client.getpeername() == ("127.0.0.1", port)


def test_other_socket_options_are_as_ever(lab: Mesh) -> None:
    """The getsockopt program sees every getsockopt of the machine."""
    with lab.a.socket() as ours, socket.socket() as plain:
        for level, option in (
            (socket.SOL_SOCKET, socket.SO_SNDBUF),
            (socket.IPPROTO_TCP, socket.TCP_MAXSEG),
            (socket.SOL_IP, socket.IP_TTL),
        ):
            assert ours.getsockopt(level, option) == plain.getsockopt(level, option)
        assert len(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1024)) > 100


def test_an_app_in_another_process(lab: Mesh, server: App) -> None:
    """The tests' threads share the tunnel's process: nothing may depend on that."""
    code = (
        f"import socket; c = socket.create_connection(('10.98.0.4', {PORT}), 5); "
        "print(c.getpeername()[0], c.getsockname()[0], c.recv(6, socket.MSG_WAITALL))"
    )
    with lab.counted(captured=1):
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{lab.a.name}", sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert done.stdout.split()[:2] == ["10.98.0.4", "10.98.0.2"]


def test_refusals_arrive_as_events_and_are_bounded(lab: Mesh) -> None:
    lab.programs.drain_events()
    select.select([], [], [], 1.1)  # a new second for the burst limit
    with lab.counted(kernel_tunnel_port=200):
        for _ in range(200):
            with pytest.raises(ConnectionRefusedError):
                lab.a.connect("127.0.0.1", 15001)
    assert select.select([lab.programs.event_fd], [], [], 1)[0]
    events = lab.programs.drain_events()
    assert 0 < len(events) < 200
    assert {(e.reason, e.netns, str(e.destination), e.source) for e in events} == {
        ("kernel_tunnel_port", lab.a.cookie, "127.0.0.1:15001", None)
    }
    assert lab.programs.drain_events() == []
