"""Core objects from their wire form: frozen dataclasses of `mesh.model.manifest` with what resolution reads, and much of it shared.

The API server has validated these, so nothing is checked that it checks, with two exceptions: addresses become addresses, and label
maps are held to Kubernetes' own lengths, since what stands between us and the server may be broken, and labels are what policies select
by. `Unfit` refuses the object whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from itertools import product

from control.sources.kubernetes import wire
from control.sources.kubernetes.sharing import Labels, Pairs, Pool
from mesh.model.manifest import (
    Container,
    EndpointSlice,
    Metadata,
    Namespace,
    Node,
    Object,
    OwnerReference,
    Pod,
    PodSpec,
    PodStatus,
    Service,
    ServiceAccount,
    ServicePort,
    ServiceSpec,
)
from mesh.model.manifest.endpoints import Endpoint, EndpointConditions, EndpointPort, ObjectReference
from mesh.model.manifest.pods import Condition, ContainerPort, PodIP
from mesh.model.workload import IPAddress

KEY_LENGTH, VALUE_LENGTH = 317, 63
"""Of labels, in characters: a DNS name of 253, a slash and 63; and the value."""
READ_ANNOTATIONS = ("istio.io", "culvert.dev", "service.kubernetes.io")
"""Annotations are read whose prefix is one of these domains, or below it. Others may be large, and nobody here looks at them."""


class Unfit(Exception):  # noqa: N818 - says what the object is
    """A value that is not acceptable, at `field`."""

    def __init__(self, field: str, value: str, accepted: str) -> None:
        super().__init__(f"{field}: {value}")
        self.field, self.value, self.accepted = field, value, accepted


def _check(pairs: Pairs) -> None:
    for key, value in pairs:
        if len(key) > KEY_LENGTH or len(value) > VALUE_LENGTH:
            raise Unfit(f"labels[{key[:KEY_LENGTH]}]", f"a value of {len(value)} characters", f"at most {VALUE_LENGTH} characters")


LABELS = Labels(_check)
ANNOTATIONS = Labels(size=4096)
_READY, _NOT_READY = (Condition(type="Ready", status=status) for status in ("True", "False"))
_conditions = {
    states: EndpointConditions(ready=states[0], serving=states[1], terminating=states[2])
    for states in product((None, False, True), repeat=3)
}
PortKey = tuple[tuple[int, str, str], ...]
_containers: Pool[tuple[tuple[str, PortKey], ...], tuple[Container, ...]] = Pool(4096)
_owners: Pool[tuple[tuple[str, str, str, str, bool], ...], tuple[OwnerReference, ...]] = Pool(4096)


def reduce(found: wire.CoreObject) -> None:
    """Drop what the wire form still has and nobody reads."""
    metadata = found.metadata
    if metadata.annotations:
        metadata.annotations = {key: value for key, value in metadata.annotations.items() if _is_read(key)} or None
    if isinstance(found, wire.Pod):
        if found.spec.init_containers:
            # Of the containers before the others, those that go on running may have ports.
            found.spec.init_containers = [one for one in found.spec.init_containers if one.restart_policy == "Always" and one.ports] or None
        if found.status.conditions:
            found.status.conditions = [one for one in found.status.conditions if one.type == "Ready"] or None


def make(found: wire.CoreObject, kind: str, where: str) -> Object:
    """The object of a reduced wire form. Unfit."""
    return _MAKERS[kind](found, where)


def _is_read(key: str) -> bool:
    domain, slash, _ = key.partition("/")
    return bool(slash) and any(domain == read or domain.endswith(f".{read}") for read in READ_ANNOTATIONS)


def _metadata(found: wire.Meta) -> Metadata:
    return Metadata(
        name=sys.intern(found.name),
        namespace=sys.intern(found.namespace),
        uid=found.uid,
        labels=LABELS.get(found.labels),
        annotations=ANNOTATIONS.get(found.annotations),
        owner_references=_owner_references(found.owner_references),
        creation_timestamp=found.creation_timestamp or "",
        deletion_timestamp=found.deletion_timestamp or "",
    )


def _owner_references(found: list[wire.Owner] | None) -> tuple[OwnerReference, ...]:
    if not found:
        return ()
    return _owners.get(tuple((one.api_version, one.kind, one.name, one.uid, bool(one.controller)) for one in found), _make_owners)


def _make_owners(key: tuple[tuple[str, str, str, str, bool], ...]) -> tuple[OwnerReference, ...]:
    return tuple(
        OwnerReference(api_version=sys.intern(version), kind=sys.intern(kind), name=name, uid=uid, controller=controller)
        for version, kind, name, uid, controller in key
    )


def _pod(found: wire.Pod, where: str) -> Pod:
    spec, status = found.spec, found.status
    ips = tuple(PodIP(ip=_ip(one.ip, "status.podIPs")) for one in status.pod_ips or ())
    return Pod(
        where=where,
        metadata=_metadata(found.metadata),
        spec=PodSpec(
            containers=_make_all(spec.containers),
            init_containers=_make_all(spec.init_containers or ()),
            service_account_name=sys.intern(spec.service_account_name),
            node_name=sys.intern(spec.node_name),
            host_network=spec.host_network,
            hostname=spec.hostname,
            subdomain=sys.intern(spec.subdomain),
        ),
        status=PodStatus(
            phase=sys.intern(status.phase),
            pod_ip=ips[0].ip if ips else _ip(status.pod_ip, "status.podIP") if status.pod_ip else None,
            pod_ips=ips,
            conditions=tuple(_READY if one.status == "True" else _NOT_READY for one in status.conditions or ()),
        ),
    )


def _make_all(found: Iterable[wire.Container]) -> tuple[Container, ...]:
    key = tuple((one.name, tuple((port.container_port, port.name, port.protocol) for port in one.ports or ())) for one in found)
    return _containers.get(key, _make_containers) if key else ()


def _make_containers(key: tuple[tuple[str, PortKey], ...]) -> tuple[Container, ...]:
    return tuple(
        Container(
            name=sys.intern(name),
            ports=tuple(ContainerPort(container_port=port, name=sys.intern(label), protocol=protocol) for port, label, protocol in ports),
        )
        for name, ports in key
    )


def _service(found: wire.Service, where: str) -> Service:
    spec = found.spec
    return Service(
        where=where,
        metadata=_metadata(found.metadata),
        spec=ServiceSpec(
            type=spec.type,
            selector=LABELS.get(spec.selector),
            ports=tuple(
                ServicePort(
                    port=one.port,
                    name=sys.intern(one.name),
                    target_port=one.target_port or None,
                    protocol=sys.intern(one.protocol),
                    app_protocol=one.app_protocol,
                    node_port=one.node_port or None,
                )
                for one in spec.ports or ()
            ),
            cluster_ip=_cluster_ip(spec.cluster_ip),
            cluster_ips=tuple(_cluster_ip(one) for one in spec.cluster_ips or ()),
            ip_families=tuple(spec.ip_families or ()),
            ip_family_policy=spec.ip_family_policy or "SingleStack",
            publish_not_ready_addresses=spec.publish_not_ready_addresses,
            internal_traffic_policy=spec.internal_traffic_policy or "Cluster",
            external_traffic_policy=spec.external_traffic_policy,
            traffic_distribution=spec.traffic_distribution,
            external_name=spec.external_name,
            session_affinity=spec.session_affinity or "None",
        ),
    )


def _endpoint_slice(found: wire.EndpointSlice, where: str) -> EndpointSlice:
    return EndpointSlice(
        where=where,
        metadata=_metadata(found.metadata),
        address_type=sys.intern(found.address_type),
        endpoints=tuple(_endpoint(one) for one in found.endpoints or ()),
        ports=tuple(
            EndpointPort(name=sys.intern(one.name), protocol=one.protocol, port=one.port, app_protocol=one.app_protocol)
            for one in found.ports or ()
        ),
    )


def _endpoint(found: wire.Endpoint) -> Endpoint:
    conditions, target = found.conditions or wire.EndpointConditions(), found.target_ref
    return Endpoint(
        addresses=tuple(found.addresses),
        conditions=_conditions[conditions.ready, conditions.serving, conditions.terminating],
        hostname=found.hostname,
        node_name=sys.intern(found.node_name),
        zone=sys.intern(found.zone),
        target_ref=ObjectReference(kind=sys.intern(target.kind), namespace=sys.intern(target.namespace), name=target.name, uid=target.uid)
        if target is not None
        else None,
    )


def _ip(text: str, field: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise Unfit(field, repr(text[:80]), "an IPv4 or IPv6 address") from None


def _cluster_ip(text: str) -> IPAddress | str:
    return text if text in ("", "None") else _ip(text, "spec.clusterIP")


_MAKERS: dict[str, Callable[..., Object]] = {
    "Namespace": lambda found, where: Namespace(where=where, metadata=_metadata(found.metadata)),
    "Node": lambda found, where: Node(where=where, metadata=_metadata(found.metadata)),
    "ServiceAccount": lambda found, where: ServiceAccount(where=where, metadata=_metadata(found.metadata)),
    "Pod": _pod,
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
}
