"""A service of Consul as objects of the mesh. Pure: tables, no I/O.

    service `web`                ServiceEntry `web`, MESH_EXTERNAL, STATIC, hosts [web.service.consul]
    an instance that serves      an endpoint: address, own port, weight for its health, locality, labels of its tags and meta
    one that does not            (critical, in maintenance, or of weight 0) no endpoint; but its port and its tags still count, so that
                                 neither a port nor a subset goes because of those who cannot serve now
    a tag of any instance        a subset of DestinationRule `web`, by the tag's label; the tag as it is written is an annotation
    ports                        the instances'; or meta `culvert-port`, where clients are to use another. Whoever comes to any of them
                                 gets to an instance's own port
    protocol                     meta `protocol`; else the tag that is one; tcp for any other word, and where instances do not agree
    Consul's virtual address     the ServiceEntry's `addresses`; without one, the mesh hands one out

An instance is what is registered, so an instance is what is refused if it is no good, whole, and the others serve on. What is wrong with
all of it, such as a name that is none of DNS, refuses the service. Everything then goes through the parser of manifests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from control.sources.consul.names import is_label_value, meta_label, subset_name, tag_label
from control.sources.consul.settings import DOMAIN, NAMESPACE
from control.sources.consul.wire import Instance
from mesh.model.errors import Refusal
from mesh.model.manifest import Object, Parsed, Refused

API_VERSION = "networking.istio.io/v1"
ENTRY, RULE = "ServiceEntry", "DestinationRule"
INSTANCE_KIND = "ConsulInstance"
"""What a refused instance is called: no kind of any object, so that it stands for none."""
PORT_META, PROTOCOL_META, VERSION_META = "culvert-port", "protocol", "version"
CANONICAL_NAME, CANONICAL_REVISION = "service.istio.io/canonical-name", "service.istio.io/canonical-revision"
PROTOCOLS = {"http": "HTTP", "http2": "HTTP2", "grpc": "GRPC", "grpc-web": "GRPC-WEB", "https": "HTTPS", "tls": "TLS", "tcp": "TCP"}
MAX_PORTS = 4
MAX_REFUSALS = 20
MAX_TRIES = 5
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_ENDPOINT = re.compile(r"spec\.endpoints\[(\d+)\](?:\.?)(.*)")

Parse = Callable[[Mapping[str, Any], str], Parsed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """As in `ConsulSettings`."""

    namespace: str = NAMESPACE
    domain: str = DOMAIN
    datacenter_names: bool = False
    proxies: bool = False


@dataclass(frozen=True, slots=True)
class Good:
    """An instance that can be an endpoint. `front`: the port that clients use for it."""

    instance: Instance
    address: str
    front: int


def origin_of(name: str) -> str:
    return f"consul/{name}"


def translate(name: str, instances: Sequence[Instance], rules: Rules, parse: Parse) -> Parsed:
    """The objects of one service, and what of it was refused. Nothing at all for what is none of ours, such as a sidecar proxy."""
    ours = [instance for instance in instances if rules.proxies or not instance.kind]
    if not ours:
        return Parsed()
    return _Service(name, rules, parse).translate(ours)


def unreadable(name: str, rules: Rules, why: str) -> Parsed:
    """A service of which Consul, asked again and again, says what cannot be read."""
    refusal = Refusal(origin_of(name), f"Consul service {name}", "", why, "an answer as Consul documents it")
    return Parsed(refused=(Refused((refusal,), origin_of(name), ENTRY, rules.namespace, name),))


class _Service:
    def __init__(self, name: str, rules: Rules, parse: Parse) -> None:
        self.name = name
        self.rules = rules
        self.parse = parse
        self.origin = origin_of(name)
        self.refusals: list[Refusal] = []

    def translate(self, instances: Sequence[Instance]) -> Parsed:
        if not _LABEL.fullmatch(self.name):
            accepted = "up to 63 lower-case letters, digits and '-', with a letter or digit at both ends, since clients call it by DNS"
            return self._refused("the service's name", _shown(self.name), accepted)
        good = [found for instance in instances if (found := self._good(instance)) is not None]
        fronts = sorted({found.front for found in good})
        if not good:
            accepted = "at least one instance that is not refused"
            return self._refused("instances", f"{len(instances)}, all refused", accepted)
        if len(fronts) > MAX_PORTS:
            accepted = f"up to {MAX_PORTS} ports, or meta {PORT_META} of the instances with the port that clients use"
            return self._refused("Service.Port", f"{len(fronts)} different ports", accepted)
        hosts = self._hosts(good)
        objects: list[Object] = []
        entry = self._entry(good, fronts, hosts)
        if entry.refused:
            return Parsed(refused=(*entry.refused, *self._refused_instances()))
        objects += entry.objects
        tags = sorted({tag for found in good for tag in found.instance.tags})
        for host in hosts if tags else ():
            rule = self.parse(self._rule(host, tags), self.origin)
            if rule.refused:
                return Parsed(refused=(*rule.refused, *self._refused_instances()))
            objects += rule.objects
        return Parsed(tuple(objects), self._refused_instances())

    # Instances

    def _good(self, instance: Instance) -> Good | None:
        """None, and said, for what can be no endpoint."""
        address = _address(instance.address)
        if address is None:
            self._refuse(instance, "Service.Address", _shown(instance.address), "an IP address that other machines reach")
            return None
        if not 1 <= instance.port <= 65535:
            self._refuse(instance, "Service.Port", str(instance.port), "a port from 1 to 65535")
            return None
        front = instance.meta.get(PORT_META)
        if front is None:
            return Good(instance, address, instance.port)
        if not re.fullmatch(r"[1-9][0-9]{0,4}", front) or int(front) > 65535:
            self._refuse(instance, f"Service.Meta[{PORT_META}]", _shown(front), "a port from 1 to 65535")
            return None
        return Good(instance, address, int(front))

    def _refuse(self, instance: Instance, field: str, value: str, accepted: str) -> None:
        if len(self.refusals) < MAX_REFUSALS:
            where = f"instance {instance.id} on {instance.node}: {field}"
            self.refusals.append(Refusal(self.origin, f"Consul service {self.name}", where, value, accepted))

    def _refused_instances(self) -> tuple[Refused, ...]:
        if not self.refusals:
            return ()
        return (Refused(tuple(self.refusals), self.origin, INSTANCE_KIND, self.rules.namespace, self.name),)

    def _refused(self, field: str, value: str, accepted: str) -> Parsed:
        """The service as a whole."""
        refusal = Refusal(self.origin, f"Consul service {self.name}", field, value, accepted)
        return Parsed(refused=(Refused((refusal,), self.origin, ENTRY, self.rules.namespace, self.name), *self._refused_instances()))

    # Objects

    def _hosts(self, good: Iterable[Good]) -> list[str]:
        hosts = [f"{self.name}.service.{self.rules.domain}"]
        if self.rules.datacenter_names:
            datacenters = sorted({found.instance.datacenter for found in good} - {""})
            hosts += [f"{self.name}.service.{datacenter}.{self.rules.domain}" for datacenter in datacenters]
        return hosts

    def _entry(self, good: Sequence[Good], fronts: Sequence[int], hosts: Sequence[str]) -> Parsed:
        """With the endpoints that the parser takes: it is asked again without those that it does not. Not for ever; then all is refused."""
        protocol = _protocol([found.instance for found in good])
        ports = [{"name": f"{protocol}-{front}", "number": front, "protocol": PROTOCOLS[protocol]} for front in fronts]
        serving = _serving(good)
        for left in reversed(range(MAX_TRIES)):
            spec: dict[str, Any] = {
                "hosts": list(hosts),
                "location": "MESH_EXTERNAL",
                "resolution": "STATIC",
                "ports": ports,
                "endpoints": [self._endpoint(found, [str(port["name"]) for port in ports]) for found in serving],
            }
            virtual = sorted({address for found in good for address in found.instance.virtual})
            if virtual:
                spec["addresses"] = virtual
            parsed = self.parse(self._object(ENTRY, self.name, spec, {}), self.origin)
            bad = self._refuse_endpoints(parsed, serving) if left else set()
            if not bad:
                break
            serving = [found for index, found in enumerate(serving) if index not in bad]
        return parsed

    def _refuse_endpoints(self, parsed: Parsed, serving: Sequence[Good]) -> set[int]:
        """Which of the endpoints the parser refused, if it refused nothing else; these are said."""
        bad: set[int] = set()
        found = [(refusal, _ENDPOINT.fullmatch(refusal.field)) for entry in parsed.refused for refusal in entry.refusals]
        if any(match is None for _, match in found):
            return set()
        for refusal, match in found:
            assert match is not None
            bad.add(int(match[1]))
            self._refuse(serving[int(match[1])].instance, match[2], refusal.value, refusal.accepted)
        return bad

    def _endpoint(self, found: Good, ports: Iterable[str]) -> dict[str, Any]:
        instance = found.instance
        labels = {CANONICAL_NAME: self.name}
        version = instance.meta.get(VERSION_META, "")
        if version and is_label_value(version):
            labels[CANONICAL_REVISION] = version
        labels.update(label for key, value in instance.meta.items() if (label := meta_label(key, value)) is not None)
        labels.update(tag_label(tag) for tag in instance.tags)
        endpoint: dict[str, Any] = {
            "address": found.address,
            "ports": dict.fromkeys(ports, instance.port),
            "labels": labels,
            "weight": instance.weight,
        }
        if instance.region:
            endpoint["locality"] = f"{instance.region}/{instance.zone}" if instance.zone else instance.region
        return endpoint

    def _rule(self, host: str, tags: Iterable[str]) -> dict[str, Any]:
        subsets = [{"name": subset_name(tag), "labels": dict([tag_label(tag)])} for tag in tags]
        # One rule per host; the first is called as the service.
        name = self.name if host == f"{self.name}.service.{self.rules.domain}" else host
        return self._object(RULE, name, {"host": host, "subsets": subsets}, {tag_label(tag)[0]: tag for tag in tags})

    def _object(self, kind: str, name: str, spec: dict[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
        metadata = {"name": name, "namespace": self.rules.namespace, "annotations": dict(annotations)}
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _serving(good: Iterable[Good]) -> list[Good]:
    """Those that get traffic. Two registrations of one address and port are one endpoint: the first."""
    found: dict[tuple[str, int], Good] = {}
    for one in good:
        if one.instance.health.serves and one.instance.weight > 0:
            found.setdefault((one.address, one.instance.port), one)
    return list(found.values())


def _address(text: str) -> str | None:
    """An address that means the same on every machine. A loopback address would be the client's own."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        return None
    if address.version == 6 and (address.ipv4_mapped is not None or address.scope_id is not None):
        return None
    return str(address)


def _protocol(instances: Iterable[Instance]) -> str:
    """One of PROTOCOLS."""
    said = {_protocol_of(instance) for instance in instances}
    return said.pop() if len(said) == 1 else "tcp"


def _protocol_of(instance: Instance) -> str:
    meta = instance.meta.get(PROTOCOL_META, "").lower()
    if meta:
        return meta if meta in PROTOCOLS else "tcp"
    tags = {tag for tag in instance.tags if tag in PROTOCOLS}
    return tags.pop() if len(tags) == 1 else "tcp"


def _shown(value: str) -> str:
    """As a refusal shows it: short, and in quotes where it would not be seen."""
    text = value if value and value.isprintable() and " " not in value else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
