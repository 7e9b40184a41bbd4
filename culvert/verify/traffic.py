"""Marked payloads between pods of different nodes, and the questions that verify asks of tunnel ports. Sockets are made inside the pods'
namespaces, exactly as a program of the pod would make them: the mesh cannot tell the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field

from culvert.playground.layout import netns_path
from culvert.verify.findings import Delivery, Pod
from culvert.verify.world import Cluster, Node
from mesh.io.netns import Namespace
from mesh.io.sockets import socket_address
from mesh.model.workload import HBONE_PORT, IPAddress, SocketAddress

MARKER_SIZE = 32
PAYLOAD = 24 << 10  # bytes of a delivery, each way
DELIVERY_SECONDS = 5.0
AT_A_TIME = 8
PAIRS_PER_POD = 6  # in the mesh, destinations for each source


@dataclass(slots=True)
class Traffic:
    """`markers` must not be seen in the clear; `clear` must be, wherever a delivery outside the mesh arrived, or the capture is blind.

    `own` are client addresses of connections that are verify's own; `questions` says what each of them asked.
    """

    markers: list[bytes] = field(default_factory=list)
    clear: list[tuple[Delivery, bytes]] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    own: set[SocketAddress] = field(default_factory=set)
    questions: dict[SocketAddress, tuple[IPAddress, ssl.TLSVersion]] = field(default_factory=dict)


async def send_all(cluster: Cluster) -> Traffic:
    """Everything: payloads pair by pair in both families, a plaintext control between two nodes, and the questions."""
    traffic = Traffic()
    gate = asyncio.Semaphore(AT_A_TIME)

    async def limited(source: Pod, destination: Pod, family: int) -> None:
        async with gate:
            await _deliver(traffic, source, destination, family)

    jobs = [
        limited(source, destination, family) for source, destination in pairs(cluster.pods) for family in _families(source, destination)
    ]
    await asyncio.gather(*jobs)
    await _control(traffic, cluster.nodes)
    await asyncio.gather(*(_ask(traffic, cluster, pod) for pod in cluster.pods if pod.enrolled))
    return traffic


def pairs(pods: Iterable[Pod]) -> list[tuple[Pod, Pod]]:
    """Source and destination on different nodes: each pod of the mesh to several others; between mesh and outside both ways."""
    chosen: list[tuple[Pod, Pod]] = []
    everyone = sorted(pods, key=str)
    for number, source in enumerate(everyone):
        others = [pod for pod in everyone[number:] + everyone[:number] if pod.node != source.node]
        meshed = [pod for pod in others if pod.enrolled and source.enrolled]
        mixed = [pod for pod in others if pod.enrolled != source.enrolled]
        chosen += [(source, pod) for pod in meshed[:PAIRS_PER_POD]] + [(source, pod) for pod in mixed[:PAIRS_PER_POD]]
    return chosen


def _families(source: Pod, destination: Pod) -> list[int]:
    return [version for version in (4, 6) if _address(source, version) and _address(destination, version)]


def _address(pod: Pod, version: int) -> IPAddress | None:
    return next((address for address in pod.addresses if address.version == version), None)


async def _deliver(traffic: Traffic, source: Pod, destination: Pod, family: int) -> None:
    marker = secrets.token_bytes(MARKER_SIZE)
    meshed = source.enrolled and destination.enrolled
    if meshed:
        traffic.markers.append(marker)
    address = _address(destination, family)
    assert address is not None
    note = ""
    try:
        with _inside(destination.netns) as there, _inside(source.netns) as here:
            listener = there.run(lambda: _listener(family))
            sock = here.run(lambda: _client(family))
        note = await _echo(listener, sock, SocketAddress(address, listener.getsockname()[1]), marker * (PAYLOAD // MARKER_SIZE))
    except OSError as error:
        note = error.strerror or str(error)
    delivery = Delivery(source, destination, family, PAYLOAD, not note, note)
    traffic.deliveries.append(delivery)
    if not meshed and delivery.arrived:
        traffic.clear.append((delivery, marker))


async def _echo(listener: socket.socket, sock: socket.socket, target: SocketAddress, payload: bytes) -> str:
    """Send the payload through and take it back. What went wrong, "" if nothing did."""
    server = await asyncio.start_server(_serve, sock=listener)
    try:
        async with asyncio.timeout(DELIVERY_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, (str(target.ip), target.port))
            reader, writer = await asyncio.open_connection(sock=sock)
            try:
                writer.write(payload)
                writer.write_eof()
                back = await reader.read(-1)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        if not back:
            return "refused"
        return "" if back == payload else f"{len(back)} of {len(payload)} bytes came back, or others"
    except TimeoutError:
        return f"no answer within {DELIVERY_SECONDS:g} s"
    except ConnectionError as error:
        return error.strerror or "refused"
    finally:
        sock.close()
        server.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(await reader.read(-1))
        await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _control(traffic: Traffic, nodes: tuple[Node, ...]) -> None:
    """A marked payload in the clear from node to node: if the capture does not show this one, it is blind and proves nothing."""
    for near, far in itertools.pairwise(nodes):
        source, destination = (Pod("node", node.name, node.name, False, node.addresses, node.netns) for node in (near, far))
        with _inside(far.netns) as there, _inside(near.netns) as here:
            listener = there.run(lambda: _listener(4))
            sock = here.run(lambda near=near: _bound(near.addresses[0]))  # type: ignore[misc]
        name = socket_address(sock.getsockname())
        assert name is not None
        traffic.own.add(name)
        marker = secrets.token_bytes(MARKER_SIZE)
        note = await _echo(listener, sock, SocketAddress(far.addresses[0], listener.getsockname()[1]), marker * 8)
        traffic.clear.append((Delivery(source, destination, 4, MARKER_SIZE * 8, not note, note), marker))


async def _ask(traffic: Traffic, cluster: Cluster, pod: Pod) -> None:
    """Ask the tunnel port of a pod, from another node, which TLS versions it takes. The answers are read from the packets."""
    node = next((node for node in cluster.nodes if node.name != pod.node), None)
    if node is None:
        return
    address = pod.addresses[0]
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with _inside(node.netns) as here:
            sock = here.run(lambda: _bound(next(own for own in node.addresses if own.version == address.version)))
        name = socket_address(sock.getsockname())
        assert name is not None
        traffic.own.add(name)
        traffic.questions[name] = (address, version)
        await asyncio.get_running_loop().run_in_executor(None, _handshake, sock, address, version)


def _handshake(sock: socket.socket, address: IPAddress, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with sock, contextlib.suppress(OSError):  # that it fails is what we want to see
        sock.settimeout(DELIVERY_SECONDS)
        sock.connect((str(address), HBONE_PORT))
        context.wrap_socket(sock).close()


def _inside(netns: str) -> Namespace:
    return Namespace.open(str(netns_path(netns)))


def _listener(family: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
    sock.bind(("::" if family == 6 else "0.0.0.0", 0))
    sock.listen(16)
    return sock


def _client(family: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
    sock.setblocking(False)
    return sock


def _bound(address: IPAddress) -> socket.socket:
    """Bound before it connects, so that its address is known whatever becomes of the connection."""
    sock = _client(address.version)
    sock.bind((str(address), 0))
    return sock
