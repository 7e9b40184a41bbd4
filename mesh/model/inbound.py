"""Where a connection that came in over HBONE goes: one pure function from the CONNECT authority and the pod it reached to its app.

A peer may ask for this pod and nothing else: an authority that names another address is refused, so that a stolen or confused tunnel
cannot be used to reach further. Two kinds of workload stand in for others and are exempt: one that announces an application tunnel,
and a waypoint for what names it as its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mesh.model.reasons import Reason
from mesh.model.route import is_waypoint
from mesh.model.state import MeshState
from mesh.model.workload import TUNNEL_PORTS, IPAddress, NetworkAddress, Service, SocketAddress, Workload

LOOPBACK: dict[int, IPAddress] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}


@dataclass(frozen=True, slots=True)
class Deliver:
    """Connect to `target`. `announce`: the app expects a PROXY header about `meant` first; its connections come from loopback."""

    target: SocketAddress
    meant: SocketAddress
    service: Service | None
    announce: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    reason: Reason
    detail: str


def inbound(
    workload: Workload, local: IPAddress, host: IPAddress | str, port: int, hint: str | None, state: MeshState
) -> Deliver | Refused:
    """Decide on a CONNECT for `host:port` that reached `workload` at its address `local`.

    `hint` is the hostname that the client says its app addressed: it chooses among the workload's services, for telemetry only.
    """
    service: Service | None = None
    tunnelled = workload.application_tunnel_port is not None
    if isinstance(host, str):
        service = _named(workload, host, state)
        if service is None:
            return Refused(Reason.NO_HEALTHY_UPSTREAM, f"{host} is no service of {workload.uid}")
        real = workload.services[service.key].get(port, 0) or next((entry.target for entry in service.ports if entry.port == port), 0)
        if not real:
            return Refused(Reason.NO_HEALTHY_UPSTREAM, f"{host} has no port {port} at {workload.uid}")
        meant = SocketAddress(local, real)
    else:
        meant = SocketAddress(host, port)
        if host != local and not tunnelled and not _stands_in(workload, host, state):
            return Refused(Reason.AUTHORITY_MISMATCH, f"asked for {meant}, but this is {local}")
    target = SocketAddress(local, meant.port)
    if tunnelled:
        # Port 0 on the wire means the port that was asked for.
        target = SocketAddress(LOOPBACK[local.version], workload.application_tunnel_port or meant.port)
    if target.port in TUNNEL_PORTS:
        return Refused(Reason.SELF_CALL, f"{target} is the tunnel's own")
    return Deliver(target, meant, service or meant_service(workload, meant.port, hint, state), workload.application_tunnel_proxy)


def meant_service(workload: Workload, port: int, hint: str | None, state: MeshState) -> Service | None:
    """Which of its services a connection to `port` of a workload is for: the one hinted at, else the first by name that has the port."""
    first: Service | None = None
    for key in sorted(workload.services):
        service = state.services.get(key)
        if service is None:
            continue
        if hint is not None and key.hostname == hint:
            return service
        if first is None:
            ports = workload.services[key]
            if any((ports.get(entry.port) or entry.target or entry.port) == port for entry in service.ports):
                first = service
    return first


def _named(workload: Workload, hostname: str, state: MeshState) -> Service | None:
    """The workload's service of this name, its own namespace's first."""
    found = [service for service in state.services_named(hostname) if service.key in workload.services]
    return min(found, key=lambda service: (service.namespace != workload.namespace, service.key), default=None)


def _stands_in(workload: Workload, ip: IPAddress, state: MeshState) -> bool:
    """Whether what has this address names `workload` as its waypoint."""
    address = NetworkAddress(workload.network, ip)
    service = state.service_at(address, workload.namespace)
    if service is not None:
        gateways = [service.waypoint, *(entry.destination for entry in service.weighted_waypoints)]
        return any(gateway is not None and is_waypoint(workload, gateway, state) for gateway in gateways)
    found = state.workload_at(address)
    return found is not None and found.waypoint is not None and is_waypoint(workload, found.waypoint, state)
