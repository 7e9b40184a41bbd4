"""Tokens of a real API server: who is known by them, who is not, and what is left while the server is away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest

from control.auth import Caller
from control.auth.issuer import Issuer
from control.auth.kubernetes import TokenReviews
from tests.cluster import apiserver
from tests.cluster.apiserver import ApiServer
from tests.cluster.kubernetes import Follower, delete_pod, make_pod

pytestmark = pytest.mark.cluster
SYSTEM = "istio-system"


@dataclass
class Meter:
    counts: dict[str, int] = field(default_factory=dict)
    waiting: int = 0

    def reviewed(self, result: str) -> None:
        self.counts[result] = self.counts.get(result, 0) + 1

    def asking(self, tokens: int) -> None:
        self.waiting = tokens


class Door(Follower):
    """A source, and an authenticator over what it saw."""

    def __enter__(self) -> Door:
        super().__enter__()
        self.reviews = Meter()
        self.issuer = self.call(lambda: Issuer(self.api))
        self.door = self.call(lambda: TokenReviews(self.api, self.source, issuer=self.issuer, meter=self.reviews))
        self.start(self.issuer.run())
        self.synced()
        self.eventually("the keys", lambda: self.issuer.known)
        return self

    def who(self, token: str) -> Caller | None:
        return self.run(self.door.authenticate([("authorization", f"Bearer {token}")]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With a ztunnel on a node."""
    with apiserver.running(tmp_path_factory.mktemp("tokens")) as server:
        server.make_namespace(SYSTEM)
        server.make_account(SYSTEM, "ztunnel")
        server.api.post("/api/v1/nodes", {"metadata": {"name": "n1"}})
        make_pod(server, SYSTEM, "ztunnel-1", account="ztunnel")
        yield server


def _uid(server: ApiServer, namespace: str, name: str) -> str:
    return str(server.get(f"/api/v1/namespaces/{namespace}/pods/{name}")["metadata"]["uid"])


def _claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def _signed(server: ApiServer, like: str, **changes: Any) -> str:
    """A token as the server would have signed it."""
    header = {"kid": jwt.get_unverified_header(like)["kid"]}
    return jwt.encode({**_claims(like), **changes}, server.pki.accounts_key.read_text(), algorithm="RS256", headers=header)


def test_a_tunnel_speaks_for_its_node(server: ApiServer) -> None:
    with Door(server.kubeconfig) as door:
        token = server.token(SYSTEM, "ztunnel", "istio-ca", pod="ztunnel-1")
        assert _claims(token)["aud"] == ["istio-ca"]
        uid = _uid(server, SYSTEM, "ztunnel-1")
        assert door.who(token) == Caller("n1", SYSTEM, "ztunnel", "ztunnel-1", uid, impersonates=True)
        assert door.who(token) is not None
        assert door.reviews.counts == {"yes": 1, "cached": 1}


def test_other_accounts_speak_for_themselves(server: ApiServer, namespace: str) -> None:
    make_pod(server, namespace, "web")
    with Door(server.kubeconfig) as door:
        caller = door.who(server.token(namespace, "default", "istio-ca", pod="web"))
        assert caller == Caller("n1", namespace, "default", "web", _uid(server, namespace, "web"), impersonates=False)
        assert door.who(server.token(namespace, "default", "istio-ca")) == Caller("", namespace, "default", "", "", False)


BAD: dict[str, Callable[[ApiServer, str], str]] = {
    "for the API server itself": lambda server, good: server.token(SYSTEM, "ztunnel", pod="ztunnel-1"),
    "for another audience": lambda server, good: server.token(SYSTEM, "ztunnel", "vault", pod="ztunnel-1"),
    "expired": lambda server, good: _signed(server, good, exp=int(time.time()) - 120, iat=int(time.time()) - 7200),
    "not yet valid": lambda server, good: _signed(server, good, nbf=int(time.time()) + 600),
    "changed": lambda server, good: good[:-8] + ("AAAAAAAA" if good[-8:] != "AAAAAAAA" else "BBBBBBBB"),
    "of a pod that never was": lambda server, good: _signed(
        server, good, **{"kubernetes.io": {**_claims(good)["kubernetes.io"], "pod": {"name": "ztunnel-9", "uid": "x"}}}
    ),
    "of an administrator": lambda server, good: server.pki.admin_token,
    "nonsense": lambda server, good: "nonsense",
}
SAY_SO = {"for the API server itself", "for another audience", "expired"}
"""Which are not asked about."""


