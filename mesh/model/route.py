"""Where an outbound connection goes: one pure function from source, destination and mesh to one of five answers.

The order of the questions is Istio's (see docs/architecture.md): a tunnel port on loopback, the source itself, the destination as a service
and its waypoint, then an endpoint, then the endpoint's own waypoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.model.identity import Identity, parse_spiffe
from mesh.model.reasons import Reason
from mesh.model.state import MeshState, remember
from mesh.model.workload import (
    HBONE_PORT,
    TUNNEL_PORTS,
    GatewayAddress,
    IPAddress,
    LbMode,
    LoadBalancing,
    NamespacedHostname,
    NetworkAddress,
    Scope,
    Service,
    SocketAddress,
    TunnelProtocol,
    Workload,
)

# A weighted choice: given positive weights, the index of the one chosen. Randomness comes from outside.
Choose = Callable[[Sequence[int]], int]


@dataclass(frozen=True, slots=True)
class Passthrough:
    """Nothing is known of the destination: plain TCP to where the app wanted to go."""

    target: SocketAddress
    service: Service | None = None


@dataclass(frozen=True, slots=True)
class Direct:
    """A known workload outside the mesh: plain TCP to it."""

    target: SocketAddress
    workload: Workload
    service: Service | None = None


@dataclass(frozen=True, slots=True)
class Hbone:
    """Mutual TLS to `hop`, and a CONNECT for `authority`. `accepted` are the identities that the peer may prove."""

    hop: SocketAddress
    authority: str
    accepted: frozenset[Identity]
    workload: Workload
    service: Service | None
    target: SocketAddress
    to_waypoint: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    reason: Reason
    detail: str = ""
    workload: Workload | None = None
    service: Service | None = None


Decision = Passthrough | Direct | Hbone | Refused


def outbound(source: Workload, destination: SocketAddress, state: MeshState, choose: Choose) -> Decision:
    """Decide on one connection from a pod of ours to `destination`, as the app addressed it."""
    if destination.ip.is_loopback and destination.port in TUNNEL_PORTS:
        return Refused(Reason.SELF_CALL, f"{destination} is the tunnel's own")
    address = NetworkAddress(source.network, destination.ip)
    service = state.service_at(address, source.namespace)
    if service is not None:
        waypoint = _service_waypoint(service, choose)
        if waypoint is not None:
            return _to_waypoint(source, waypoint, destination, state, choose, service, None)
        return _to_endpoint(source, service, destination, state, choose)
    workload = state.workload_at(address)
    if workload is None:
        return Passthrough(destination)
    if workload.waypoint is not None and not is_waypoint(source, workload.waypoint, state):
        return _to_waypoint(source, workload.waypoint, destination, state, choose, None, workload)
    return _to_workload(source, workload, destination.ip, destination.port, None, state)


def _to_endpoint(source: Workload, service: Service, destination: SocketAddress, state: MeshState, choose: Choose) -> Decision:
    balancing = service.load_balancing
    passthrough = balancing is not None and balancing.mode is LbMode.PASSTHROUGH
    if not passthrough and service.ports and all(port.port != destination.port for port in service.ports):
        return Refused(Reason.NO_HEALTHY_UPSTREAM, f"{service.key} has no port {destination.port}", None, service)
    chosen = pick_endpoint(source, service, destination.port, state, choose)
    if chosen is None:
        if passthrough:
            return Passthrough(destination, service)
        return Refused(Reason.NO_HEALTHY_UPSTREAM, f"{service.key} port {destination.port}", None, service)
    workload, port = chosen
    if passthrough:
        return _to_workload(source, workload, destination.ip, port, service, state)
    ip = _address_like(workload, destination.ip)
    if ip is None:
        return Refused(Reason.NO_HEALTHY_UPSTREAM, f"{workload.uid} has no address", workload, service)
    return _to_workload(source, workload, ip, port, service, state)


def pick_endpoint(source: Workload, service: Service, port: int, state: MeshState, choose: Choose) -> tuple[Workload, int] | None:
    """Choose an endpoint by locality preference, then at random by capacity."""
    candidates = [
        (workload, target)
        for workload, target in state.endpoints(service, port)
        if workload.network == source.network and workload.addresses
    ]
    balancing = service.load_balancing
    if balancing is not None and balancing.preference and balancing.mode in (LbMode.STRICT, LbMode.FAILOVER):
        ranked = [(_rank(source, workload, balancing), workload, target) for workload, target in candidates]
        if balancing.mode is LbMode.STRICT:
            ranked = [entry for entry in ranked if entry[0] == len(balancing.preference)]
        best = max((rank for rank, _, _ in ranked), default=0)
        candidates = [(workload, target) for rank, workload, target in ranked if rank == best]
    candidates = [entry for entry in candidates if entry[0].capacity > 0]
    if not candidates:
        return None
    if len(candidates) == 1:
        return candidates[0]
    return candidates[choose([workload.capacity for workload, _ in candidates])]


def _rank(source: Workload, workload: Workload, balancing: LoadBalancing) -> int:
    """How many of the preference's scopes both share, counted in order and ending at the first that differs."""
    for rank, scope in enumerate(balancing.preference):
        if _shared(scope, source) != _shared(scope, workload):
            return rank
    return len(balancing.preference)


