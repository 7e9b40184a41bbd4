"""What becomes of objects of each kind, and by which field and words a mistake is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from mesh.model.errors import BugError
from mesh.model.manifest import (
    AuthorizationPolicy,
    DestinationRule,
    EndpointSlice,
    Gateway,
    GRPCRoute,
    HTTPRoute,
    IstioGateway,
    Key,
    Node,
    Object,
    ReferenceGrant,
    RequestAuthentication,
    ServiceEntry,
    Telemetry,
    TLSRoute,
    VirtualService,
    WorkloadEntry,
    load_directory,
    parse,
    parse_object,
    type_of,
    unguarded,
    unsupported,
)
from mesh.model.manifest.kinds import SERVED
from mesh.model.workload import Locality
from tests.model.mistakes import AP, DR, GTW, GW, HTTP, MISTAKES, SE, TLS, VS, WE
from tests.model.objects import SPECS, Mistake, document, full

VERSIONS = [(key, version) for key in SPECS for version in SERVED[key]]


def taken(value: dict[str, Any]) -> Any:
    parsed = parse_object(value, "there")
    assert not parsed.refused, parsed.refused
    (entry,) = parsed.objects
    return entry


@pytest.mark.parametrize(("key", "version"), VERSIONS, ids=[f"{key[1]} {version}" for key, version in VERSIONS])
def test_every_kind_is_taken_in_every_version_from_files_and_from_json(key: tuple[str, str], version: str) -> None:
    value = full(key) | {"apiVersion": version}
    entry = taken(value)
    assert isinstance(entry, SERVED[key][version])
    assert entry.where == "there"
    assert parse(yaml.safe_dump(value), "f.yaml") == [entry]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_refused_by_its_field(mistake: Mistake) -> None:
    parsed = parse_object(mistake.document, "there")
    assert not parsed.objects
    (refused,) = parsed.refused
    assert [refusal.field for refusal in refused.refusals] == [mistake.field]
    (refusal,) = refused.refusals
    assert refusal.where == "there"
    assert refusal.accepted
    assert refusal.value


SAID = [
    (
        VS,
        "{hosts: [a], http: [{route: [{destination: {host: a}}], timeout: 5}]}",
        "spec.http[0].timeout: 5 is not accepted; accepted: a duration such as 1h30m, 2.5s or 100ms, in quotes",
    ),
    (
        VS,
        "{hosts: [a], http: [{match: [{uri: {regex: '('}}], route: [{destination: {host: a}}]}]}",
        "spec.http[0].match[0].uri.regex: ( is not accepted; accepted: a regular expression that RE2 takes, of up to 1024 characters",
    ),
    (
        VS,
        "{hosts: [a], http: [{retries: {attempts: 1, retryOn: sometimes}, route: [{destination: {host: a}}]}]}",
        "spec.http[0].retries.retryOn: sometimes is not accepted; accepted: words separated by commas, each a status code or one of 5xx, "
        "gateway-error, reset, reset-before-request, connect-failure, envoy-ratelimited, retriable-4xx, refused-stream, "
        "retriable-status-codes, retriable-headers, http3-post-connect-failure, cancelled, deadline-exceeded, internal, "
        "resource-exhausted, unavailable",
    ),
    (
        DR,
        "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}}}",
        "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: 100 is not accepted; accepted: a prime below 5000011",
    ),
    (SE, "{hosts: ['*'], resolution: DNS}", "spec.hosts[0]: * is not accepted; accepted: a DNS name, which may begin with '*.'"),
    (
        HTTP,
        "{rules: [{matches: [{path: {value: /a%2fb}}]}]}",
        "spec.rules[0].matches[0].path.value: /a%2fb is not accepted; accepted: a path "
        "from '/', without empty or dotted segments and without %2F; with RegularExpression, an expression that RE2 takes",
    ),
    (
        GTW,
        "{gatewayClassName: istio-waypoint, listeners: [{name: a, port: 80, protocol: HTTP}]}",
        "spec.listeners: a list is not accepted; accepted: the protocol HBONE alone at a waypoint",
    ),
    (
        AP,
        "{rules: [{to: [{operation: {paths: [admin]}}]}]}",
        "spec.rules[0].to[0].operation.paths[0]: admin is not accepted; accepted: a path "
        "that begins with '/', or with '*' alone or first, or with '*' last; or one with {*} for a segment and {**} for the last ones",
    ),
]


@pytest.mark.parametrize(("key", "spec", "said"), SAID, ids=[row[2].partition(":")[0] for row in SAID])
def test_a_refusal_says_where_what_and_what_else_is_accepted(key: tuple[str, str], spec: str, said: str) -> None:
    (refused,) = parse_object(document(key, yaml.safe_load(spec)), "kubernetes").refused
    assert [str(refusal) for refusal in refused.refusals] == [f"kubernetes: {key[1]} shop/a: {said}"]


# What becomes of them


def test_a_virtual_service() -> None:
    entry = taken(full(VS))
    assert isinstance(entry, VirtualService)
    spec = entry.spec
    assert spec.hosts == ("catalog", "*.catalog.example.com")
    assert spec.in_mesh
    first, redirect, answer, delegate, last = spec.http
    assert first.timeout == 62.5
    assert first.match[0].headers.keys() == {"x-team", "x-any", "@request.auth.claims[group]"}
    assert [first.match[0].headers[name].present for name in ("x-team", "x-any")] == [False, True]
    assert [match.everything for match in first.match] == [False, True]
    assert first.retries is not None
    assert (first.retries.retry_on, first.retries.per_try_timeout, first.retries.retry_ignore_previous_hosts) == (
        ("5xx", "reset", "503"),
        0.25,
        True,
    )
    assert first.fault is not None
    assert first.fault.delay is not None
    assert (first.fault.delay.fixed_delay, first.fault.delay.share) == (2.0, 0.5)
    assert [(target.host, share) for target, share in first.mirroring] == [("shadow", 10.0), ("other", 100.0)]
    assert [(target.host, share) for target, share in last.mirroring] == [("shadow", 5.0)]
    assert first.headers.request.set == {":authority": "a", "x-a": "b"}
    assert first.cors_policy is not None
    assert first.cors_policy.max_age == 86400.0
    assert redirect.redirect is not None
    assert redirect.redirect.redirect_code == 308
    assert answer.direct_response is not None
    assert delegate.delegate is not None
    assert spec.tcp[0].match[0].destination_subnets == (ip_network("10.0.0.0/8"), ip_network("fd00::1/128"))


def test_old_spellings_mean_the_same() -> None:
    route = "route: [{destination: {host: a}}]"
    http = f"[{{{route}, mirror: {{host: b}}, mirror_percent: 3, corsPolicy: {{allowOrigin: ['*', 'https://a']}}}}]"
    rule = taken(document(VS, yaml.safe_load(f"{{hosts: [a], http: {http}}}"))).spec.http[0]
    assert [(target.host, share) for target, share in rule.mirroring] == [("b", 3.0)]
    assert [(origin.exact, origin.regex) for origin in rule.cors_policy.origins] == [(None, ".*"), ("https://a", None)]
    policy = "{host: a, trafficPolicy: {loadBalancer: {warmupDurationSecs: 30s}}}"
    assert taken(document(DR, yaml.safe_load(policy))).spec.traffic_policy.load_balancer.warming.duration == 30.0


@pytest.mark.parametrize(
    ("hosts", "sni", "good"),
    [
        (["a.b"], "a.b", True),
        (["*.b"], "a.b", True),
        (["*.b"], "c.a.b", True),
        (["*.b"], "*.b", True),
        (["*.b"], "*.a.b", True),
        (["*.b"], "b", False),
        (["*.a.b"], "*.b", False),
        (["a.b"], "*.a.b", False),
        (["x", "*.b"], "ab", False),
    ],
)
def test_server_names_lie_within_hosts(hosts: list[str], sni: str, good: bool) -> None:
    tls = [{"match": [{"sniHosts": [sni]}], "route": [{"destination": {"host": "a"}}]}]
    assert bool(parse_object(document(VS, {"hosts": hosts, "tls": tls}), "f").objects) is good


def test_a_destination_rule() -> None:
    entry = taken(full(DR))
    assert isinstance(entry, DestinationRule)
    policy = entry.spec.traffic_policy
    assert policy is not None
    assert policy.load_balancer is not None
    assert policy.load_balancer.consistent_hash is not None
    assert policy.load_balancer.consistent_hash.http_cookie is not None
    assert policy.load_balancer.consistent_hash.http_cookie.ttl == 0.0
    assert policy.connection_pool is not None
    assert policy.connection_pool.tcp is not None
    assert (policy.connection_pool.tcp.connect_timeout, policy.connection_pool.tcp.idle_timeout) == (0.03, 0.0)
    assert policy.retry_budget is not None
    assert policy.retry_budget.budget_interval == 0.0
    assert entry.spec.subsets[1].traffic_policy is not None
    assert entry.spec.subsets[1].traffic_policy.outlier_detection is not None


def test_a_service_entry_and_a_workload_entry() -> None:
    entry, workload = taken(full(SE)), taken(full(WE))
    assert isinstance(entry, ServiceEntry)
    assert isinstance(workload, WorkloadEntry)
    assert entry.spec.addresses == (ip_network("240.0.0.1/32"), ip_network("fd00::/64"))
    assert [(port.number, port.protocol, port.target_port) for port in entry.spec.ports] == [(443, "TLS", None), (80, "HTTP", 8080)]
    assert [endpoint.address for endpoint in entry.spec.endpoints] == [ip_address("192.0.2.1"), ip_address("2001:db8::1")]
    assert entry.spec.endpoints[0].locality == Locality("eu", "a")
    assert (workload.spec.address, workload.spec.locality) == ("vm.example.com", Locality("eu", "a", "rack1"))


def test_gateways_of_two_groups_are_told_apart() -> None:
    istio, gateway = full(GW), full(GTW)
    loaded = load_directory([("a.yaml", yaml.safe_dump(istio)), ("b.yaml", yaml.safe_dump(gateway))])
    assert not loaded.refused
    assert [type(entry) for entry in loaded.objects] == [IstioGateway, Gateway]
    assert [str(entry.key) for entry in loaded.objects] == ["Gateway.networking.istio.io shop/a", "Gateway shop/a"]
    istio["spec"], gateway["spec"] = {}, {}
    refused = load_directory([("a.yaml", yaml.safe_dump(istio)), ("b.yaml", yaml.safe_dump(gateway))]).refused
    assert [entry.key for entry in refused] == [Key("Gateway.networking.istio.io", "shop", "a"), Key("Gateway", "shop", "a")]
    assert [entry.refusals[0].subject for entry in refused] == ["Gateway.networking.istio.io shop/a", "Gateway shop/a"]


@pytest.mark.parametrize(
    ("group", "kind", "called"),
    [
        ("networking.istio.io", "Gateway", "Gateway.networking.istio.io"),
        ("gateway.networking.k8s.io", "Gateway", "Gateway"),
        ("", "Service", "Service"),
        ("serving.knative.dev", "Service", "Service.serving.knative.dev"),
        ("security.istio.oi", "AuthorizationPolicy", "AuthorizationPolicy"),
        ("networking.istio.io", "HTTPRoute", "HTTPRoute"),
        ("example.com", "Widget", "Widget"),
    ],
)
def test_what_objects_are_called(group: str, kind: str, called: str) -> None:
    assert type_of(group, kind) == called


@pytest.mark.parametrize(
    ("version", "kind", "field", "accepted"),
    [
        (
            "networking.istio.io/v2",
            "Gateway",
            "apiVersion",
            "networking.istio.io/v1 or networking.istio.io/v1beta1 or networking.istio.io/v1alpha3",
        ),
        (
            "gateway.networking.k8s.io/v1alpha2",
            "HTTPRoute",
            "apiVersion",
            "gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1",
        ),
        ("example.com/v1", "HTTPRoute", "apiVersion", "gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1"),
        ("gateway.networking.k8s.io/v1", "UDPRoute", "kind", "a known kind, such as TCPRoute"),
        ("gateway.networking.k8s.io/v1", "Ingress", "kind", ", GRPCRoute, Gateway, GatewayClass, HTTPRoute, List, "),
    ],
)
def test_an_unserved_version_and_an_unknown_kind_are_refused_with_what_is_accepted(
    version: str, kind: str, field: str, accepted: str
) -> None:
    (refused,) = parse_object({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": {}}, "f").refused
    assert refused.refusals[0].field == field
    assert accepted in refused.refusals[0].accepted


def test_a_route_without_server_names_was_served_once() -> None:
    spec = {"rules": [{"backendRefs": [{"name": "a", "port": 1}]}]}
    assert isinstance(taken(document(TLS, spec, "v1alpha2")), TLSRoute)
    assert parse_object(document(TLS, spec, "v1"), "f").refused


def test_a_gateway_says_whom_it_lets_in() -> None:
    entry = taken(full(GTW))
    assert isinstance(entry, Gateway)
    namespaces = entry.spec.listeners[1].allowed_routes.namespaces
    assert namespaces.selector is not None
    assert [namespaces.selector.selects({"team": team}) for team in ("a", "c")] == [True, False]
    assert entry.spec.listeners[0].allowed_routes.namespaces.from_ == "All"
    assert not entry.spec.waypoint


@pytest.mark.parametrize(
    ("operator", "values", "found"),
    [
        ("In", ["a"], [True, False, False]),
        ("NotIn", ["a"], [False, True, True]),
        ("Exists", [], [True, True, False]),
        ("DoesNotExist", [], [False, False, True]),
    ],
)
def test_requirements_of_labels(operator: str, values: list[str], found: list[bool]) -> None:
    selector = {"matchExpressions": [{"key": "k", "operator": operator, "values": values}]}
    routes = {"namespaces": {"from": "Selector", "selector": selector}}
    spec = {"gatewayClassName": "a", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP", "allowedRoutes": routes}]}
    made = taken(document(GTW, spec)).spec.listeners[0].allowed_routes.namespaces.selector
    assert [made.selects(labels) for labels in ({"k": "a"}, {"k": "b"}, {})] == found


def test_routes_of_the_gateway_api() -> None:
    http, grpc = taken(full(HTTP)), taken(full(("gateway.networking.k8s.io", "GRPCRoute")))
    assert isinstance(http, HTTPRoute)
    assert isinstance(grpc, GRPCRoute)
    assert [(ref.group, ref.kind, ref.name) for ref in http.spec.parent_refs] == [
        ("", "Service", "catalog"),
        ("gateway.networking.k8s.io", "Gateway", "public"),
    ]
    first, second = http.spec.rules
    assert first.matches[0].headers[0].name == "x-team"
    assert first.timeouts is not None
    assert (first.timeouts.request, first.timeouts.backend_request) == (10.0, 2.0)
    assert first.filters[2].request_mirror is not None
    assert first.filters[2].request_mirror.share == 10.0
    assert second.matches[0].path.type == "Exact"
    assert taken(document(HTTP, {})).spec.rules[0].matches[0].path.value == "/"
    assert [ref.weight for ref in grpc.spec.rules[0].backend_refs] == [9, 1]


def test_a_grant_allows_what_it_names_and_nothing_else() -> None:
    grant = taken(full(("gateway.networking.k8s.io", "ReferenceGrant")))
    assert isinstance(grant, ReferenceGrant)
    route = ("gateway.networking.k8s.io", "HTTPRoute", "edge")
    assert grant.spec.allows(route, ("", "Service", "any"))
    assert grant.spec.allows(route, ("", "Secret", "shop"))
    assert not grant.spec.allows(route, ("", "Secret", "other"))
    assert not grant.spec.allows(("gateway.networking.k8s.io", "HTTPRoute", "other"), ("", "Service", "any"))


def test_the_policies() -> None:
    policy, tokens = taken(full(AP)), taken(full(("security.istio.io", "RequestAuthentication")))
    assert isinstance(policy, AuthorizationPolicy)
    assert isinstance(tokens, RequestAuthentication)
    assert policy.spec.rules[0].when[1].not_values == (ip_network("10.0.0.0/8"),)
    first, second = tokens.spec.jwt_rules
    assert (first.key_set_uri, first.timeout, second.timeout) == ("https://issuer.example.com/keys", 2.0, 5.0)
    assert (first.from_headers[0].name, first.from_headers[0].prefix) == ("x-token", "Bearer ")
    assert tokens.spec.targets[0].name == "catalog"
    assert isinstance(taken(full(("telemetry.istio.io", "Telemetry"))), Telemetry)


def test_a_refused_request_authentication_is_known_to_cover_what_it_would_have() -> None:
    spec = {"selector": {"matchLabels": {"app": "web"}}, "jwtRules": [{"isuer": "a"}]}
    (refused,) = parse_object(document(("security.istio.io", "RequestAuthentication"), spec), "f").refused
    assert (refused.policy, refused.namespace, refused.selector) == (True, "shop", {"app": "web"})
    (refused,) = parse_object(
        document(("security.istio.io", "RequestAuthentication"), {"targetRefs": [{"kind": "Service", "name": "a"}], "x": 1}), "f"
    ).refused
    assert [target.name for target in refused.targets] == ["a"]


# What comes from an API server


def test_the_servers_own_metadata_is_taken_and_its_status_is_not_looked_at() -> None:
    value = full(HTTP)
    value["metadata"] |= {
        "uid": "1f3e",
        "resourceVersion": "77",
        "generation": 3,
        "creationTimestamp": "2026-01-31T12:00:00Z",
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    }
    value["status"] = {"parents": "anything"}
    metadata = taken(value).metadata
    assert (metadata.uid, metadata.resource_version, metadata.generation, metadata.creation_timestamp) == (
        "1f3e",
        "77",
        3,
        "2026-01-31T12:00:00Z",
    )
    assert metadata.managed_fields is None


def test_an_object_of_no_kind_and_one_that_is_nested_too_deeply_are_refused_like_any_other() -> None:
    (refused,) = parse_object({}, "there").refused
    assert (refused.key, refused.policy, refused.refusals[0].field) == (None, False, "kind")
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    (refused,) = parse_object(document(AP, {"rules": deep}), "there").refused
    assert (str(refused.key), refused.policy, refused.selector, refused.namespace) == ("AuthorizationPolicy shop/a", True, None, "shop")
    (refused,) = parse_object(document(AP, {"rules": deep}) | {"metadata": "x"}, "there").refused
    assert (refused.policy, refused.namespace) == (True, None)


def test_names_and_namespaces_of_api_objects_are_judged_too() -> None:
    value = document(("gateway.networking.k8s.io", "GatewayClass"), {"controllerName": "a/b"})
    assert isinstance(taken(value), Object)
    value["metadata"]["namespace"] = "shop"
    (refused,) = parse_object(value, "f").refused
    assert refused.refusals[0].field == "metadata.namespace"
    (refused,) = parse_object({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}}, "f").refused
    assert refused.refusals[0].field == "metadata.name"


def test_that_both_ways_of_reading_decide_alike_is_checked_where_it_would_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from mesh.model.manifest import load
    from mesh.model.manifest.shapes import UnfitError

    def unfit(entry: Any) -> Object:
        raise UnfitError

    monkeypatch.setattr(load, "_named", unfit)
    with pytest.raises(BugError):
        parse_object(full(VS), "f")


def test_a_node_and_an_endpoint_slice() -> None:
    labels = {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "a"}
    node = taken(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}, "spec": {"podCIDR": "10.0.0.0/24"}, "status": {}}
    )
    assert isinstance(node, Node)
    assert (node.region, node.zone, node.subzone, node.key) == ("eu", "a", "", Key("Node", "", "n1"))
    slice_ = taken(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "nodeName": "n1", "zone": "a", "hints": {"forZones": []}}
            ],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }
    )
    assert isinstance(slice_, EndpointSlice)
    assert (slice_.service, slice_.endpoints[0].conditions.ready, slice_.ports[0].port) == ("web", True, 8080)


# What has no effect here

IGNORED = [
    (
        VS,
        "{hosts: [a], http: [{match: [{sourceLabels: {a: b}, statPrefix: x}], route: [{destination: {host: a}}]}]}",
        ["spec.http[0].match[0].sourceLabels", "spec.http[0].match[0].statPrefix"],
    ),
    (
        DR,
        "{host: a, workloadSelector: {matchLabels: {a: b}}, trafficPolicy: {tls: {mode: MUTUAL, credentialName: s}}}",
        ["spec.trafficPolicy.tls.credentialName", "spec.workloadSelector"],
    ),
    (
        DR,
        "{host: a, subsets: [{name: v1, trafficPolicy: {tunnel: {targetHost: a, targetPort: 1}}}]}",
        ["spec.subsets[0].trafficPolicy.tunnel"],
    ),
    (WE, "{address: unix:///a}", ["spec.address"]),
    (WE, "{address: 1.2.3.4}", []),
    (
        GTW,
        "{gatewayClassName: a, listeners: [{name: a, port: 53, protocol: UDP}], addresses: [{value: 1.2.3.4}]}",
        ["spec.listeners[0].protocol", "spec.addresses"],
    ),
    (
        HTTP,
        "{rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}]}]}",
        ["spec.rules[0].filters[0].extensionRef"],
    ),
    (HTTP, "{rules: [{sessionPersistence: {}}]}", ["spec.rules[0].sessionPersistence"]),
]


@pytest.mark.parametrize(("key", "spec", "paths"), IGNORED, ids=[f"{row[0][1]} {row[2]}" for row in IGNORED])
def test_what_cannot_be_honoured_is_told_by_its_path(key: tuple[str, str], spec: str, paths: list[str]) -> None:
    found = unsupported(taken(document(key, yaml.safe_load(spec))))
    assert [path for path, _ in found] == paths
    assert all(why for _, why in found)


@pytest.mark.parametrize(
    ("key", "spec", "paths"),
    [
        (
            HTTP,
            "{rules: [{sessionPersistence: {}, filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]}]}",
            ["spec.rules[0].filters[0].extensionRef"],
        ),
        (
            DR,
            "{host: a, workloadSelector: {}, trafficPolicy: {tls: {mode: SIMPLE, credentialName: a}}}",
            ["spec.trafficPolicy.tls.credentialName"],
        ),
        (DR, "{host: a, workloadSelector: {matchLabels: {a: b}}}", []),
    ],
)
def test_what_must_be_closed_since_its_guard_cannot_be_honoured_is_told_apart(key: tuple[str, str], spec: str, paths: list[str]) -> None:
    assert [path for path, _ in unguarded(taken(document(key, yaml.safe_load(spec))))] == paths
