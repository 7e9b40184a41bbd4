"""A node made of network namespaces, and a tunnel small enough to read, for tests of the kernel programs.

Everything is named `cvt-<pid of the test process>-…`, so that whoever starts next can remove what a killed run has left (`sweep`).

    pod a ── br0 (namespace "node", 10.98.0.1, fd98::1) ── pod b, pod c …
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from agent.bpf import BusyError, Programs, uninstall
from agent.bpf.pins import DEFAULT_ROOT
from mesh.io.netns import Namespace
from mesh.model.workload import IPAddress

PREFIX = "cvt-"
Socket = socket.socket  # the name inside Pod, which has a method `socket`
SO_ORIGINAL_DST = 80
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
TIMEOUT = 5.0


def run(command: str) -> str:
    """Run words separated by spaces; raises with what the tool said."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command}: {done.stderr.strip()}")
    return done.stdout


def _remove_netns(name: str) -> None:
    if Path("/run/netns", name).exists():
        run(f"ip netns del {name}")


def is_stale(name: str) -> bool:
    """Whether `name` was made by a test process that is no more."""
    pid = name.removeprefix(PREFIX).split("-")[0]
    return name.startswith(PREFIX) and pid.isdecimal() and not Path(f"/proc/{pid}").exists()


def sweep() -> None:
    """Remove what killed runs have left."""
    for directory, remove in ((Path("/run/netns"), lambda name: run(f"ip netns del {name}")), (Path(DEFAULT_ROOT), uninstall)):
        for name in os.listdir(directory) if directory.is_dir() else ():
            if is_stale(name):
                with contextlib.suppress(AssertionError, BusyError, OSError):
                    remove(name)


@dataclass
class Pod:
    """A namespace with one v4 and one v6 address."""

    name: str
    netns: Namespace
    v4: IPAddress
    v6: IPAddress

    @property
    def addresses(self) -> list[IPAddress]:
        return [self.v4, self.v6]

    @property
    def cookie(self) -> int:
        return self.netns.cookie

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> Socket:
        made = self.netns.run(lambda: socket.socket(family, kind, protocol))
        made.settimeout(TIMEOUT)
        return made

    def connect(self, host: str, port: int, prepare: Callable[[Socket], None] = lambda _: None) -> Socket:
        """A socket of this pod, connected. IPv6 and v4-mapped hosts by an AF_INET6 socket."""
        made = self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            prepare(made)
            made.connect((host, port))
        except BaseException:
            made.close()
            raise
        return made

    def listen(self, port: int, host: str = "::") -> Socket:
        made = self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, port))
        made.listen(128)
        return made