def _shared(scope: Scope, workload: Workload) -> object:
    locality = workload.locality
    match scope:
        case Scope.REGION:
            return locality.region
        case Scope.ZONE:
            return locality.zone
        case Scope.SUBZONE:
            return locality.subzone
        case Scope.NODE:
            return workload.node
        case Scope.CLUSTER:
            return workload.cluster
        case Scope.NETWORK:
            return workload.network


def _to_workload(
    source: Workload, workload: Workload, ip: IPAddress, port: int, service: Service | None, state: MeshState
) -> Direct | Hbone | Refused:
    key = (source.network, workload.uid, ip, port, service.key if service else None)
    known = state.hops.get(key)
    if isinstance(known, (Direct, Hbone, Refused)):
        return known
    hop = _hop(source, workload, ip, port, service)
    remember(state.hops, key, hop)
    return hop


def _hop(source: Workload, workload: Workload, ip: IPAddress, port: int, service: Service | None) -> Direct | Hbone | Refused:
    if workload.network != source.network:
        return Refused(Reason.OTHER_NETWORK, f"{workload.uid} is on network {workload.network!r}", workload, service)
    target = SocketAddress(ip, port)
    if workload.protocol is not TunnelProtocol.HBONE:
        return Direct(target, workload, service)
    return Hbone(SocketAddress(ip, HBONE_PORT), str(target), accepted_identities(workload, service), workload, service, target)


def accepted_identities(workload: Workload, service: Service | None) -> frozenset[Identity]:
    """What the peer may prove to be: the workload itself, or any SPIFFE id that its service vouches for."""
    names = service.subject_alt_names if service else ()
    return frozenset([workload.identity, *(identity for name in names if (identity := parse_spiffe(name)))])


def _service_waypoint(service: Service, choose: Choose) -> GatewayAddress | None:
    weighted = [entry for entry in service.weighted_waypoints if entry.weight > 0]
    if weighted:
        return weighted[choose([entry.weight for entry in weighted])].destination
    return service.waypoint


def _to_waypoint(
    source: Workload,
    gateway: GatewayAddress,
    destination: SocketAddress,
    state: MeshState,
    choose: Choose,
    service: Service | None,
    workload: Workload | None,
) -> Decision:
    """A waypoint that is named but not there is a refusal, never a way around it."""
    found = _resolve_gateway(source, gateway, destination.ip, state, choose)
    if found is None:
        return Refused(Reason.WAYPOINT_UNAVAILABLE, str(gateway.destination), workload, service)
    hop, waypoint, waypoint_service = found
    if waypoint.network != source.network:
        return Refused(Reason.OTHER_NETWORK, f"waypoint {waypoint.uid}", workload, service)
    accepted = accepted_identities(waypoint, waypoint_service)
    return Hbone(hop, str(destination), accepted, waypoint, service, destination, to_waypoint=True)


def _resolve_gateway(
    source: Workload, gateway: GatewayAddress, like: IPAddress, state: MeshState, choose: Choose
) -> tuple[SocketAddress, Workload, Service | None] | None:
    where = gateway.destination
    if isinstance(where, NamespacedHostname):
        service = state.services.get(where)
    else:
        service = state.service_at(where, source.namespace)
        if service is None:
            workload = state.workload_at(where)
            return (SocketAddress(where.ip, gateway.hbone_port), workload, None) if workload else None
    if service is None:
        return None
    chosen = pick_endpoint(source, service, gateway.hbone_port, state, choose)
    if chosen is None:
        return None
    ip = _address_like(chosen[0], like)
    return (SocketAddress(ip, gateway.hbone_port), chosen[0], service) if ip else None


def is_waypoint(source: Workload, gateway: GatewayAddress, state: MeshState) -> bool:
    """Whether `source` is (an instance of) the waypoint that `gateway` names."""
    where = gateway.destination
    if isinstance(where, NamespacedHostname):
        return where in source.services
    if where.ip in source.addresses and where.network == source.network:
        return True
    service = state.service_at(where, source.namespace)
    return service is not None and service.key in source.services


def _address_like(workload: Workload, ip: IPAddress) -> IPAddress | None:
    """The workload's address of the same family as the one asked for, or any that it has."""
    for address in workload.addresses:
        if address.version == ip.version:
            return address
    return workload.addresses[0] if workload.addresses else None
