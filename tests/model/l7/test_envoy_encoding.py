"""The encoders, without an Envoy: equal models give equal bytes, and what a message must hold whatever the rest is."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import json_format

from mesh.model.codec.envoy import bootstrap, client, clusters, endpoints, filters, grpc, routes, secrets, terminate, waypoint
from mesh.model.codec.envoy.parts import serialized
from mesh.model.codec.envoy.rbac import mixed
from mesh.model.l7.chains import Chain, Guard, Traffic
from mesh.model.l7.clusters import Cluster, Discovery, Tls
from mesh.model.l7.endpoints import Assignment, Endpoint, LocalityGroup, Tunnel
from mesh.model.l7.jwt import JwtRule
from mesh.model.l7.names import cluster_name, parse_cluster_name
from mesh.model.l7.policies import Action, Check, Clause, Field, Match, Policy, Rule, deny_all
from mesh.model.l7.profile import Kind, Profile
from mesh.model.l7.routes import Destination, Forward, HeaderOps, Route, RouteMatch, RouteTable, VirtualHost
from mesh.model.l7.secrets import CertificateSecret
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.texts import exact
from mesh.model.workload import SocketAddress

WAYPOINT = Profile(Kind.WAYPOINT)
IP = ip_address("10.96.0.1")


def chain(port: int = 80, **fields: Any) -> Chain:
    return Chain("app", port, Traffic.HTTP, (IP,), table=f"app:{port}", **fields)


def everything() -> list[Any]:
    """One of each message."""
    policy = Policy("p", "ns", Action.DENY, (Rule((Clause((Match((Check(Field.METHOD, (exact("GET"),)),)),)),)),))
    guard = Guard((policy,), (policy,), (JwtRule("i", None),))
    tcp = (TcpRoute((TcpDestination("a", 1), TcpDestination("b", 2)), ("x.example",)), TcpRoute((TcpDestination("a"),)))
    chains = [
        chain(guard=guard),
        Chain("tls", 443, Traffic.TLS, (IP,), (ip_network("10.97.0.0/16"),), tcp=tcp),
        Chain("auto", 81, Traffic.AUTO, (IP,), table="auto:81", tcp=(TcpRoute((TcpDestination("a"),)),)),
    ]
    route = Route(RouteMatch(), Forward((Destination("a", 1, HeaderOps(set=(("x", "y"),))), Destination("b", 2))))
    table = RouteTable("t", (VirtualHost("h", ("*",), (route,)),))
    cluster = Cluster(cluster_name("app", 80), "app", 80, tls=Tls(sni="app"))
    group = LocalityGroup((Endpoint(SocketAddress(IP, 80), tunnel=Tunnel(("spiffe://a/ns/b/sa/c",))),))
    return [
        terminate.listener(WAYPOINT),
        terminate.route_table([*chains, Chain("tcp", 1, Traffic.TCP, (IP,), tcp=tcp, guard=guard)]),
        waypoint.main_internal(chains, WAYPOINT),
        waypoint.connect_originate(),
        waypoint.connect_direct(),
        clusters.cluster(cluster, WAYPOINT),
        clusters.connect_originate(WAYPOINT),
        clusters.main_internal(),
        clusters.passthrough(),
        clusters.black_hole(),
        endpoints.assignment(Assignment(cluster.name, (group,))),
        routes.route_table(table),
        secrets.secret(CertificateSecret("default", b"chain", b"key")),
        *(client.listener(one, Profile(Kind.CLIENT)) for one in chains),
        client.virtual_outbound(Profile(Kind.CLIENT)),
        client.http_proxy(Profile(Kind.CLIENT)),
        client.network_listener(443, chains[1:2], Profile(Kind.CLIENT)),
        grpc.listener("app:80", "t"),
        grpc.route_table(table),
        grpc.cluster(cluster),
        *grpc.black_hole(),
    ]


def test_equal_models_give_equal_bytes() -> None:
    assert [serialized(message) for message in everything()] == [serialized(message) for message in everything()]


def test_a_key_is_in_no_representation() -> None:
    assert "key" not in repr(CertificateSecret("default", b"chain", b"-----private-----")).replace("name", "")
    assert b"private" not in repr(CertificateSecret("default", b"chain", b"-----private-----")).encode()


def manager(one: Chain, profile: Profile = WAYPOINT) -> Any:
    made = http_connection_manager_pb2.HttpConnectionManager()
    assert filters.http_filter(one, profile).typed_config.Unpack(made)
    return made


def test_a_tunnel_goes_to_the_waypoint_that_is_before_its_endpoint() -> None:
    """Endpoints are told apart by their ids, of which Envoy takes one and no second."""
    target, near, far = (
        SocketAddress(ip_address(text), port) for text, port in (("10.96.0.1", 80), ("10.0.0.8", 15008), ("fd00::8", 15008))
    )
    made = endpoints.assignment(
        Assignment("app", (LocalityGroup(tuple(Endpoint(target, tunnel=Tunnel(("spiffe://a",), via)) for via in (near, far, None))),))
    )
    (group,) = made.endpoints
    assert [one.endpoint.address.envoy_internal_address.endpoint_id for one in group.lb_endpoints] == [
        "10.96.0.1:80 by 10.0.0.8:15008",
        "10.96.0.1:80 by [fd00::8]:15008",
        "10.96.0.1:80",
    ]
    told = [dict(one.metadata.filter_metadata["envoy.filters.listener.original_dst"]) for one in group.lb_endpoints]
    where = {"local": "10.96.0.1:80"}
    assert told == [{**where, "waypoint": "10.0.0.8:15008"}, {**where, "waypoint": "[fd00::8]:15008"}, where]
    key = clusters.connect_originate(WAYPOINT).original_dst_lb_config.metadata_key
    assert (key.key, [step.key for step in key.path]) == ("envoy.filters.listener.original_dst", ["waypoint"])
    passed = json_format.MessageToDict(clusters.cluster(Cluster("app", "app", 80), WAYPOINT))["transportSocketMatches"][0]
    assert key.key in {one["name"] for one in passed["transportSocket"]["typedConfig"]["passthroughMetadata"]}


def test_order_of_http_filters() -> None:
    allow = Policy("a", "ns", Action.ALLOW)
    audit = Policy("b", "ns", Action.AUDIT)
    guard = Guard((allow, audit, deny_all("d", "ns"), Policy("c", "ns", Action.CUSTOM)), jwt=(JwtRule("i", "{}"),))
    names = [entry.name.rpartition(".")[2] for entry in manager(chain(guard=guard)).http_filters]
    assert names == ["jwt_authn", "rbac", "rbac", "rbac", "grpc_stats", "fault", "cors", "router"]


def test_who_is_at_the_other_end_is_never_read_from_headers() -> None:
    made = manager(chain())
    assert not made.use_remote_address.value
    assert made.forward_client_cert_details == http_connection_manager_pb2.HttpConnectionManager.SANITIZE


def test_a_clause_that_asks_of_both_halves_denies() -> None:
    """Envoy would read "from a, or with GET" as "from a and with GET", or the other way around."""
    clause = Clause((Match((Check(Field.NAMESPACE, (exact("a"),)),)), Match((Check(Field.METHOD, (exact("GET"),)),))))
    policy = Policy("p", "ns", Action.ALLOW, (Rule((clause,)),))
    assert mixed(policy)
    made = manager(chain(guard=Guard((policy,))))
    (rbac,) = [entry for entry in made.http_filters if entry.name.endswith("rbac")]
    text = json_format.MessageToDict(rbac)["typedConfig"]["rules"]
    assert text["action"] == "DENY"
    assert text["policies"]["ns[ns]-policy[p]-rule[0]"] == {"permissions": [{"any": True}], "principals": [{"any": True}]}


def test_first_bytes_are_looked_at_only_where_they_decide() -> None:
    auto = Chain("auto", 81, Traffic.AUTO, (IP,), table="t", tcp=(TcpRoute((TcpDestination("a"),)),))
    names = [entry.name for entry in waypoint.main_internal([chain()], WAYPOINT).listener_filters]
    assert names == [waypoint.ORIGINAL_DST]
    made = waypoint.main_internal([chain(), auto], WAYPOINT)
    assert [entry.name for entry in made.listener_filters] == [waypoint.ORIGINAL_DST, waypoint.HTTP_INSPECTOR]
    disabled = made.listener_filters[1].filter_disabled.not_match.destination_port_range
    assert (disabled.start, disabled.end) == (81, 82)


def test_a_waypoint_without_services_is_a_valid_listener() -> None:
    made: listener_pb2.Listener = waypoint.main_internal([], WAYPOINT)
    assert [one.name for one in made.filter_chains] == ["none"]


def test_a_tunnel_without_identities_says_so() -> None:
    entry = Endpoint(SocketAddress(IP, 80), tunnel=Tunnel(()))
    made = endpoints.assignment(Assignment("c", (LocalityGroup((entry,)),))).endpoints[0].lb_endpoints[0]
    assert made.metadata.filter_metadata["culvert"]["identities"] == ""
    assert made.endpoint.address.HasField("envoy_internal_address")


def test_grpc_reaches_endpoints_by_their_addresses() -> None:
    entry = Endpoint(SocketAddress(IP, 80), tunnel=Tunnel(("spiffe://a/ns/b/sa/c",)))
    made = grpc.assignment(Assignment("c", (LocalityGroup((entry,)),))).endpoints[0]
    assert made.lb_endpoints[0].endpoint.address.socket_address.address == str(IP)
    assert made.load_balancing_weight.value == 1, "a locality without a weight would be left out"


@pytest.mark.parametrize("discovery", [Discovery.ORIGINAL, Discovery.DYNAMIC])
def test_clusters_that_find_endpoints_by_themselves(discovery: Discovery) -> None:
    made = clusters.cluster(Cluster("c", "c", 80, discovery=discovery), WAYPOINT)
    assert made.lb_policy == cluster_pb2.Cluster.CLUSTER_PROVIDED


def test_names() -> None:
    assert cluster_name("a.b", 80, "v1") == "outbound|80|v1|a.b"
    assert parse_cluster_name("outbound|80|v1|a.b") == (80, "v1", "a.b")
    assert [parse_cluster_name(name) for name in ("a", "inbound|80||a", "outbound|x||a")] == [None] * 3


def test_domains() -> None:
    assert client.domains("a.shop.svc.cluster.local", "shop", 80, [ip_address("2001:db8::1")]) == [
        "a.shop.svc.cluster.local:80",
        "a.shop.svc:80",
        "a.shop:80",
        "[2001:db8::1]:80",
        "a.shop.svc.cluster.local",
        "a.shop.svc",
        "a.shop",
        "[2001:db8::1]",
    ]
    assert client.domains("x.example", "shop", 8080) == ["x.example:8080"]


def test_bootstrap_is_json_that_names_its_plane() -> None:
    node = bootstrap.Node("waypoint~10.0.0.1~w.shop~shop.svc", "w", {"NAMESPACE": "shop"})
    text = bootstrap.json(bootstrap.bootstrap(node, bootstrap.ControlPlane("istiod", 15012, "/roots.pem", "istiod.svc", "/token")))
    for word in ("waypoint~10.0.0.1~w.shop~shop.svc", '"istiod"', "15012", "/roots.pem", "istiod.svc", "/token", "internal_listener"):
        assert word in text


def test_what_changes_while_an_envoy_runs_is_named_by_files_of_secrets() -> None:
    plane = bootstrap.ControlPlane("istiod", 15012, "/etc/mesh/roots.pem", "istiod.svc", "/var/run/tokens/token", secrets="/etc/envoy")
    text = bootstrap.json(bootstrap.bootstrap(bootstrap.Node("router~10.0.0.1~a.shop~shop.svc", "a"), plane))
    assert "/etc/mesh" not in text
    assert "/var/run/tokens" not in text
    files = {name: json.loads(bootstrap.json(message))["resources"] for name, message in bootstrap.secret_files(plane).items()}
    assert all(f"/etc/envoy/{name}" in text for name in files)
    assert [len(resources) for resources in files.values()] == [1, 1]
    (roots,), (token,) = files.values()
    assert roots["validation_context"] == {
        "trusted_ca": {"filename": "/etc/mesh/roots.pem"},
        "watched_directory": {"path": "/etc/mesh"},
    }
    watched = {"filename": "/var/run/tokens/token", "watched_directory": {"path": "/var/run/tokens"}}
    assert token["generic_secret"] == {"secret": watched}
    assert set(bootstrap.secret_files(replace(plane, token=""))) == {f"{roots['name']}.json"}
