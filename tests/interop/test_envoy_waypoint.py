"""Envoy as a waypoint, end to end, with what our control plane serves it in both variants of ADS: routes, policies, identity (SDS)."""

from __future__ import annotations

import asyncio
import base64
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from control.ca.keeper import Keeper
from control.ca.state import Phase
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from tests.control.ca.support import secret_lines
from tests.interop import envoy, fed, tended
from tests.interop.proxied import eventually
from tests.interop.steady import Steady, steady
from tests.interop.tended import PODS, VIP, Tended, ask, identity
from tests.interop.upstream import upstream

pytestmark = [
    pytest.mark.interop,
    pytest.mark.netns,
    pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy"),
]

ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - {match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: web, subset: v2}}]}
  - {match: [{uri: {prefix: /teapot}}], directResponse: {status: 418}}
  - {route: [{destination: {host: web, subset: v1}}]}
---
"""
POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-writing, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE], paths: ["/books/*"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: private, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}], to: [{operation: {paths: ["/private*"]}}]}]
---
"""
SHORT = 3
"""Seconds that certificates live."""


@pytest.fixture(scope="module", params=[True, False], ids=["delta", "state of the world"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tended]:
    files = {"routes": ROUTES, "policies": POLICIES}
    with tended.running(tmp_path_factory.mktemp("tended"), files, delta=request.param) as made:
        yield made


def test_requests_are_judged_and_routed(mesh: Tended) -> None:
    mesh.server.requests.clear()
    with mesh.client("client") as client, mesh.client("other") as other:
        assert ask(client, "/books/1").server == "v1"
        assert ask(client, "/books/1", end_user="jason").server == "v2"
        assert ask(client, "/teapot").status == 418
        assert [ask(client, path, "DELETE").status for path in ("/books/1", "/shelves/1")] == [403, 200]
        assert [ask(one, "/private/1").status for one in (client, other)] == [200, 403]
        assert ask(other, "/books/1").server == "v1"
        assert client.tunnel.peer_identity == identity("waypoint")
    assert came(mesh) == {identity("waypoint")}


def came(mesh: Tended) -> set[Identity]:
    """Who came to the server in the mesh."""
    return {peer for peer, _ in mesh.server.requests}


@contextmanager
def load(mesh: Tended) -> Iterator[Steady]:
    """Over a tunnel that stays, over a new one each time, and with a new one on Envoy's other side each time."""
    with mesh.client() as stays:

        def upstream() -> None:
            mesh.loop.run(mesh.server.drain())
            assert ask(stays, "/last").server == "v1"

        def fresh() -> None:
            assert mesh.ask("/fresh").server == "v1"

        def same() -> None:
            assert ask(stays, "/same").server == "v1"

        with steady(upstream=upstream, fresh=fresh, same=same) as made:
            yield made


def served(mesh: Tended) -> tuple[set[str], set[str]]:
    """What the waypoint's identity is served by SDS, as `Tended.held`."""

    async def found() -> tuple[set[str], set[str]]:
        made = mesh.mesh.plane.secrets.current(identity("waypoint"))
        assert made is not None
        return {_serial(made.pair.chain.decode())}, {_serial(pem) for pem in mesh.mesh.plane.ca.keeper.authority.roots}

    return mesh.mesh.call(found())


def _serial(pem: str) -> str:
    return f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"


def shown(mesh: Tended) -> set[str]:
    """The serial numbers of the certificates that Envoy shows over a new tunnel to it, and over its last one to the server."""
    with mesh.client() as client:
        found = (client.tunnel.channel.tls.getpeercert(binary_form=True), mesh.server.shown)
    return {f"{x509.load_der_x509_certificate(der).serial_number:x}" for der in found if der}


def step(mesh: Tended, do: Callable[[Keeper], Awaitable[None]]) -> None:
    """A step of the CA; when it is done, and Envoy has what follows from it."""
    keeper = mesh.mesh.plane.ca.keeper
    keeper.store.settle = 0.0  # there is no other replica

    async def done() -> None:
        async with asyncio.timeout(10):
            while keeper.state.phase is not Phase.STEADY and not keeper.gate().is_open(keeper.clock()):
                await asyncio.sleep(0.02)
        await do(keeper)

    before = served(mesh)
    mesh.mesh.call(done())
    eventually(lambda: served(mesh)[0] != before[0] and mesh.held() == served(mesh), "Envoy has what it is served")


def test_the_root_changes_under_load(mesh: Tended) -> None:
    """In the steps of `control.ca.rotation`, each when those before have been taken by all; and then nothing of the old root counts."""
    old, (_, old_roots) = mesh.node.credentials("client"), mesh.held()
    with load(mesh) as requests:
        for do, roots in ((Keeper.renew_leaves, 1), (Keeper.introduce, 2), (Keeper.switch, 2), (Keeper.retire, 1)):
            step(mesh, do)
            assert len(mesh.held()[1]) == roots
            eventually(lambda: shown(mesh) == mesh.held()[0], "Envoy shows what it has")
            requests.go_on()
    assert mesh.held()[1].isdisjoint(old_roots)
    old.client.load_verify_locations(cadata="".join(mesh.node.credentials("client").roots_pem))
    with pytest.raises(PeerError, match="after the handshake"), mesh.client(credentials=old):
        pass


def test_the_control_plane_is_found_again_after_a_change_of_root(mesh: Tended) -> None:
    """By the roots that it publishes: Envoy has to read them again."""
    for do in (Keeper.introduce, Keeper.switch, Keeper.retire):
        step(mesh, do)
    mesh.door.cut()
    mesh.mesh.put(routes=ROUTES.replace("418", "429"))
    eventually(lambda: mesh.ask("/teapot").status == 429, "the next routes")
    mesh.mesh.put(routes=ROUTES)


def test_keys_are_in_no_dump_and_no_log(mesh: Tended) -> None:
    """Of Envoy's: it tells a key by its type. Of ours see tests/control."""

    async def found() -> str:
        made = mesh.mesh.plane.secrets.current(identity("waypoint"))
        assert made is not None
        return made.pair.key.decode()

    lines = secret_lines(mesh.mesh.call(found()))
    assert len(lines) == 2
    # Three bytes are four letters, so that in a longer text it is one of these three.
    encoded = {base64.b64encode(b" " * shift + line.encode()).decode()[4:-4] for line in lines for shift in range(3)}
    said = mesh.envoy.get("/config_dump") + mesh.envoy.log.read_text() + mesh.envoy.get("/certs")
    assert "[redacted]" in said
    assert not [line for line in lines | encoded if line in said]


def test_certificates_are_renewed_in_time(tmp_path: Path) -> None:
    """At half of their life, so that none is shown that has expired."""
    with tended.running(tmp_path, {"routes": ROUTES}, delta=True, cert_ttl=SHORT) as mesh, load(mesh) as requests:
        for _ in range(3):
            (before,) = shown(mesh)
            eventually(lambda before=before: before not in shown(mesh), "another certificate", SHORT)
            requests.go_on()


def test_a_token_that_takes_the_place_of_another_is_used(mesh: Tended) -> None:
    """As Kubernetes does with projected tokens: by a rename in their directory."""
    old, new = mesh.mesh.token.read_text(), "another-token-of-node-number-one"
    fresh = mesh.mesh.token.with_name(".n1")
    fresh.write_text(new)
    fresh.chmod(0o600)
    fresh.rename(mesh.mesh.token)

    def proves(token: str) -> bool:
        return mesh.mesh.call(mesh.mesh.plane.xds._authenticator.authenticate([("authorization", f"Bearer {token}")])) is not None

    eventually(lambda: proves(new) and not proves(old), "the old token proves nothing any more")
    mesh.mesh.put(routes=ROUTES.replace("418", "425"))
    eventually(lambda: mesh.ask("/teapot").status == 425, "over the stream that it has")
    mesh.door.cut()
    mesh.mesh.put(routes=ROUTES.replace("418", "421"))
    eventually(lambda: mesh.ask("/teapot").status == 421, "over the next")
    mesh.mesh.put(routes=ROUTES)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_an_envoy_that_tunnels_itself_goes_by_it(tmp_path: Path, delta: bool) -> None:
    """It is judged as who it is, does nothing itself that the waypoint does, and without a pod of the waypoint it gets nowhere."""
    with ExitStack() as stack:
        mesh = stack.enter_context(tended.running(tmp_path, {"routes": ROUTES, "policies": POLICIES}, delta=delta))
        client, other = (stack.enter_context(mesh.beside(name, delta=delta, ENABLE_HBONE="true")) for name in ("client", "other"))
        assert [client.ask("web.shop", path, "DELETE").status for path in ("/books/1", "/shelves/1")] == [403, 200]
        assert [one.ask("web.shop", "/private/1").status for one in (client, other)] == [200, 403]
        assert [client.ask("web.shop", "/books/1", end_user=user).server for user in ("jason", "ann")] == ["v2", "v1"]
        assert client.ask("web.shop", "/teapot").status == 418
        mesh.mesh.put(pods=PODS.replace('"True"', '"False"', 1))
        eventually(lambda: client.ask("web.shop", "/shelves/1").status == 503, "no pod of the waypoint is ready")
        mesh.mesh.put(pods=PODS)
        eventually(lambda: client.ask("web.shop", "/shelves/1").status == 200, "the waypoint is there again")
        assert came(mesh) == {identity("waypoint")}
        # That the endpoints would have let it pass, shows when they are asked.
        mesh.mesh.put(mesh=mesh.manifest.replace("use-waypoint: waypoint", "use-waypoint: none"))
        eventually(lambda: deleted(client) == "v1" and identity("client") in came(mesh), "its endpoints are asked")
        mesh.mesh.put(mesh=mesh.manifest)
        eventually(lambda: deleted(client) == "", "the waypoint is asked again")


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_an_envoy_that_tunnels_itself_asks_nobody_but_the_waypoint(tmp_path: Path, delta: bool) -> None:
    """Whoever is at its address."""
    with tended.running(tmp_path, {"routes": ROUTES}, delta=delta) as mesh:
        mesh.mesh.put(pods=PODS.replace("serviceAccountName: waypoint", "serviceAccountName: web"))
        with mesh.beside("client", delta=delta, ENABLE_HBONE="true") as client:
            assert client.ask("web.shop").status == 503
            assert came(mesh) == set()
            mesh.mesh.put(pods=PODS)
            eventually(lambda: client.ask("web.shop").status == 200, "who is there is who it should be")


NOT_OTHER = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-other, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}], to: [{operation: {ports: ["9000"]}}]}]
"""


@pytest.mark.parametrize("tunnels", [True, False], ids=["with tunnels", "without"])
def test_an_envoy_that_has_the_address_itself_gets_there_by_a_tunnel_only(tmp_path: Path, tunnels: bool) -> None:
    """Requests, and connections that are none."""
    with tended.running(tmp_path, {"routes": ROUTES, "policies": NOT_OTHER}, delta=True) as mesh:
        subprocess.run([*mesh.place.inside, "ip", "route", "add", "local", "10.96.0.0/16", "dev", "lo"], check=True)
        mesh.mesh.put(
            mesh=mesh.manifest.replace("[{port: 80, ", f"[{{port: 9000, name: tcp, targetPort: {mesh.upstreams['v1'].port}}}, {{port: 80, ")
        )
        metadata = {"CULVERT_BIND": "true", **({"ENABLE_HBONE": "true"} if tunnels else {})}
        for account, statuses in (("client", (200, 200)), ("other", (200, 0))):
            wanted = statuses if tunnels else (503, 0)
            with mesh.beside(account, delta=True, **metadata):
                eventually(lambda wanted=wanted: (mesh.reach(80), mesh.reach(9000)) == wanted, f"{account} gets {wanted}")
        assert came(mesh) == ({identity("waypoint")} if tunnels else set())


MARK = 0x7
REDIRECT = """
table ip envoy {
  chain output { type nat hook output priority -100; meta mark MARK meta l4proto tcp redirect to :PORT; }
}
"""


def redirected(mesh: Tended, port: int = 80) -> str:
    """Who answers a connection to the service's address that goes to the Envoy beside its client instead: its status line and more, or
    nothing.
    """

    def call() -> str:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            sock.settimeout(5)
            try:
                sock.connect((VIP, port))
                sock.sendall(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
                return sock.recv(4096).decode()
            except OSError:
                return ""

    return mesh.place.namespace.run(call)


@pytest.mark.parametrize("tunnels", [True, False], ids=["with tunnels", "without"])
def test_an_envoy_that_tunnels_passes_nothing_to_the_address_that_it_may_not_see(tmp_path: Path, tunnels: bool) -> None:
    """Without tunnels of its own it does, since the tunnel of its node is behind it."""
    denied = POLICIES.replace('{methods: [DELETE], paths: ["/books/*"]}', '{paths: ["/*"]}')
    metadata = {"ENABLE_HBONE": "true"} if tunnels else {}
    with ExitStack() as stack:
        mesh = stack.enter_context(tended.running(tmp_path, {"routes": ROUTES, "policies": denied}, delta=True))
        subprocess.run([*mesh.place.inside, "ip", "address", "add", f"{VIP}/32", "dev", "lo"], check=True)
        behind = stack.enter_context(upstream("behind", VIP, listener=mesh.place.listen(VIP, 80)))
        client = stack.enter_context(mesh.beside("client", delta=True, **metadata))
        port = next(port for name, port in client.listening().items() if name == "virtualOutbound")
        rules = REDIRECT.replace("MARK", str(MARK)).replace("PORT", str(port))
        subprocess.run([*mesh.place.inside, "nft", "-f", "-"], input=rules, text=True, check=True)
        assert redirected(mesh).startswith("HTTP/1.1 403" if tunnels else "HTTP/1.1 200")
        assert redirected(mesh, 81) == "", "no port of the service"
        hidden = mesh.manifest.replace("metadata: {name: web,", "metadata: {name: web, annotations: {networking.istio.io/exportTo: third},")
        assert hidden != mesh.manifest
        mesh.mesh.put(mesh=hidden)
        eventually(lambda: f"{VIP}_80" not in client.listening(), "it may not see the service")
        assert (redirected(mesh) == "") is tunnels
        assert bool(behind.requests) is not tunnels


def deleted(client: fed.Envoy) -> str:
    """The server that did what a policy forbids, "" if none did."""
    return client.ask("web.shop", "/books/1", "DELETE").server
