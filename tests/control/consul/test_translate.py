"""Services of Consul as objects of the mesh, through the parser that manifests go through."""

from __future__ import annotations

from typing import Any

import pytest

from control.sources.consul.translate import MAX_PORTS, MAX_REFUSALS, Rules, translate, unreadable
from control.sources.consul.wire import Health, Instance
from mesh.model.manifest import DestinationRule, Key, Parsed, ServiceEntry, parse_object

RULES = Rules()


def instance(number: int = 1, **more: Any) -> Instance:
    values: dict[str, Any] = {"node": f"n{number}", "id": f"web-{number}", "address": f"10.0.0.{number}", "port": 8080, "datacenter": "dc1"}
    return Instance(**values | more)


def objects(*instances: Instance, name: str = "web", rules: Rules = RULES) -> Parsed:
    return translate(name, instances, rules, parse_object)


def entry_of(parsed: Parsed) -> ServiceEntry:
    assert parsed.refused == ()
    (found,) = [one for one in parsed.objects if isinstance(one, ServiceEntry)]
    return found


def entry(*instances: Instance, rules: Rules = RULES) -> ServiceEntry:
    return entry_of(objects(*instances, rules=rules))


def rules_of(parsed: Parsed) -> list[DestinationRule]:
    return [one for one in parsed.objects if isinstance(one, DestinationRule)]


def endpoints(*instances: Instance) -> list[str]:
    return [str(endpoint.address) for endpoint in entry(*instances).spec.endpoints]


def refusals(parsed: Parsed) -> list[tuple[str, str, str]]:
    return [(refusal.field, refusal.value, refusal.accepted) for one in parsed.refused for refusal in one.refusals]


# What an entry is made of


def test_a_service_is_a_service_entry_with_an_endpoint_for_each_instance() -> None:
    found = entry(instance(1, weight=10, region="eu", zone="eu-1", meta={"version": "2", "url": "http://x"}), instance(2, port=8080))
    assert found.key == Key("ServiceEntry", "consul", "web")
    assert found.where == "consul/web"
    spec = found.spec
    assert (spec.hosts, spec.location, spec.resolution, spec.addresses) == (("web.service.consul",), "MESH_EXTERNAL", "STATIC", ())
    assert [(port.number, port.name, port.protocol) for port in spec.ports] == [(8080, "tcp-8080", "TCP")]
    one, two = spec.endpoints
    assert (str(one.address), one.weight, str(two.address), two.weight) == ("10.0.0.1", 10, "10.0.0.2", 1)
    assert (one.locality.region, one.locality.zone, two.locality.region) == ("eu", "eu-1", "")
    assert one.ports == two.ports == {"tcp-8080": 8080}
    assert one.labels == {
        "service.istio.io/canonical-name": "web",
        "service.istio.io/canonical-revision": "2",
        "consul.meta/version": "2",
    }
    assert one.service_account == ""


def test_namespace_domain_and_datacenter_are_as_configured() -> None:
    rules = Rules(namespace="shop", domain="example.net", datacenter_names=True)
    parsed = objects(instance(1, tags=("v1",)), rules=rules)
    found = entry_of(parsed)
    assert found.namespace == "shop"
    assert found.spec.hosts == ("web.service.example.net", "web.service.dc1.example.net")
    assert [(one.namespace, one.name, one.spec.host) for one in rules_of(parsed)] == [
        ("shop", "web", "web.service.example.net"),
        ("shop", "web.service.dc1.example.net", "web.service.dc1.example.net"),
    ]


@pytest.mark.parametrize(
    ("health", "weight", "serves"),
    [
        (Health.PASSING, 1, True),
        (Health.WARNING, 1, True),
        (Health.WARNING, 0, False),
        (Health.CRITICAL, 1, False),
        (Health.MAINTENANCE, 1, False),
    ],
)
def test_who_does_not_serve_is_no_endpoint(health: Health, weight: int, serves: bool) -> None:
    assert endpoints(instance(1), instance(2, health=health, weight=weight)) == (["10.0.0.1", "10.0.0.2"] if serves else ["10.0.0.1"])


def test_a_service_of_which_nobody_serves_keeps_its_ports_and_subsets() -> None:
    parsed = objects(instance(1, health=Health.CRITICAL, tags=("v1",), meta={"protocol": "http"}))
    spec = entry_of(parsed).spec
    assert spec.endpoints == ()
    assert [(port.number, port.protocol) for port in spec.ports] == [(8080, "HTTP")]
    assert [subset.name for subset in rules_of(parsed)[0].spec.subsets] == ["v1"]


