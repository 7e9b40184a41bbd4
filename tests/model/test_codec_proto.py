"""The protobuf door: what is understood comes through unchanged both ways, and all else is refused whole, by field."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from types import MappingProxyType

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.codec.proto import (
    UNENFORCEABLE,
    address_from,
    address_to,
    authorization_from,
    authorization_to,
    resource_name,
    service_from,
    service_to,
    workload_from,
    workload_to,
)
from mesh.model.errors import ConfigError
from mesh.model.policy import Action, Authorization, Clause, Match, PolicyScope, Rule, ServiceAccountMatch, StringKind, StringMatch
from mesh.model.workload import (
    AppProtocol,
    GatewayAddress,
    Health,
    HealthPolicy,
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
from mesh.pb import authorization_pb2, workload_pb2

word = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
anything = st.text("abc-./:", max_size=8)
ports = st.integers(1, 65535)
ips = st.ip_addresses(v=4) | st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None)
hostnames = st.builds(NamespacedHostname, word, word)
gateways = st.builds(GatewayAddress, hostnames | st.builds(NetworkAddress, anything, ips), ports)
networks = st.builds(lambda ip, length: ip_network((ip, length % (ip.max_prefixlen + 1)), strict=False), ips, st.integers(0, 1000)).filter(
    lambda network: network.version == 4 or network.network_address.ipv4_mapped is None
)
strings = st.builds(StringMatch, st.sampled_from([StringKind.EXACT, StringKind.PREFIX, StringKind.SUFFIX]), word) | st.just(
    StringMatch(StringKind.PRESENCE)
)
accounts = st.builds(ServiceAccountMatch, word, word)


def some(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


endpoint_maps = st.dictionaries(hostnames, st.dictionaries(ports, st.integers(0, 65535), max_size=3).map(MappingProxyType), max_size=2).map(
    MappingProxyType
)

workloads = st.builds(
    Workload,
    uid=word,
    name=anything,
    namespace=word,
    addresses=some(ips),
    network=anything,
    protocol=st.sampled_from(TunnelProtocol),
    trust_domain=word,
    service_account=word,
    node=anything,
    canonical_name=anything,
    canonical_revision=anything,
    workload_type=st.sampled_from(WorkloadType),
    workload_name=anything,
    native_tunnel=st.booleans(),
    waypoint=st.none() | gateways,
    network_gateway=st.none() | gateways,
    policies=some(st.builds("{}/{}".format, word, word)),
    health=st.sampled_from(Health),
    cluster=word,
    hostname=anything,
    services=endpoint_maps,
    application_tunnel_port=st.integers(0, 65535),
    application_tunnel_proxy=st.booleans(),
    locality=st.builds(Locality, anything, anything, anything),
    network_mode=st.sampled_from(NetworkMode),
    capacity=st.integers(0, 2**32 - 1),
)
services = st.builds(
    Service,
    name=anything,
    namespace=word,
    hostname=word,
    vips=some(st.builds(NetworkAddress, anything, ips)),
    vip_networks=some(st.tuples(anything, networks)),
    ports=st.lists(
        st.builds(ServicePort, ports, st.integers(0, 65535), st.sampled_from(AppProtocol)), max_size=3, unique_by=lambda port: port.port
    ).map(tuple),
    subject_alt_names=some(word),
    waypoint=st.none() | gateways,
    weighted_waypoints=some(st.builds(WeightedWaypoint, gateways, st.integers(0, 100))),
    load_balancing=st.none()
    | st.builds(LoadBalancing, some(st.sampled_from(Scope)), st.sampled_from(LbMode), st.sampled_from(HealthPolicy)),
    canonical=st.booleans(),
    visibility=st.sampled_from(Visibility),
)
matches = st.builds(
    Match,
    namespaces=some(strings),
    not_namespaces=some(strings),
    principals=some(strings),
    not_principals=some(strings),
    source_ips=some(networks),
    not_source_ips=some(networks),
    destination_ips=some(networks),
    not_destination_ips=some(networks),
    destination_ports=some(ports),
    not_destination_ports=some(ports),
    service_accounts=some(accounts),
    not_service_accounts=some(accounts),
)
policies = st.builds(
    Authorization,
    name=word,
    namespace=word,
    scope=st.sampled_from(PolicyScope),
    action=st.sampled_from(Action),
    rules=some(st.builds(Rule, some(st.builds(Clause, some(matches))))),
    dry_run=st.booleans(),
)


@given(workloads)
def test_a_workload_survives_the_wire(workload: Workload) -> None:
    wire = workload_to(workload).SerializeToString()
    assert workload_from(workload_pb2.Workload.FromString(wire)) == workload


@given(services)
def test_a_service_survives_the_wire(service: Service) -> None:
    wire = service_to(service).SerializeToString()
    assert service_from(workload_pb2.Service.FromString(wire)) == service


@given(policies)
def test_a_policy_survives_the_wire(policy: Authorization) -> None:
    wire = authorization_to(policy).SerializeToString()
    assert authorization_from(authorization_pb2.Authorization.FromString(wire)) == policy


@settings(max_examples=300)
@given(st.binary(max_size=64))
def test_random_bytes_are_a_value_or_a_config_error(data: bytes) -> None:
    for message, decode in ((workload_pb2.Address, address_from), (authorization_pb2.Authorization, authorization_from)):
        try:
            parsed = message.FromString(data)  # type: ignore[attr-defined]
        except DecodeError:  # not protobuf at all, which is gRPC's business
            continue
        with contextlib.suppress(ConfigError):
            decode(parsed)  # type: ignore[operator]


def test_an_address_is_whichever_it_holds() -> None:
    workload, service = Workload("u", "n", "ns"), Service("s", "ns", "s.ns.svc")
    for value, name in ((workload, "u"), (service, "ns/s.ns.svc")):
        assert address_from(address_to(value)) == value
        assert resource_name(value) == name


def test_a_policy_that_is_not_enforceable_denies_everything_even_where_the_mark_is_not_known() -> None:
    policy = Authorization("p", "ns", PolicyScope.NAMESPACE, Action.ALLOW, (), enforceable=False)
    message = authorization_to(policy)
    assert message.action == authorization_pb2.DENY
    assert [len(rule.clauses) for rule in message.rules] == [0]
    assert [extension.name for extension in message.extensions] == [UNENFORCEABLE]
    assert authorization_from(message).enforceable is False


def test_defaults_of_fields_that_are_left_empty() -> None:
    workload = workload_from(
        workload_pb2.Workload(uid="u", namespace="ns", addresses=[bytes([10, 0, 0, 1]), IPv6Address("fd00::1").packed])
    )
    assert (workload.trust_domain, workload.service_account, workload.cluster) == ("cluster.local", "default", "Kubernetes")
    assert workload.addresses == (IPv4Address("10.0.0.1"), IPv6Address("fd00::1"))
    assert (workload.workload_type, workload.capacity, workload.application_tunnel_port) == (WorkloadType.DEPLOYMENT, 1, None)


def test_a_port_may_come_twice_with_one_target() -> None:
    service = workload_pb2.Service(namespace="kube-system", hostname="dns")
    service.ports.add(service_port=53, target_port=5353)
    service.ports.add(service_port=53, target_port=5353)
    assert service_from(service).ports == (ServicePort(53, 5353),)


Change = Callable[[workload_pb2.Workload], object]


def gateway(**fields: object) -> workload_pb2.GatewayAddress:
    return workload_pb2.GatewayAddress(**fields)  # type: ignore[arg-type]


WORKLOAD_REFUSALS: list[tuple[str, Change]] = [
    ("uid", lambda w: w.ClearField("uid")),
    ("namespace", lambda w: w.ClearField("namespace")),
    ("namespace", lambda w: setattr(w, "namespace", "a/sa/b")),
    ("service_account", lambda w: setattr(w, "service_account", "x/y")),
    ("trust_domain", lambda w: setattr(w, "trust_domain", "td/ns/x")),
    ("addresses[1]", lambda w: w.addresses.extend([b"\x0a\0\0\1", b"\x0a\0\0"])),
    ("addresses[0]", lambda w: w.addresses.append(b"")),
    ("addresses[0]", lambda w: w.addresses.append(IPv6Address("::ffff:10.0.0.1").packed)),
    ("tunnel_protocol", lambda w: setattr(w, "tunnel_protocol", workload_pb2.LEGACY_ISTIO_MTLS)),
    ("tunnel_protocol", lambda w: w.MergeFromString(b"\x28\x63")),
    ("workload_type", lambda w: w.MergeFromString(b"\x60\x09")),
    ("status", lambda w: w.MergeFromString(b"\x88\x01\x09")),
    ("network_mode", lambda w: w.MergeFromString(b"\xc8\x01\x09")),
    ("authorization_policies[0]", lambda w: w.authorization_policies.append("no-slash")),
    ("authorization_policies[0]", lambda w: w.authorization_policies.append("a/b/c")),
    ("services[nokey]", lambda w: w.services["nokey"].ports.add(service_port=80)),
    ("services[a/b].ports[0].service_port", lambda w: w.services["a/b"].ports.add(service_port=0)),
    ("services[a/b].ports[0].service_port", lambda w: w.services["a/b"].ports.add(service_port=65536)),
    ("services[a/b].ports[0].target_port", lambda w: w.services["a/b"].ports.add(service_port=80, target_port=70000)),
    (
        "services[a/b].ports[1]",
        lambda w: w.services["a/b"].ports.extend(
            [workload_pb2.Port(service_port=80, target_port=1), workload_pb2.Port(service_port=80, target_port=2)]
        ),
    ),
    ("waypoint.destination", lambda w: w.waypoint.CopyFrom(gateway(hbone_mtls_port=15008))),
    (
        "waypoint.hbone_mtls_port",
        lambda w: w.waypoint.CopyFrom(gateway(hostname=workload_pb2.NamespacedHostname(namespace="a", hostname="b"))),
    ),
    (
        "waypoint.hostname.hostname",
        lambda w: w.waypoint.CopyFrom(gateway(hostname=workload_pb2.NamespacedHostname(namespace="a"), hbone_mtls_port=1)),
    ),
    (
        "network_gateway.address.address",
        lambda w: w.network_gateway.CopyFrom(gateway(address=workload_pb2.NetworkAddress(address=b"123"), hbone_mtls_port=1)),
    ),
    (
        "waypoint.address.length",
        lambda w: w.waypoint.CopyFrom(gateway(address=workload_pb2.NetworkAddress(address=b"1234", length=8), hbone_mtls_port=1)),
    ),
    ("application_tunnel.port", lambda w: setattr(w.application_tunnel, "port", 65536)),
    ("application_tunnel.protocol", lambda w: w.application_tunnel.MergeFromString(b"\x08\x07")),
]


@pytest.mark.parametrize(("field", "change"), WORKLOAD_REFUSALS, ids=[f"{index}-{row[0]}" for index, row in enumerate(WORKLOAD_REFUSALS)])
def test_a_workload_with_one_bad_field_is_refused_whole(field: str, change: Change) -> None:
    message = workload_pb2.Workload(uid="u", name="n", namespace="ns")
    change(message)
    with pytest.raises(ConfigError) as caught:
        workload_from(message, "xds")
    (refusal,) = caught.value.refusals
    assert (refusal.where, refusal.field) == ("xds", field)
    assert refusal.subject.startswith("Workload ")
    assert refusal.accepted


SERVICE_REFUSALS: list[tuple[str, Callable[[workload_pb2.Service], object]]] = [
    ("hostname", lambda s: s.ClearField("hostname")),
    ("namespace", lambda s: s.ClearField("namespace")),
    ("addresses[0].address", lambda s: s.addresses.add(address=b"12345")),
    ("addresses[0].length", lambda s: s.addresses.add(address=b"1234", length=33)),
    ("addresses[0].length", lambda s: s.addresses.add(address=b"1" * 16, length=129)),
    ("addresses[0].length", lambda s: s.addresses.add(address=b"1234", length=0)),
    ("ports[0].service_port", lambda s: s.ports.add(service_port=65536)),
    ("ports[0].target_port", lambda s: s.ports.add(service_port=1, target_port=65536)),
    ("ports[0].app_protocol", lambda s: s.ports.add(service_port=1).MergeFromString(b"\x18\x63")),
    ("load_balancing.routing_preference[0]", lambda s: s.load_balancing.routing_preference.append(0)),
    ("load_balancing.mode", lambda s: s.load_balancing.MergeFromString(b"\x10\x09")),
    ("load_balancing.health_policy", lambda s: s.load_balancing.MergeFromString(b"\x18\x09")),
    ("visibility", lambda s: s.MergeFromString(b"\x70\x09")),
    ("weighted_waypoints[0].destination.destination", lambda s: s.weighted_waypoints.add(weight=1)),
    ("subject_alt_names[0]", lambda s: s.subject_alt_names.append("")),
]


@pytest.mark.parametrize(("field", "change"), SERVICE_REFUSALS, ids=[f"{index}-{row[0]}" for index, row in enumerate(SERVICE_REFUSALS)])
def test_a_service_with_one_bad_field_is_refused_whole(field: str, change: Callable[[workload_pb2.Service], object]) -> None:
    message = workload_pb2.Service(name="s", namespace="ns", hostname="s.ns.svc")
    change(message)
    with pytest.raises(ConfigError) as caught:
        service_from(message)
    assert caught.value.refusals[0].field == field


AT = "rules[0].clauses[0].matches[0]"
MATCH_REFUSALS: list[tuple[str, Callable[[authorization_pb2.Match], object]]] = [
    (f"{AT}.source_ips[0].address", lambda m: m.source_ips.add(address=b"123", length=8)),
    (f"{AT}.source_ips[1].address", lambda m: (m.source_ips.add(address=b"1234", length=8), m.source_ips.add(address=b""))),
    (f"{AT}.source_ips[0].length", lambda m: m.source_ips.add(address=b"1234", length=33)),
    (f"{AT}.not_source_ips[0].length", lambda m: m.not_source_ips.add(address=b"1" * 16, length=129)),
    (f"{AT}.destination_ips[0].length", lambda m: m.destination_ips.add(address=b"1234")),
    (f"{AT}.not_destination_ips[0].address", lambda m: m.not_destination_ips.add(address=b"12345", length=1)),
    (f"{AT}.destination_ports[0]", lambda m: m.destination_ports.append(65536)),
    (f"{AT}.destination_ports[0]", lambda m: m.destination_ports.append(0)),
    (f"{AT}.not_destination_ports[1]", lambda m: m.not_destination_ports.extend([80, 65536 + 80])),
    (f"{AT}.principals[0]", lambda m: m.principals.add()),
    (f"{AT}.not_principals[0].exact", lambda m: m.not_principals.add(exact="")),
    (f"{AT}.namespaces[0].prefix", lambda m: m.namespaces.add(prefix="")),
    (f"{AT}.not_namespaces[0].suffix", lambda m: m.not_namespaces.add(suffix="")),
    (f"{AT}.namespaces[0]", lambda m: m.namespaces.add(exact="a").MergeFromString(b"\x48\x01")),
    (f"{AT}.service_accounts[0].namespace", lambda m: m.service_accounts.add(serviceAccount="a")),
    (f"{AT}.not_service_accounts[0].serviceAccount", lambda m: m.not_service_accounts.add(namespace="a", serviceAccount="b/c")),
    (f"{AT}.extensions", lambda m: m.extensions.add(name="narrower")),
    (AT, lambda m: m.MergeFromString(b"\xf0\x01\x01")),
]


@pytest.mark.parametrize(
    ("field", "change"), MATCH_REFUSALS, ids=[f"{index}-{row[0][len(AT) :]}" for index, row in enumerate(MATCH_REFUSALS)]
)
def test_a_policy_with_one_bad_match_is_refused_whole(field: str, change: Callable[[authorization_pb2.Match], object]) -> None:
    message = authorization_pb2.Authorization(name="p", namespace="ns", scope=authorization_pb2.NAMESPACE)
    change(message.rules.add().clauses.add().matches.add())
    with pytest.raises(ConfigError) as caught:
        authorization_from(message)
    assert caught.value.refusals[0].field == field


@pytest.mark.parametrize(
    ("field", "raw"),
    [("scope", b"\x18\x07"), ("action", b"\x20\x07"), ("", b"\xf8\x01\x01"), ("rules[0]", b"\x2a\x02\x10\x01")],
    ids=["scope", "action", "a field of a newer schema", "a rule with a field of a newer schema"],
)
def test_a_policy_of_a_newer_schema_is_refused(field: str, raw: bytes) -> None:
    message = authorization_pb2.Authorization(name="p", namespace="ns")
    message.MergeFromString(raw)
    with pytest.raises(ConfigError) as caught:
        authorization_from(message)
    assert caught.value.refusals[0].field == field


def test_an_address_without_content_is_refused() -> None:
    with pytest.raises(ConfigError, match="a workload or a service"):
        address_from(workload_pb2.Address())
