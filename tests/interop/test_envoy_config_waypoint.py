"""Envoy as a waypoint, end to end: who is let in, what it is asked, whom it asks, and that each side is who it must be."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from mesh.model.codec.envoy import client, clusters, endpoints, routes
from mesh.model.errors import PeerError
from mesh.model.l7.chains import Chain, Guard, Traffic
from mesh.model.l7.clusters import Cluster
from mesh.model.l7.endpoints import Assignment, LocalityGroup
from mesh.model.l7.names import cluster_name
from mesh.model.l7.policies import Action, Check, Clause, Field, Match, Policy, Rule
from mesh.model.l7.profile import Kind, Profile
from mesh.model.l7.routes import Destination, Forward, PathKind, PathMatch, Respond, Route, RouteMatch
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.texts import exact
from mesh.model.l7.translate import workload
from mesh.model.reasons import Reason
from mesh.model.workload import TunnelProtocol, Workload
from tests.interop import envoy, hbone, proxied, waypoints
from tests.interop.proxied import ask, asked, eventually
from tests.interop.upstream import upstream
from tests.interop.waypoints import IDENTITIES, PORT, SERVICE, VIP, VIP_ADDRESS, Waypoint, to

pytestmark = [pytest.mark.interop, pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy")]

MESHED = cluster_name("meshed.interop.svc.cluster.local", PORT)
PLAIN = cluster_name("plain.interop.svc.cluster.local", PORT)
IMPOSTOR = cluster_name("impostor.interop.svc.cluster.local", PORT)
HTTP = Chain(SERVICE, PORT, Traffic.HTTP, (VIP_ADDRESS,), table=SERVICE)


def tcp(port: int, cluster: str = MESHED, traffic: Traffic = Traffic.TCP, **fields: object) -> Chain:
    return Chain(SERVICE, port, traffic, (VIP_ADDRESS,), tcp=(TcpRoute((TcpDestination(cluster),)),), **fields)  # type: ignore[arg-type]


DENY_CLIENT = Policy(
    "no", "interop", Action.DENY, (Rule((Clause((Match((Check(Field.PRINCIPAL, (exact(IDENTITIES["client"][9:]),)),)),)),)),)
)
CHAINS = (
    HTTP,
    tcp(9000),
    tcp(9001, PLAIN),
    tcp(9002, guard=Guard(tcp=(DENY_CLIENT,))),
    replace(tcp(9003, traffic=Traffic.AUTO), table=SERVICE),
    replace(HTTP, addresses=(), networks=(ip_network("10.97.0.0/24"),)),
    replace(tcp(9000), host="wide", addresses=(), networks=(ip_network("10.97.0.0/16"),)),
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waypoint]:
    with waypoints.running(tmp_path_factory.mktemp("waypoint"), CHAINS) as made:
        yield made


@pytest.fixture(autouse=True)
def chains(rig: Waypoint) -> Iterator[None]:
    yield
    rig.server.requests.clear()


def test_requests_go_through_tunnels_on_both_sides(rig: Waypoint) -> None:
    rig.serve(waypoints.EVERYTHING)
    answer = rig.ask("/hello", host="whoever.asks")
    assert (answer.status, answer.server) == (200, "meshed")
    assert answer.headers["server"] == "istio-envoy"
    app = rig.upstreams["meshed"]
    assert set(rig.server.requests) == {(envoy.identity(IDENTITIES["waypoint"]), f"{app.host}:{app.port}")}
    assert answer.echo["headers"]["host"] == "whoever.asks"
    assert "x-forwarded-client-cert" not in answer.echo["headers"]


def test_what_a_client_says_of_its_certificate_is_dropped(rig: Waypoint) -> None:
    rig.serve(waypoints.EVERYTHING)
    assert "x-forwarded-client-cert" not in rig.ask("/", x_forwarded_client_cert="URI=spiffe://x").echo["headers"]


def test_an_endpoint_outside_the_mesh_is_reached_plainly(rig: Waypoint) -> None:
    rig.serve(Route(RouteMatch(), to("plain")))
    assert rig.ask().server == "plain"
    assert rig.server.requests == []


def test_an_endpoint_must_be_who_it_should_be(rig: Waypoint) -> None:
    rig.serve(Route(RouteMatch(), to("impostor")))
    assert rig.ask().status == 503
    assert rig.server.requests == []


def test_an_endpoint_without_an_identity_is_reached_by_nobody(rig: Waypoint) -> None:
    cluster = Cluster(cluster_name("nobody", 80), "nobody", 80)
    entry = replace(waypoints.meshed_endpoint(rig.upstreams["meshed"]), tunnel=waypoints.Tunnel(()))
    rig.envoy.put(clusters.cluster(cluster, rig.profile), endpoints.assignment(Assignment(cluster.name, (LocalityGroup((entry,)),))))
    rig.serve(Route(RouteMatch(), Forward((Destination(cluster.name),))))
    assert rig.ask().status == 503
    assert rig.server.requests == []


@pytest.mark.parametrize("name", ["foreign"])
def test_clients_of_other_trust_domains_are_refused(rig: Waypoint, name: str) -> None:
    with pytest.raises(PeerError) as caught:
        rig.connect(name)
    assert caught.value.reason is Reason.TLS_HANDSHAKE


def test_a_client_of_an_alias_is_let_in(rig: Waypoint) -> None:
    rig.serve(waypoints.EVERYTHING)
    assert rig.ask(name="alias").status == 200


def test_a_certificate_whose_name_reads_like_several_is_refused(rig: Waypoint) -> None:
    assert rig.connect("odd") is None


@pytest.mark.parametrize("authority", ["10.96.0.6:80", "10.96.0.5:81", "10.98.0.1:80", "name.example:80"])
def test_an_address_that_nothing_is_known_of_is_refused(rig: Waypoint, authority: str) -> None:
    sock = rig.connect(authority=authority)
    if sock is not None:
        with sock:
            sock.settimeout(10)
            assert sock.recv(1) == b""
    assert rig.server.requests == []


def test_tcp(rig: Waypoint) -> None:
    for port, server in ((9000, "meshed"), (9001, "plain")):
        sock = rig.connect(authority=f"{VIP}:{port}")
        assert sock is not None
        assert asked(hbone.OverSocket(sock)).server == server


def test_tcp_policy(rig: Waypoint) -> None:
    """Whoever is denied is not even connected, so that no server can greet them."""
    assert not rig.reaches(f"{VIP}:9002")
    assert rig.server.requests == []
    other = rig.connect("other", f"{VIP}:9002")
    assert other is not None
    assert asked(hbone.OverSocket(other)).server == "meshed"


def test_first_bytes_tell_what_is_spoken(rig: Waypoint) -> None:
    rig.serve(Route(RouteMatch(), Respond(299)))
    sock = rig.connect(authority=f"{VIP}:9003")
    assert sock is not None
    assert asked(hbone.OverSocket(sock)).status == 299
    other = rig.connect(authority=f"{VIP}:9003")
    assert other is not None
    with other:
        other.settimeout(10)
        other.sendall(b"\x16\x00no http at all\r\n\r\n")
        assert b"400" in other.recv(1000), "the app answers, so it was not taken for HTTP"


def test_routes_of_a_consumer_are_for_its_own_namespace(rig: Waypoint) -> None:
    """By the namespace that the certificate of the tunnel's client proves."""
    rig.serve(
        Route(RouteMatch(PathMatch(PathKind.EXACT, "/x"), source_namespace="elsewhere"), Respond(201)),
        Route(RouteMatch(source_namespace="elsewhere"), Respond(404)),
        Route(RouteMatch(), Respond(202)),
    )
    assert [rig.ask(path, name=name).status for name in ("other", "client") for path in ("/x", "/y")] == [201, 404, 202, 202]
    rig.serve(waypoints.EVERYTHING)