def test_two_registrations_of_one_address_and_port_are_one_endpoint() -> None:
    assert endpoints(instance(1), instance(2, address="10.0.0.1"), instance(3, address="10.0.0.1", port=9090)) == ["10.0.0.1", "10.0.0.1"]


def test_an_address_that_consul_assigned_is_used() -> None:
    found = entry(instance(1, virtual=("240.0.0.7",)), instance(2, virtual=("240.0.0.7",)))
    assert [str(network) for network in found.spec.addresses] == ["240.0.0.7/32"]


def test_ipv6_works_as_ipv4_does() -> None:
    assert endpoints(instance(1, address="2001:db8::1")) == ["2001:db8::1"]


# Ports


def test_each_instance_is_reached_at_its_own_port_by_whichever_port_clients_use() -> None:
    found = entry(instance(1, port=8080), instance(2, port=9090))
    assert [(port.name, port.number) for port in found.spec.ports] == [("tcp-8080", 8080), ("tcp-9090", 9090)]
    assert [dict(endpoint.ports) for endpoint in found.spec.endpoints] == [
        {"tcp-8080": 8080, "tcp-9090": 8080},
        {"tcp-8080": 9090, "tcp-9090": 9090},
    ]


def test_meta_names_the_port_that_clients_use() -> None:
    dynamic = [instance(number, port=20000 + number, meta={"culvert-port": "80"}) for number in range(1, 9)]
    found = entry(*dynamic)
    assert [port.number for port in found.spec.ports] == [80]
    assert [dict(endpoint.ports) for endpoint in found.spec.endpoints] == [{"tcp-80": 20000 + number} for number in range(1, 9)]


def test_more_ports_than_anybody_could_know_are_refused_with_what_helps() -> None:
    parsed = objects(*(instance(number, port=20000 + number) for number in range(MAX_PORTS + 1)))
    assert parsed.objects == ()
    ((field, value, accepted),) = refusals(parsed)
    assert (field, value) == ("Service.Port", "5 different ports")
    assert "culvert-port" in accepted
    assert parsed.refused[0].key == Key("ServiceEntry", "consul", "web")


@pytest.mark.parametrize(
    ("metas", "tags", "protocol"),
    [
        (["http"], [()], "HTTP"),
        (["GRPC"], [()], "GRPC"),
        (["http2"], [("tcp",)], "HTTP2"),
        ([""], [("grpc-web",)], "GRPC-WEB"),
        ([""], [("v1", "https")], "HTTPS"),
        ([""], [("tls",)], "TLS"),
        ([""], [("http", "grpc")], "TCP"),
        (["amqp"], [("http",)], "TCP"),
        (["http", "grpc"], [(), ()], "TCP"),
        (["http", ""], [(), ("http",)], "HTTP"),
        ([""], [()], "TCP"),
    ],
)
def test_the_protocol_is_meta_or_a_tag_that_all_agree_on(metas: list[str], tags: list[tuple[str, ...]], protocol: str) -> None:
    said = zip(metas, tags, strict=True)
    some = [instance(number, meta={"protocol": meta} if meta else {}, tags=tag) for number, (meta, tag) in enumerate(said, 1)]
    (port,) = entry(*some).spec.ports
    assert (port.protocol, port.name) == (protocol, f"{protocol.lower()}-8080")


# Subsets


def test_each_tag_is_a_subset_that_selects_its_instances() -> None:
    parsed = objects(instance(1, tags=("v1",)), instance(2, tags=("v1.2", "Team A")))
    (rule,) = rules_of(parsed)
    assert (rule.key, rule.spec.host) == (Key("DestinationRule", "consul", "web"), "web.service.consul")
    subsets = {subset.name: dict(subset.labels) for subset in rule.spec.subsets}
    assert subsets == {
        "v1": {"consul.tag/v1": "v1"},
        "v1--2": {"consul.tag/v1--2": "v1.2"},
        "team-a---e18d322f14": {"consul.tag/team-a---e18d322f14": ""},
    }
    assert rule.annotations == {"consul.tag/v1": "v1", "consul.tag/v1--2": "v1.2", "consul.tag/team-a---e18d322f14": "Team A"}
    endpoints = entry_of(parsed).spec.endpoints
    for name, selected in (("v1", [0]), ("v1--2", [1]), ("team-a---e18d322f14", [1])):
        chosen = [index for index, one in enumerate(endpoints) if subsets[name].items() <= one.labels.items()]
        assert chosen == selected


