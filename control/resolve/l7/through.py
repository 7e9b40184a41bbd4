"""Services with a waypoint, as the clients that we configure see them.

What L7 policies say of such a service is enforced at its waypoint, where nodes' tunnels take what plain clients send to its address. A
client that we configure goes nowhere else: to it such a service is that address, and nothing more. What users wrote about the service is
for the waypoint to do, once.

    Envoys and gRPC clients    connect to the address, and the tunnel of their node takes that to the waypoint
    Envoys that tunnel         ask the waypoint's pods for the address themselves
    Envoys that bind           have the address themselves: without tunnels of their own they get nowhere

One without an address (headless) is none of these: clients look up who is behind it, and so do ours (`control.resolve.passage`). Then the
pods are what is addressed, and where those have a waypoint of their own, an Envoy that tunnels goes there (`before_pod`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

from control.resolve.l7.views import View
from mesh.model.l7.endpoints import Assignment, Endpoint, LocalityGroup, Tunnel
from mesh.model.l7.profile import Kind
from mesh.model.l7.services import MeshService, Resolution
from mesh.model.l7.translate.balancing import Candidate, described
from mesh.model.workload import GatewayAddress, IPAddress, NetworkAddress, Service, SocketAddress, Workload


def through_waypoint(view: View, service: Service) -> bool:
    return view.kind is not Kind.WAYPOINT and service.waypoint is not None and bool(service.vips or service.vip_networks)


def as_clients_see(view: View, mesh: MeshService, version: int) -> MeshService:
    """With the one address that leads there, of that IP version if it has one, and endpoints that come from us, whatever the waypoint has
    to do to find its. Where only the connection tells, a plain Envoy goes where that was meant to go.
    """
    address = _address(mesh, version)
    plain = not (view.bind or view.tunnels)
    by_connection = address is None and plain and view.kind is Kind.CLIENT
    entered = address if plain or view.tunnels else None
    service = replace(mesh.service, vips=() if entered is None else (NetworkAddress("", entered),), vip_networks=())
    return replace(mesh, service=service, resolution=Resolution.NONE if by_connection else Resolution.STATIC, distribution="")


def _address(mesh: MeshService, version: int) -> IPAddress | None:
    """The address that stands for all of a service's. None where each of several is another server's (NONE), and where it has only
    networks, of which any address may be another service's: then only the connection tells which one is meant.
    """
    vips = sorted((vip.ip for vip in mesh.service.vips), key=lambda ip: ip.version != version)
    if not vips or (mesh.resolution is Resolution.NONE and (mesh.service.vip_networks or len(vips) > 1)):
        return None
    return vips[0]


def entrance(view: View, cluster: str, mesh: MeshService, port: int, pods: Sequence[Workload]) -> Assignment:
    """The endpoints of a port of a service as clients see it. `pods` are its waypoint's; without any, tunnels lead nowhere."""
    gateway, vips = mesh.service.waypoint, mesh.service.vips
    if gateway is None or not vips:
        return Assignment(cluster)
    target = SocketAddress(vips[0].ip, port)
    if not view.tunnels:
        return Assignment(cluster, (LocalityGroup((Endpoint(target),)),))
    found = tuple(Endpoint(target, tunnel=_tunnel(pod, gateway, target.ip), workload=described(pod)) for pod in pods)
    return Assignment(cluster, (LocalityGroup(found),) if found else ())


def before_pod(candidate: Candidate, gateway: GatewayAddress, pods: Sequence[Workload]) -> Candidate | None:
    """A pod with a waypoint, by the tunnel of one of that one's pods which are ready, over which those behind it are spread."""
    if not pods or not candidate.workload.addresses:
        return None
    chosen = pods[crc32(candidate.workload.uid.encode()) % len(pods)]
    return replace(candidate, tunnel=_tunnel(chosen, gateway, candidate.workload.addresses[0]))


def _tunnel(pod: Workload, gateway: GatewayAddress, target: IPAddress) -> Tunnel:
    """To a waypoint's pod, by an address of the same family as what it is asked for, if it has one."""
    own = next((ip for ip in pod.addresses if ip.version == target.version), pod.addresses[0])
    return Tunnel((str(pod.identity),), SocketAddress(own, gateway.hbone_port))