def test_tls_is_told_by_the_name_that_is_asked_for(rig: Waypoint) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(rig.directory / "server.pem", rig.directory / "server.key")
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE

    def asks(name: str) -> str:
        sock = rig.connect(authority=f"{VIP}:9443")
        if sock is None:
            return ""
        try:
            with sock, anybody.wrap_socket(sock, server_hostname=name) as secured:
                return asked(hbone.OverSocket(secured)).server
        except (OSError, http.client.HTTPException):
            return ""

    with upstream("one", waypoints.PLAIN_HOST, tls=context) as one, upstream("wild", waypoints.PLAIN_HOST, tls=context) as wild:
        for server in (one, wild):
            cluster = Cluster(server.name, server.name, 443)
            rig.envoy.put(*proxied.service(cluster, [LocalityGroup((proxied.plain_endpoint(server),))], rig.profile))
        named = (
            TcpRoute((TcpDestination("one"),), ("one.example",)),
            TcpRoute((TcpDestination("wild"),), ("*.example",)),
        )
        chain = Chain("tls", 9443, Traffic.TLS, (VIP_ADDRESS,), tcp=named)
        rig.put_chains(*CHAINS, chain)
        eventually(lambda: asks("one.example") == "one", "the chain is in force")
        assert [asks(name) for name in ("ONE.example", "two.example", "other.test")] == ["one", "wild", ""]
        rest = TcpRoute((TcpDestination("one"),))
        rig.put_chains(*CHAINS, replace(chain, tcp=(named[1], rest)))
        eventually(lambda: asks("other.test") == "one", "the rest has somewhere to go")
        assert asks("a.example") == "wild"
    rig.put_chains(*CHAINS)