@pytest.mark.parametrize("name", BAD)
def test_what_proves_nothing(server: ApiServer, name: str) -> None:
    with Door(server.kubeconfig) as door:
        good = server.token(SYSTEM, "ztunnel", "istio-ca", pod="ztunnel-1")
        assert door.who(_signed(server, good)) is not None, "what this test signs is as good as what the server signs"
        assert door.who(BAD[name](server, good)) is None
        assert door.reviews.counts == {"yes": 1, "refused" if name in SAY_SO else "no": 1}


def test_a_clock_that_differs_by_less_than_a_minute(server: ApiServer) -> None:
    """The leeway is the API server's own; ours, for when it is away, is the same."""
    with Door(server.kubeconfig) as door:
        good = server.token(SYSTEM, "ztunnel", "istio-ca", pod="ztunnel-1")
        now = int(time.time())
        for changes in ({"exp": now - 30, "iat": now - 3600}, {"nbf": now + 30, "iat": now + 30}):
            token = _signed(server, good, **changes)
            assert door.who(token) is not None
            assert door.issuer.verify(token, "istio-ca", door.source).pod == "ztunnel-1"


def test_a_deleted_pod_is_known_for_a_moment_only(server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.auth.kubernetes.GOOD", 1.0)
    make_pod(server, namespace, "web")
    with Door(server.kubeconfig) as door:
        token = server.token(namespace, "default", "istio-ca", pod="web")
        assert door.who(token) is not None
        delete_pod(server, namespace, "web")
        door.eventually("it to be refused", lambda: door.who(token) is None)


def test_the_keys_that_are_published_are_those_that_sign(server: ApiServer) -> None:
    published = json.loads(server.api.text("/openid/v1/jwks"))["keys"]
    token = server.token(SYSTEM, "ztunnel", "istio-ca", pod="ztunnel-1")
    assert jwt.get_unverified_header(token)["kid"] in {key["kid"] for key in published}
    assert _claims(token)["iss"] == json.loads(server.api.text("/.well-known/openid-configuration"))["issuer"]


def test_tokens_while_the_api_server_is_away(private_server: ApiServer) -> None:
    server = private_server
    server.make_namespace(SYSTEM)
    server.make_account(SYSTEM, "ztunnel")
    for name in ("ztunnel-1", "ztunnel-2"):
        make_pod(server, SYSTEM, name, account="ztunnel")
    tokens = {name: server.token(SYSTEM, "ztunnel", "istio-ca", pod=name) for name in ("ztunnel-1", "ztunnel-2")}
    with Door(server.kubeconfig) as door:
        delete_pod(server, SYSTEM, "ztunnel-2")
        door.eventually("the deletion to be seen", lambda: door.source.pod(SYSTEM, "ztunnel-2") is None)
        server.stop()
        caller = door.who(tokens["ztunnel-1"])
        assert caller is not None
        assert (caller.node, caller.pod, caller.impersonates) == ("n1", "ztunnel-1", True)
        assert door.who(tokens["ztunnel-2"]) is None, "its pod was gone when the server was last heard of"
        assert door.who(_signed(server, tokens["ztunnel-1"], aud=["vault"])) is None
        assert door.who(_signed(server, tokens["ztunnel-1"], exp=int(time.time()) - 120)) is None
        assert door.reviews.counts["offline"] == 1
        assert (door.reviews.counts["offline_no"], door.reviews.counts["refused"]) == (1, 2)
        server.start()
        door.synced()

        def asked() -> bool:
            """With a token that is new to us each time."""
            return door.who(_signed(server, tokens["ztunnel-1"], x=time.time())) is not None and "yes" in door.reviews.counts

        door.eventually("the server to be asked again", asked)