class Node:
    """The namespaces of one node. Its pods have the addresses 10.98.0.<n> and fd98::<n>, n from 2 on (written in decimal in both)."""

    def __init__(self, label: str = "n") -> None:
        self._stack = contextlib.ExitStack()
        self._label = label
        self._pods = 1  # the node itself
        self.name = self._make("node")
        self.netns = self._stack.enter_context(Namespace.open(f"/run/netns/{self.name}"))
        self.ip("link add br0 type bridge", "link set br0 up", "addr add 10.98.0.1/24 dev br0", "addr add fd98::1/64 dev br0 nodad")
        self.instance = f"{PREFIX}{os.getpid()}-{label}"
        # The node itself, seen as something that can connect.
        self.host = Pod("node", self.netns, ip_address("10.98.0.1"), ip_address("fd98::1"))

    def _make(self, name: str) -> str:
        full = f"{PREFIX}{os.getpid()}-{self._label}-{name}"
        run(f"ip netns add {full}")
        self._stack.callback(_remove_netns, full)
        # Nobody else can have a pod's address; without the question, which takes up to two seconds, addresses are in use at once.
        run(f"ip netns exec {full} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0")
        run(f"ip -n {full} link set lo up")
        return full

    def ip(self, *commands: str, inside: str | None = None) -> None:
        for command in commands:
            run(f"ip -n {inside or self.name} {command}")

    def pod(self) -> Pod:
        self._pods += 1
        number = self._pods
        name = self._make(f"pod{number}")
        self.ip(f"link add v{number} type veth peer name eth0 netns {name}", f"link set v{number} master br0 up")
        self.ip(
            "link set eth0 up",
            f"addr add 10.98.0.{number}/24 dev eth0",
            f"addr add fd98::{number}/64 dev eth0 nodad",
            "route add default via 10.98.0.1",
            "-6 route add default via fd98::1",
            inside=name,
        )
        netns = self._stack.enter_context(Namespace.open(f"/run/netns/{name}"))
        return Pod(name, netns, ip_address(f"10.98.0.{number}"), ip_address(f"fd98::{number}"))

    def route_deliveries(self, pod: Pod) -> None:
        """What the agent does beside the programs: the app's replies, marked 0x111, go back over lo; resets that no socket sends, too."""
        for family, everything in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
            self.ip(f"{family} rule add fwmark 0x111/0xfff priority 32764 lookup 100", inside=pod.name)
            self.ip(f"{family} route add local {everything} dev lo table 100", inside=pod.name)
        for switch in ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"):
            pod.netns.run(lambda switch=switch: Path("/proc/sys/net", switch).write_text("1"))  # type: ignore[misc]

    def close(self) -> None:
        self._stack.close()


def unmapped(address: tuple[str, int]) -> tuple[str, int]:
    ip = ip_address(address[0])
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return str(mapped or ip), address[1]


def original_destination(accepted: socket.socket) -> tuple[str, int]:
    """SO_ORIGINAL_DST, asked as Istio's tunnel does: first at SOL_IP, then at SOL_IPV6. Raises OSError."""
    with contextlib.suppress(OSError):
        raw = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        return str(IPv4Address(raw[4:8])), struct.unpack("!H", raw[2:4])[0]
    raw = accepted.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    return str(IPv6Address(raw[8:24])), struct.unpack("!H", raw[2:4])[0]