def test_networks_as_addresses(rig: Waypoint) -> None:
    rig.serve(waypoints.EVERYTHING)
    assert rig.ask(authority="10.97.0.200:80").server == "meshed"
    wide = rig.connect(authority="10.97.5.1:9000")
    assert wide is not None
    assert asked(hbone.OverSocket(wide)).server == "meshed"
    assert not rig.reaches("10.97.5.1:80")


def test_a_client_of_the_mesh_tunnels_as_itself(rig: Waypoint) -> None:
    """The same clusters, behind a listener of a client's: what it is to its own proxy."""
    rig.serve(waypoints.EVERYTHING)
    (port,) = envoy.free_ports(1)
    chain = Chain("client", port, Traffic.HTTP, (ip_address("127.0.0.1"),), table=SERVICE)
    rig.envoy.put(client.listener(chain, Profile(Kind.CLIENT, bind=True)))
    eventually(lambda: ask(port).status == 200, "the client's listener is in force")
    rig.server.requests.clear()
    assert ask(port, "/from-here").server == "meshed"
    assert {identity for identity, _ in rig.server.requests} <= {envoy.identity(IDENTITIES["waypoint"])}
    assert rig.upstreams["meshed"].seen["/from-here"] == 1


@pytest.mark.parametrize("meshed", [True, False])
def test_a_workload_addressed_by_itself(rig: Waypoint, meshed: bool) -> None:
    """At a port that is known to speak HTTP, and at any other: each time, the port that was asked for."""
    app = rig.upstreams["meshed"]
    protocol = TunnelProtocol.HBONE if meshed else TunnelProtocol.NONE
    pod = Workload(f"uid-{meshed}", "app", "interop", (ip_address(app.host),), protocol=protocol, service_account="server")
    table = workload.route_table(pod)
    deny = Policy("no", "interop", Action.DENY, (Rule((Clause((Match((Check(Field.PATH, (exact("/secret"),)),)),)),)),))
    with upstream("second", app.host) as second, upstream("third", app.host) as third:
        http = Chain(pod.uid, app.port, Traffic.HTTP, pod.addresses, table=table.name, guard=Guard((deny,)), direct=True)
        rest = Chain(pod.uid, 0, Traffic.TCP, pod.addresses, tcp=workload.tcp_routes(pod), direct=True)
        rig.envoy.put(clusters.cluster(workload.cluster(pod), rig.profile), routes.route_table(table))
        rig.put_chains(*CHAINS, http, replace(http, port=third.port), rest)
        authority = f"{app.host}:{app.port}"
        eventually(lambda: rig.reaches(authority), "the workload's chains are in force")
        rig.server.requests.clear()
        assert rig.ask("/public", authority=authority).server == "meshed"
        assert rig.ask("/secret", authority=authority).status == 403
        for port, name in ((third.port, "third"), (app.port, "meshed")) * 2:
            assert rig.ask(authority=f"{app.host}:{port}").server == name, "connections to one port are not used for another"
        for port, name in ((second.port, "second"), (app.port, "meshed"), (second.port, "second")):
            sock = rig.connect(authority=f"{app.host}:{port}")
            assert sock is not None
            assert asked(hbone.OverSocket(sock)).server == name
        asked_for = {f"{app.host}:{one.port}" for one in (app, second, third)}
        assert {wanted for _, wanted in rig.server.requests} == (asked_for if meshed else set())
    rig.put_chains(*CHAINS)


def test_a_change_of_one_chain_leaves_connections_of_others_alone(rig: Waypoint) -> None:
    held = rig.connect(authority=f"{VIP}:9000")
    assert held is not None
    with held:
        held.settimeout(10)
        held.sendall(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert held.recv(65536).startswith(b"HTTP/1.1 200")
        rig.put_chains(*CHAINS, tcp(9100))
        eventually(lambda: rig.reaches(f"{VIP}:9100"), "the new chain is in force")
        held.sendall(b"GET /2 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert held.recv(65536).startswith(b"HTTP/1.1 200")


def test_without_a_chain_everything_is_refused(rig: Waypoint) -> None:
    rig.put_chains()
    try:
        eventually(lambda: not rig.reaches(), "the chains are gone")
    finally:
        rig.put_chains(*CHAINS)
        eventually(lambda: rig.ask().status == 200, "and back")


def test_state_of_the_world(tmp_path: object) -> None:
    with waypoints.running(tmp_path, CHAINS, delta=False) as made:  # type: ignore[arg-type]
        assert made.ask().server == "meshed"