def test_without_tags_there_is_no_rule() -> None:
    assert rules_of(objects(instance(1))) == []


# What is left out, and what is refused


@pytest.mark.parametrize("kind", ["connect-proxy", "mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway"])
def test_consuls_own_mesh_is_left_out_unless_it_is_asked_for(kind: str) -> None:
    assert objects(instance(1, kind=kind)) == Parsed()
    assert endpoints(instance(1), instance(2, kind=kind)) == ["10.0.0.1"]
    assert len(entry(instance(1, kind=kind), rules=Rules(proxies=True)).spec.endpoints) == 1


@pytest.mark.parametrize("name", ["Web", "web_1", "web.api", "-web", "web-", "w" * 64, "", "wéb"])
def test_a_name_that_is_none_of_dns_is_refused_not_mangled(name: str) -> None:
    parsed = objects(instance(1), name=name)
    assert parsed.objects == ()
    ((field, _, accepted),) = refusals(parsed)
    assert field == "the service's name"
    assert accepted.startswith("up to 63 lower-case letters")


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"address": "web.example.com"}, "Service.Address", "web.example.com"),
        ({"address": ""}, "Service.Address", "''"),
        ({"address": "127.0.0.1"}, "Service.Address", "127.0.0.1"),
        ({"address": "::1"}, "Service.Address", "::1"),
        ({"address": "0.0.0.0"}, "Service.Address", "0.0.0.0"),
        ({"address": "224.0.0.1"}, "Service.Address", "224.0.0.1"),
        ({"address": "169.254.169.254"}, "Service.Address", "169.254.169.254"),
        ({"address": "fe80::1%eth0"}, "Service.Address", "fe80::1%eth0"),
        ({"address": "::ffff:127.0.0.1"}, "Service.Address", "::ffff:127.0.0.1"),
        ({"address": "/run/web.sock"}, "Service.Address", "/run/web.sock"),
        ({"port": 0}, "Service.Port", "0"),
        ({"port": 65536}, "Service.Port", "65536"),
        ({"meta": {"culvert-port": "http"}}, "Service.Meta[culvert-port]", "http"),
        ({"meta": {"culvert-port": "99999"}}, "Service.Meta[culvert-port]", "99999"),
        ({"region": "a/b", "zone": "c/d"}, "locality", "a/b/c/d"),
    ],
)
def test_an_instance_that_is_no_good_is_refused_and_the_others_serve(change: dict[str, Any], field: str, value: str) -> None:
    parsed = objects(instance(1), instance(2, **change), instance(3))
    (one,) = [found for found in parsed.objects if isinstance(found, ServiceEntry)]
    assert [str(endpoint.address) for endpoint in one.spec.endpoints] == ["10.0.0.1", "10.0.0.3"]
    ((where, shown, accepted),) = refusals(parsed)
    assert where == f"instance web-2 on n2: {field}"
    assert shown == value
    assert accepted
    # It stands for no object: what was accepted stays in force.
    assert parsed.refused[0].key not in {found.key for found in parsed.objects}
    assert not parsed.refused[0].policy


def test_where_every_instance_is_refused_the_service_is() -> None:
    parsed = objects(*(instance(number, port=0) for number in range(30)))
    assert parsed.objects == ()
    assert [one.key for one in parsed.refused] == [Key("ServiceEntry", "consul", "web"), Key("ConsulInstance", "consul", "web")]
    assert len(parsed.refused[1].refusals) == MAX_REFUSALS


def test_more_endpoints_than_an_entry_may_have_are_refused_whole() -> None:
    some = [instance(1, id=str(number), address=f"10.{number // 65536}.{number // 256 % 256}.{number % 256}") for number in range(1, 4098)]
    parsed = objects(*some)
    assert parsed.objects == ()
    assert refusals(parsed)[0][0] == "spec.endpoints"


def test_an_address_of_consuls_that_is_none_refuses_the_service() -> None:
    parsed = objects(instance(1, virtual=("nonsense",)))
    assert parsed.objects == ()
    assert refusals(parsed)[0][:2] == ("spec.addresses[0]", "nonsense")


def test_what_cannot_be_read_is_said_of_the_service() -> None:
    (one,) = unreadable("web", RULES, "no JSON").refused
    assert one.key == Key("ServiceEntry", "consul", "web")
    assert str(one.refusals[0]) == "consul/web: Consul service web: no JSON is not accepted; accepted: an answer as Consul documents it"