@dataclass
class Tunnel:
    """Both directions for one pod, in plain TCP: captured connections go where they meant to go, steered ones are delivered."""

    pod: Pod
    mark: int
    mark_before_listen: bool = True
    outbound: list[tuple[str, int]] = field(default_factory=list)  # original destinations, as they came
    unanswered: int = 0  # accepted on 15001 without an original destination
    inbound: list[tuple[tuple[str, int], tuple[str, int]]] = field(default_factory=list)  # (client, the pod's end)
    _sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._serve(15006, self._deliver)
        self._serve(15001, self._dial)

    def _serve(self, port: int, handle: Callable[[socket.socket], socket.socket]) -> None:
        listener = self.pod.socket(socket.AF_INET6)
        listener.settimeout(None)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        if self.mark_before_listen:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
        listener.bind(("::", port))
        listener.listen(1024)
        if not self.mark_before_listen:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
        self._sockets.append(listener)
        threading.Thread(target=self._accept, args=(listener, handle), daemon=True).start()

    def _accept(self, listener: socket.socket, handle: Callable[[socket.socket], socket.socket]) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near, handle), daemon=True).start()

    def _carry(self, near: socket.socket, handle: Callable[[socket.socket], socket.socket]) -> None:
        try:
            far = handle(near)
        except OSError:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            near.close()
            return
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()
        near.close()
        far.close()

    def _ours(self, host: str) -> socket.socket:
        made = self.pod.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
        return made

    def _dial(self, near: socket.socket) -> socket.socket:
        try:
            destination = original_destination(near)
        except OSError:
            self.unanswered += 1
            raise
        self.outbound.append(destination)
        far = self._ours(destination[0])
        far.connect(destination)
        return far

    def _deliver(self, near: socket.socket) -> socket.socket:
        client, server = unmapped(near.getpeername()[:2]), unmapped(near.getsockname()[:2])
        self.inbound.append((client, server))
        return self.deliver(client[0], server)

    def deliver(self, client: str, server: tuple[str, int]) -> socket.socket:
        """Connect to the pod's own app in the client's name."""
        far = self._ours(server[0])
        if ":" in server[0]:
            far.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            far.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        try:
            far.bind((client, 0))
            far.connect(server)
        except OSError:
            far.close()
            raise
        return far

    def close(self) -> None:
        for listener in self._sockets:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    source.settimeout(None)
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class App:
    """A server that greets (server first), echoes one line, and remembers what it saw of each connection."""

    pod: Pod
    port: int = 7100
    host: str = "::"
    seen: list[tuple[tuple[str, int], tuple[str, int], int]] = field(default_factory=list)  # (peer, own end, mark)

    def __post_init__(self) -> None:
        self._listener = self.pod.listen(self.port, self.host)
        self._listener.settimeout(None)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        mark = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
        with contextlib.suppress(OSError), accepted:
            self.seen.append((unmapped(accepted.getpeername()[:2]), unmapped(accepted.getsockname()[:2]), mark))
            accepted.sendall(b"hello\n")
            while data := accepted.recv(65536):
                accepted.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    """Wait for something that another thread or the kernel does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def receive(connected: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or what came before the end. (MSG_WAITALL means nothing on a socket with a timeout.)"""
    parts = []
    while size and (part := connected.recv(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def expect_reset(pod: Pod, host: str, port: int) -> None:
    """The tunnel accepts, then resets: the client may meet the reset while it still waits for its connect."""
    try:
        with pod.connect(host, port) as connected:
            assert connected.recv(1) == b"nothing but a reset"
    except ConnectionResetError:
        return


def greet(connected: socket.socket, payload: bytes = b"ping\n") -> None:
    """Holds a whole conversation with an App and ends it by half-close."""
    with connected:
        assert receive(connected, 6) == b"hello\n"
        sender = threading.Thread(target=connected.sendall, args=(payload,))
        sender.start()
        assert receive(connected, len(payload)) == payload
        sender.join()
        connected.shutdown(socket.SHUT_WR)
        assert connected.recv(1) == b""


@dataclass
class Mesh:
    """Pods `a` and `b` are enrolled and have tunnels; `c` is outside the mesh."""

    node: Node
    programs: Programs
    a: Pod
    b: Pod
    c: Pod
    tunnel_a: Tunnel
    tunnel_b: Tunnel

    def counted(self, **expected: int) -> contextlib.AbstractContextManager[None]:
        """The block raises these kernel counters by exactly so much, and none of the refusals else."""
        return counted(self.programs, **expected)


@contextlib.contextmanager
def counted(programs: Programs, **expected: int) -> Iterator[None]:
    before = programs.counters()
    yield
    grown = {word: count - before[word] for word, count in programs.counters().items()}
    others = {word: 0 for word in grown if word.startswith("kernel_")}
    assert {word: grown[word] for word in others | expected} == others | expected


@contextlib.contextmanager
def mesh(label: str = "m") -> Iterator[Mesh]:
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(node(label))
        a, b, c = made.pod(), made.pod(), made.pod()
        stack.callback(uninstall, made.instance)
        programs = stack.enter_context(contextlib.closing(Programs.load_or_adopt(made.instance, node_cookie=made.netns.cookie)))
        tunnels = []
        for pod in (a, b):
            tunnels.append(stack.enter_context(contextlib.closing(Tunnel(pod, programs.mark))))
            made.route_deliveries(pod)
            programs.enrol(pod.cookie, pod.netns.fd, pod.addresses)
        yield Mesh(made, programs, a, b, c, *tunnels)


@contextlib.contextmanager
def node(label: str = "n") -> Iterator[Node]:
    sweep()
    made = Node(label)
    try:
        yield made
    finally:
        made.close()
