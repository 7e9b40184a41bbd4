"""Workloads and services: `istio.workload` messages to frozen types and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from mesh.model.codec.checks import Decoding
from mesh.model.identity import DEFAULT_TRUST_DOMAIN
from mesh.model.workload import (
    EMPTY,
    AppProtocol,
    GatewayAddress,
    Health,
    HealthPolicy,
    IPNetwork,
    LbMode,
    LoadBalancing,
    Locality,
    NamespacedHostname,
    NetworkAddress,
    NetworkMode,
    Scope,
    Service,
    ServicePort,
    TunnelProtocol,
    Visibility,
    WeightedWaypoint,
    Workload,
    WorkloadType,
)
from mesh.pb import workload_pb2 as pb

# Value of the enum on the wire → member. What is not here is refused (2 was LEGACY_ISTIO_MTLS, which no ambient peer speaks).
TUNNELS = {pb.NONE: TunnelProtocol.NONE, pb.HBONE: TunnelProtocol.HBONE}
TYPES = {
    pb.DEPLOYMENT: WorkloadType.DEPLOYMENT,
    pb.CRONJOB: WorkloadType.CRONJOB,
    pb.POD: WorkloadType.POD,
    pb.JOB: WorkloadType.JOB,
}
HEALTHS = {pb.HEALTHY: Health.HEALTHY, pb.UNHEALTHY: Health.UNHEALTHY}
NETWORK_MODES = {pb.STANDARD: NetworkMode.STANDARD, pb.HOST_NETWORK: NetworkMode.HOST_NETWORK}
APP_PROTOCOLS = {
    pb.UNKNOWN: AppProtocol.UNKNOWN,
    pb.HTTP11: AppProtocol.HTTP11,
    pb.HTTP2: AppProtocol.HTTP2,
    pb.GRPC: AppProtocol.GRPC,
    pb.TCP: AppProtocol.TCP,
    pb.TLS: AppProtocol.TLS,
}
SCOPES = {
    pb.LoadBalancing.REGION: Scope.REGION,
    pb.LoadBalancing.ZONE: Scope.ZONE,
    pb.LoadBalancing.SUBZONE: Scope.SUBZONE,
    pb.LoadBalancing.NODE: Scope.NODE,
    pb.LoadBalancing.CLUSTER: Scope.CLUSTER,
    pb.LoadBalancing.NETWORK: Scope.NETWORK,
}
MODES = {
    pb.LoadBalancing.UNSPECIFIED_MODE: LbMode.STANDARD,
    pb.LoadBalancing.STRICT: LbMode.STRICT,
    pb.LoadBalancing.FAILOVER: LbMode.FAILOVER,
    pb.LoadBalancing.PASSTHROUGH: LbMode.PASSTHROUGH,
}
HEALTH_POLICIES = {pb.LoadBalancing.ONLY_HEALTHY: HealthPolicy.ONLY_HEALTHY, pb.LoadBalancing.ALLOW_ALL: HealthPolicy.ALLOW_ALL}
VISIBILITIES = {pb.Service.PUBLIC: Visibility.PUBLIC, pb.Service.NAMESPACE: Visibility.NAMESPACE}
APPLICATION_TUNNELS = {pb.ApplicationTunnel.NONE: "NONE", pb.ApplicationTunnel.PROXY: "PROXY"}

_TUNNEL_NUMBERS = {member: number for number, member in TUNNELS.items()}
_TYPE_NUMBERS = {member: number for number, member in TYPES.items()}
_HEALTH_NUMBERS = {member: number for number, member in HEALTHS.items()}
_NETWORK_MODE_NUMBERS = {member: number for number, member in NETWORK_MODES.items()}
_APP_PROTOCOL_NUMBERS = {member: number for number, member in APP_PROTOCOLS.items()}
_SCOPE_NUMBERS = {member: number for number, member in SCOPES.items()}
_MODE_NUMBERS = {member: number for number, member in MODES.items()}
_HEALTH_POLICY_NUMBERS = {member: number for number, member in HEALTH_POLICIES.items()}
_VISIBILITY_NUMBERS = {member: number for number, member in VISIBILITIES.items()}


def address_from(message: pb.Address, where: str = "") -> Workload | Service:
    """Whichever of the two the message holds. ConfigError where it holds neither, or one that is refused."""
    which = message.WhichOneof("type")
    if which == "workload":
        return workload_from(message.workload, where)
    if which != "service":
        Decoding("Address", where).refuse("type", "nothing", "a workload or a service")
    return service_from(message.service, where)


def address_to(value: Workload | Service) -> pb.Address:
    if isinstance(value, Workload):
        return pb.Address(workload=workload_to(value))
    return pb.Address(service=service_to(value))


def resource_name(value: Workload | Service) -> str:
    """What delta xDS calls it: a workload's uid or a service's `<namespace>/<hostname>`."""
    return value.uid if isinstance(value, Workload) else str(value.key)


def workload_from(message: pb.Workload, where: str = "") -> Workload:
    door = Decoding(f"Workload {message.uid}", where)
    tunnelled = message.HasField("application_tunnel")
    tunnel = message.application_tunnel
    tunnel_protocol = door.member("application_tunnel.protocol", tunnel.protocol, APPLICATION_TUNNELS) if tunnelled else "NONE"
    return Workload(
        uid=door.text("uid", message.uid),
        name=message.name,
        namespace=door.segment("namespace", message.namespace),
        addresses=tuple(door.ip(f"addresses[{index}]", raw) for index, raw in enumerate(message.addresses)),
        network=message.network,
        protocol=door.member("tunnel_protocol", message.tunnel_protocol, TUNNELS),
        trust_domain=door.segment("trust_domain", message.trust_domain or DEFAULT_TRUST_DOMAIN),
        service_account=door.segment("service_account", message.service_account or "default"),
        node=message.node,
        canonical_name=message.canonical_name,
        canonical_revision=message.canonical_revision,
        workload_type=door.member("workload_type", message.workload_type, TYPES),
        workload_name=message.workload_name,
        native_tunnel=message.native_tunnel,
        waypoint=_gateway_from(door, "waypoint", message.waypoint) if message.HasField("waypoint") else None,
        network_gateway=_gateway_from(door, "network_gateway", message.network_gateway) if message.HasField("network_gateway") else None,
        policies=tuple(
            "/".join(door.key(f"authorization_policies[{index}]", key)) for index, key in enumerate(message.authorization_policies)
        ),
        health=door.member("status", message.status, HEALTHS),
        cluster=message.cluster_id or "Kubernetes",
        hostname=message.hostname,
        services=_services_from(door, message.services) if message.services else EMPTY,
        application_tunnel_port=door.port("application_tunnel.port", tunnel.port, 0) if tunnelled else None,
        application_tunnel_proxy=tunnel_protocol == "PROXY",
        locality=Locality(message.locality.region, message.locality.zone, message.locality.subzone),
        network_mode=door.member("network_mode", message.network_mode, NETWORK_MODES),
        capacity=message.capacity.value if message.HasField("capacity") else 1,
    )


def workload_to(workload: Workload) -> pb.Workload:
    message = pb.Workload(
        uid=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        addresses=[ip.packed for ip in workload.addresses],
        network=workload.network,
        tunnel_protocol=_TUNNEL_NUMBERS[workload.protocol],
        trust_domain="" if workload.trust_domain == DEFAULT_TRUST_DOMAIN else workload.trust_domain,
        service_account=workload.service_account,
        node=workload.node,
        canonical_name=workload.canonical_name,
        canonical_revision=workload.canonical_revision,
        workload_type=_TYPE_NUMBERS[workload.workload_type],
        workload_name=workload.workload_name,
        native_tunnel=workload.native_tunnel,
        waypoint=_gateway_to(workload.waypoint),
        network_gateway=_gateway_to(workload.network_gateway),
        authorization_policies=workload.policies,
        status=_HEALTH_NUMBERS[workload.health],
        cluster_id=workload.cluster,
        hostname=workload.hostname,
        network_mode=_NETWORK_MODE_NUMBERS[workload.network_mode],
    )
    for key, ports in sorted(workload.services.items()):
        entries = [pb.Port(service_port=port, target_port=target) for port, target in sorted(ports.items())]
        message.services[str(key)].ports.extend(entries)
    if workload.application_tunnel_port is not None:
        tunnel = message.application_tunnel
        tunnel.SetInParent()
        tunnel.port = workload.application_tunnel_port
        tunnel.protocol = pb.ApplicationTunnel.PROXY if workload.application_tunnel_proxy else pb.ApplicationTunnel.NONE
    if workload.locality != Locality():
        locality = workload.locality
        message.locality.CopyFrom(pb.Locality(region=locality.region, zone=locality.zone, subzone=locality.subzone))
    if workload.capacity != 1:
        message.capacity.value = workload.capacity
    return message


def service_from(message: pb.Service, where: str = "") -> Service:
    door = Decoding(f"Service {message.namespace}/{message.hostname}", where)
    vips: list[NetworkAddress] = []
    networks: list[tuple[str, IPNetwork]] = []
    for index, address in enumerate(message.addresses):
        field = f"addresses[{index}]"
        if address.HasField("length"):
            networks.append((address.network, door.network(field, address.address, address.length)))
        else:
            vips.append(NetworkAddress(address.network, door.ip(f"{field}.address", address.address)))
    return Service(
        name=message.name,
        namespace=door.segment("namespace", message.namespace),
        hostname=door.segment("hostname", message.hostname),
        vips=tuple(vips),
        vip_networks=tuple(networks),
        ports=tuple(_ports_from(door, "ports", message.ports).values()),
        subject_alt_names=tuple(door.text(f"subject_alt_names[{index}]", name) for index, name in enumerate(message.subject_alt_names)),
        waypoint=_gateway_from(door, "waypoint", message.waypoint) if message.HasField("waypoint") else None,
        weighted_waypoints=tuple(
            WeightedWaypoint(_gateway_from(door, f"weighted_waypoints[{index}].destination", entry.destination), entry.weight)
            for index, entry in enumerate(message.weighted_waypoints)
        ),
        load_balancing=_balancing_from(door, message.load_balancing) if message.HasField("load_balancing") else None,
        canonical=message.canonical,
        visibility=door.member("visibility", message.visibility, VISIBILITIES),
    )


def service_to(service: Service) -> pb.Service:
    plain = [pb.NetworkAddress(network=vip.network, address=vip.ip.packed) for vip in service.vips]
    wide = [
        pb.NetworkAddress(network=name, address=network.network_address.packed, length=network.prefixlen)
        for name, network in service.vip_networks
    ]
    families = {vip.ip.version for vip in service.vips} | {network.version for _, network in service.vip_networks}
    message = pb.Service(
        name=service.name,
        namespace=service.namespace,
        hostname=service.hostname,
        addresses=plain + wide,
        ports=[
            pb.Port(service_port=port.port, target_port=port.target, app_protocol=_APP_PROTOCOL_NUMBERS[port.protocol])
            for port in service.ports
        ],
        subject_alt_names=service.subject_alt_names,
        waypoint=_gateway_to(service.waypoint),
        ip_families=_FAMILIES[frozenset(families)],
        canonical=service.canonical,
        weighted_waypoints=[
            pb.WeightedWaypoint(destination=_gateway_to(entry.destination), weight=entry.weight) for entry in service.weighted_waypoints
        ],
        visibility=_VISIBILITY_NUMBERS[service.visibility],
    )
    balancing = service.load_balancing
    if balancing is not None:
        message.load_balancing.SetInParent()
        message.load_balancing.routing_preference.extend(_SCOPE_NUMBERS[scope] for scope in balancing.preference)
        message.load_balancing.mode = _MODE_NUMBERS[balancing.mode]
        message.load_balancing.health_policy = _HEALTH_POLICY_NUMBERS[balancing.health]
    return message


_FAMILIES = {
    frozenset[int](): pb.AUTOMATIC,
    frozenset({4}): pb.IPV4_ONLY,
    frozenset({6}): pb.IPV6_ONLY,
    frozenset({4, 6}): pb.DUAL,
}


def _balancing_from(door: Decoding, message: pb.LoadBalancing) -> LoadBalancing:
    return LoadBalancing(
        preference=tuple(
            door.member(f"load_balancing.routing_preference[{index}]", scope, SCOPES)
            for index, scope in enumerate(message.routing_preference)
        ),
        mode=door.member("load_balancing.mode", message.mode, MODES),
        health=door.member("load_balancing.health_policy", message.health_policy, HEALTH_POLICIES),
    )


def _services_from(door: Decoding, services: Mapping[str, pb.PortList]) -> Mapping[NamespacedHostname, Mapping[int, int]]:
    found: dict[NamespacedHostname, Mapping[int, int]] = {}
    for key, ports in services.items():
        field = f"services[{key}]"
        named = _ports_from(door, f"{field}.ports", ports.ports)
        found[NamespacedHostname(*door.key(field, key))] = MappingProxyType({entry.port: entry.target for entry in named.values()})
    return MappingProxyType(found)


def _ports_from(door: Decoding, field: str, ports: Iterable[pb.Port]) -> dict[int, ServicePort]:
    """By service port. A port may come twice (UDP beside TCP) as long as both say the same target."""
    found: dict[int, ServicePort] = {}
    for index, entry in enumerate(ports):
        port = ServicePort(
            port=door.port(f"{field}[{index}].service_port", entry.service_port),
            target=door.port(f"{field}[{index}].target_port", entry.target_port, 0),
            protocol=door.member(f"{field}[{index}].app_protocol", entry.app_protocol, APP_PROTOCOLS),
        )
        if found.setdefault(port.port, port).target != port.target:
            door.refuse(
                f"{field}[{index}]", f"{port.port} → {port.target}", f"one target per service port; it was {found[port.port].target}"
            )
    return found


def _gateway_from(door: Decoding, field: str, message: pb.GatewayAddress) -> GatewayAddress:
    destination: NamespacedHostname | NetworkAddress
    which = message.WhichOneof("destination")
    if which == "hostname":
        namespace = door.segment(f"{field}.hostname.namespace", message.hostname.namespace)
        destination = NamespacedHostname(namespace, door.segment(f"{field}.hostname.hostname", message.hostname.hostname))
    elif which == "address":
        if message.address.HasField("length"):
            door.refuse(f"{field}.address.length", message.address.length, "a single address, without a length")
        destination = NetworkAddress(message.address.network, door.ip(f"{field}.address.address", message.address.address))
    else:
        door.refuse(f"{field}.destination", "nothing", "a hostname or an address")
    return GatewayAddress(destination, door.port(f"{field}.hbone_mtls_port", message.hbone_mtls_port))


def _gateway_to(gateway: GatewayAddress | None) -> pb.GatewayAddress | None:
    if gateway is None:
        return None
    where = gateway.destination
    if isinstance(where, NamespacedHostname):
        hostname = pb.NamespacedHostname(namespace=where.namespace, hostname=where.hostname)
        return pb.GatewayAddress(hostname=hostname, hbone_mtls_port=gateway.hbone_port)
    address = pb.NetworkAddress(network=where.network, address=where.ip.packed)
    return pb.GatewayAddress(address=address, hbone_mtls_port=gateway.hbone_port)
