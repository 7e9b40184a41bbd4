"""Tokens at an Envoy waypoint: which are believed, what becomes of them, and what policies and routes see of their claims."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mesh.model.codec.envoy import clusters
from mesh.model.l7.chains import Chain, Guard, Traffic
from mesh.model.l7.jwt import JwtRule
from mesh.model.l7.notes import Problem
from mesh.model.l7.policies import Policy
from mesh.model.l7.routes import ClaimMatch, Respond, Route, RouteMatch
from mesh.model.l7.texts import exact
from mesh.model.l7.translate.authorization import enforced
from mesh.model.l7.translate.tokens import Tokens, tokens
from mesh.model.manifest import AuthorizationPolicy, RequestAuthentication, parse
from tests.interop import envoy, waypoints
from tests.interop.proxied import eventually
from tests.interop.upstream import upstream
from tests.interop.waypoints import PORT, SERVICE, VIP, VIP_ADDRESS, Waypoint

pytestmark = [pytest.mark.interop, pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy")]

ISSUER, OTHER = "https://issuer.example", "https://other.example/realm"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(65537, 2048)


def jwks(*keys: tuple[str, Any]) -> str:
    made = []
    for kid, key in keys:
        algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        made.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"})
    return json.dumps({"keys": made})


def token(issuer: str = ISSUER, key: Any = RSA_KEY, kid: str = "r", **claims: Any) -> str:
    now = int(time.time())
    body = {"iss": issuer, "sub": "ann", "iat": now, "exp": now + 600, **claims}
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return jwt.encode({name: value for name, value in body.items() if value is not None}, key, algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waypoint]:
    with waypoints.running(tmp_path_factory.mktemp("tokens"), [chain((), ())]) as made:
        yield made


_numbers = itertools.count(20000)


def chain(rules: Sequence[JwtRule], policies: Sequence[Policy], *, claims: bool = False) -> Chain:
    guard = Guard(tuple(policies), jwt=tuple(rules))
    return Chain(SERVICE, PORT, Traffic.HTTP, (VIP_ADDRESS,), table=SERVICE, guard=guard, claims=claims)


def put(rig: Waypoint, rules: Sequence[JwtRule], policies: Sequence[Policy] = (), *, claims: bool = False) -> None:
    port = next(_numbers)
    rig.put_chains(chain(rules, policies, claims=claims), Chain("beside", port, Traffic.HTTP, (VIP_ADDRESS,), table=SERVICE))
    eventually(lambda: rig.reaches(f"{VIP}:{port}"), "the rules are in force")


def manifest(kind: str, spec: Mapping[str, Any], name: str = "one") -> Any:
    value = {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "interop"}, "spec": spec}
    (made,) = parse(yaml.safe_dump(value), "test.yaml")
    return made


def rules(*found: Mapping[str, Any], fetched: Mapping[str, str] | None = None) -> Tokens:
    made: RequestAuthentication = manifest("RequestAuthentication", {"jwtRules": list(found)})
    return tokens([made], {}, fetched or {}).value


def policies(*specs: Mapping[str, Any]) -> tuple[Policy, ...]:
    made: list[AuthorizationPolicy] = [manifest("AuthorizationPolicy", spec, f"p{index}") for index, spec in enumerate(specs)]
    return enforced(made, ("cluster.local",)).value.http


PLAIN = {"issuer": ISSUER, "jwks": jwks(("r", RSA_KEY))}
SECOND = {"issuer": OTHER, "jwks": jwks(("e", EC_KEY)), "fromHeaders": [{"name": "x-token", "prefix": "Token "}]}


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def test_which_tokens_are_believed(rig: Waypoint) -> None:
    put(rig, rules({**PLAIN, "audiences": ["shop", "bar"]}).rules)
    good = token(aud="shop")
    assert rig.ask().status == 200, "no token passes"
    answer = rig.ask(**bearer(good))
    assert answer.status == 200
    assert "authorization" not in answer.echo["headers"], "a token is not passed on unless that is asked for"
    assert rig.ask(f"/?access_token={good}").status == 200
    now = int(time.time())
    for bad in (
        token(aud="shop", exp=now - 300),
        token(aud="shop", nbf=now + 300),
        token("https://stranger.example", aud="shop"),
        token(aud="shop", key=STRANGER),
        good[:-8] + "AAAAAAAA",
        "no.token.atall",
    ):
        refused = rig.ask(**bearer(bad))
        assert refused.status == 401, bad
        assert refused.headers["www-authenticate"].startswith("Bearer ")
    assert rig.ask(**bearer(token(aud="elsewhere"))).status == 403
    assert rig.ask(**bearer(token(aud="shop", exp=now - 30))).status == 200, "clocks may differ by a minute"


def test_several_issuers_and_several_tokens(rig: Waypoint) -> None:
    put(rig, rules(PLAIN, SECOND).rules)
    second = {"x_token": f"Token {token(OTHER, EC_KEY, 'e')}"}
    assert rig.ask(**second).status == 200
    assert rig.ask(**second, **bearer(token())).status == 200
    assert rig.ask(**second, **bearer(token(key=STRANGER))).status == 401, "of several all must be good"
    assert rig.ask(x_token=f"Token {token()}").status == 401, "a token of one issuer in the place of the other's"


def test_several_rules_for_one_issuer(rig: Waypoint) -> None:
    put(rig, rules({**PLAIN, "audiences": ["a"]}, {**PLAIN, "audiences": ["b"]}).rules)
    assert rig.ask().status == 200
    for audience in "ab":
        assert rig.ask(**bearer(token(aud=audience))).status == 200
    assert rig.ask(**bearer(token(aud="c"))).status in (401, 403)


def test_what_is_passed_on(rig: Waypoint) -> None:
    entry = {
        **PLAIN,
        "forwardOriginalToken": True,
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}, {"header": "x-level", "claim": "level"}],
    }
    put(rig, rules(entry).rules)
    made = token(level=7)
    headers = rig.ask(**bearer(made)).echo["headers"]
    assert headers["authorization"] == f"Bearer {made}"
    assert (headers["x-sub"], headers["x-level"], headers["x-payload"].rstrip("=")) == ("ann", "7", made.split(".")[1])
    spoofed = rig.ask(x_sub="root", x_payload="e30", **bearer(made)).echo["headers"]
    assert (spoofed["x-sub"], spoofed["x-payload"].rstrip("=")) == ("ann", made.split(".")[1])


def test_without_keys_every_token_of_the_issuer_is_refused(rig: Waypoint) -> None:
    made: RequestAuthentication = manifest("RequestAuthentication", {"jwtRules": [{"issuer": ISSUER}]})
    found = tokens([made], {}, {})
    assert [note.problem for note in found.notes] == [Problem.NO_KEYS]
    put(rig, found.value.rules)
    assert rig.ask().status == 200
    for key, kid in ((RSA_KEY, "r"), (EC_KEY, "none"), (EC_KEY, "e")):
        assert rig.ask(**bearer(token(key=key, kid=kid))).status == 401


def test_keys_that_the_proxy_fetches(rig: Waypoint) -> None:
    with upstream("keys") as server:
        path = "/status/200"
        server.documents[path] = jwks(("r", RSA_KEY)).encode()
        found = rules({"issuer": ISSUER, "jwksUri": f"http://{server.host}:{server.port}{path}"})
        rig.envoy.put(*(clusters.cluster(cluster, rig.profile) for cluster in found.clusters))
        put(rig, found.rules)
        assert rig.ask(**bearer(token())).status == 200
        assert rig.ask(**bearer(token(key=STRANGER))).status == 401
        assert server.seen[path] >= 1


def allow(**parts: Any) -> dict[str, Any]:
    return {"action": "ALLOW", "rules": [parts]}


def principals(*values: str) -> dict[str, Any]:
    return {"from": [{"source": {"requestPrincipals": list(values)}}]}


def claim(path: str, *values: str) -> dict[str, Any]:
    return {"when": [{"key": f"request.auth.claims{path}", "values": list(values)}]}


CLAIMS: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("whoever", principals("*"), {}, True),
    ("issuer and subject", principals(f"{ISSUER}/ann"), {}, True),
    ("another subject", principals(f"{ISSUER}/bob"), {}, False),
    ("any subject", principals(f"{ISSUER}/*"), {}, True),
    ("any issuer", principals("*/ann"), {}, True),
    ("a beginning", principals("https://iss*"), {}, True),
    ("cut at the last slash alone", principals(f"{ISSUER}/a/b"), {"sub": "a/b"}, False),
    ("nobody's name", principals("ann"), {}, False),
    ("nobody's name, or another's", principals("ann", f"{ISSUER}/ann"), {}, True),
    ("a claim", claim("[team]", "red"), {"team": "red"}, True),
    ("a claim of a list", claim("[groups]", "x", "y"), {"groups": ["a", "y"]}, True),
    ("none of a list", claim("[groups]", "x"), {"groups": ["a", "y"]}, False),
    ("a nested claim", claim("[realm][role]", "ad*"), {"realm": {"role": ["user", "admin"]}}, True),
    ("words of scope", claim("[scope]", "write"), {"scope": "read write"}, True),
    ("a part of a word", claim("[scope]", "writ"), {"scope": "read write"}, False),
    ("an absent claim", claim("[team]", "*"), {}, False),
    ("audience", {"when": [{"key": "request.auth.audiences", "values": ["shop"]}]}, {"aud": ["shop", "x"]}, True),
    ("presenter", {"when": [{"key": "request.auth.presenter", "values": ["app-1"]}]}, {"azp": "app-1"}, True),
]


@pytest.mark.parametrize(("parts", "claims", "allowed"), [case[1:] for case in CLAIMS], ids=[case[0] for case in CLAIMS])
def test_claims_in_policies(rig: Waypoint, parts: dict[str, Any], claims: dict[str, Any], allowed: bool) -> None:
    put(rig, rules(PLAIN).rules, policies(allow(**parts)))
    assert rig.ask(**bearer(token(**claims))).status == (200 if allowed else 403)
    assert rig.ask().status == 403, "without a token nothing matches"


def test_a_denied_principal_is_denied_however_it_can_be_read(rig: Waypoint) -> None:
    put(rig, rules(PLAIN).rules, policies({**allow(**principals(f"{ISSUER}/a/b")), "action": "DENY"}))
    assert rig.ask(**bearer(token(sub="a/b"))).status == 403
    assert rig.ask(**bearer(token(sub="a"))).status == 200


def test_routes_by_claims(rig: Waypoint) -> None:
    put(rig, rules(PLAIN).rules, claims=True)
    rig.serve(
        Route(RouteMatch(claims=(ClaimMatch(("groups",), exact("beta")),)), Respond(201)),
        Route(RouteMatch(claims=(ClaimMatch(("groups",), exact("beta"), negated=True),)), Respond(202)),
    )
    assert rig.ask(**bearer(token(groups=["beta"]))).status == 201
    assert rig.ask(**bearer(token(groups=["alpha"]))).status == 202
    assert rig.ask().status == 202
    rig.serve(waypoints.EVERYTHING)
