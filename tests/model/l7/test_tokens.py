"""RequestAuthentications → token rules and the clusters that their keys come through."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from mesh.model.l7.clusters import Cluster, Discovery, Tls
from mesh.model.l7.endpoints import HostPort
from mesh.model.l7.jwt import JwtRule, RemoteKeys, TokenHeader
from mesh.model.l7.notes import Problem, Translated
from mesh.model.l7.translate.tokens import Tokens, tokens, usable_keys
from tests.model.l7.objects import host, made, target, targets

# The key of RFC 7515, appendix A.3.
KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "kid": "k",
}
DOCUMENT = json.dumps({"keys": [KEY]})
PLAIN = json.dumps({"keys": [KEY]}, sort_keys=True, separators=(",", ":"))
ISSUER = "https://issuer.example"


def translated(*rules: dict[str, Any], fetched: dict[str, str] | None = None, remote: bool = True) -> Translated[Tokens]:
    entry = made("RequestAuthentication", {"jwtRules": [{"issuer": ISSUER, **rule} for rule in rules]})
    return tokens([entry], targets(target("keys")), fetched or {}, remote=remote)


def one(rule: dict[str, Any], **fields: Any) -> JwtRule:
    (found,) = translated(rule, **fields).value.rules
    return found


def test_every_field() -> None:
    written = {
        "jwks": DOCUMENT,
        "audiences": ["a"],
        "fromHeaders": [{"name": "X-T", "prefix": "T "}],
        "fromParams": ["p"],
        "fromCookies": ["c"],
        "forwardOriginalToken": True,
        "outputPayloadToHeader": "x-p",
        "outputClaimToHeaders": [{"header": "x-s", "claim": "sub"}],
        "spaceDelimitedClaims": ["roles", "scope"],
    }
    assert one(written) == JwtRule(
        ISSUER,
        PLAIN,
        ("a",),
        (TokenHeader("x-t", "T "),),
        ("p",),
        ("c",),
        True,
        "x-p",
        (("x-s", "sub"),),
        ("scope", "permission", "roles"),
    )


@pytest.mark.parametrize(
    ("uri", "cluster", "made_"),
    [
        ("https://keys.example/jwks", "jwks|443|tls|keys.example", Tls(sni="keys.example")),
        ("http://keys.example:8080/jwks", "jwks|8080||keys.example", None),
        (f"http://{host('keys')}/jwks", f"outbound|80||{host('keys')}", None),
        (f"http://{host('keys')}:99/jwks", f"jwks|99||{host('keys')}", None),
        ("https://[2001:db8::1]:8443/jwks", "jwks|8443|tls|2001:db8::1", Tls(sni="2001:db8::1")),
    ],
)
def test_where_keys_are_fetched(uri: str, cluster: str, made_: Tls | None) -> None:
    found = translated({"jwksUri": uri, "timeout": "2s"}).value
    assert found.rules[0].keys == RemoteKeys(uri, cluster, timedelta(seconds=2))
    if cluster.startswith("outbound"):
        assert found.clusters == ()
        return
    (one_,) = found.clusters
    assert isinstance(one_, Cluster)
    assert (one_.name, one_.discovery, one_.tls) == (cluster, Discovery.DNS, made_)
    assert one_.endpoints is not None
    assert one_.endpoints.groups[0].endpoints[0].address == HostPort(one_.host, one_.port)


@pytest.mark.parametrize(
    ("rule", "fetched", "remote", "known"),
    [
        ({}, {}, True, False),
        ({}, {ISSUER: DOCUMENT}, True, True),
        ({"jwksUri": "https://k/j"}, {"https://k/j": DOCUMENT}, True, True),
        ({"jwksUri": "https://k/j"}, {"https://k/j": "no json"}, True, False),
        ({"jwksUri": "https://k/j"}, {}, False, False),
        ({"jwksUri": "https://k:99999/j"}, {}, True, False),
        ({"jwksUri": "https://é.example/j"}, {}, True, False),
        ({"jwksUri": "https://a=b/j"}, {}, True, False),
        ({"jwksUri": "https://a/\u00e9"}, {}, True, False),
    ],
)
def test_keys_that_the_control_plane_has(rule: dict[str, Any], fetched: dict[str, str], remote: bool, known: bool) -> None:
    found = translated(rule, fetched=fetched, remote=remote)
    assert found.value.rules[0].keys == (PLAIN if known else None)
    assert [note.problem for note in found.notes] == ([] if known else [Problem.NO_KEYS])


RSA = {"kty": "RSA", "n": base64.urlsafe_b64encode(b"\xff" * 256).decode(), "e": "AQAB"}


@pytest.mark.parametrize(
    ("key", "good"),
    [
        (KEY, True),
        ({**KEY, "x": KEY["y"]}, False),
        ({**KEY, "crv": "P-999"}, False),
        ({**KEY, "kid": 5}, False),
        (RSA, True),
        ({**RSA, "e": "not base64!"}, False),
        ({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}, True),
        ({"kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}, False),
        ({"kty": "oct", "k": "c2VjcmV0"}, True),
        ({"kty": "new"}, False),
        ({}, False),
    ],
)
def test_usable_keys(key: dict[str, Any], good: bool) -> None:
    assert (usable_keys(json.dumps({"keys": [key]})) is not None) is good
    beside = usable_keys(json.dumps({"keys": [key, KEY]}))
    assert beside is not None
    assert len(json.loads(beside)["keys"]) == 1 + good


@pytest.mark.parametrize("document", ["", "[]", '{"keys": 5}', '{"keys": []}', "{" * 100_000])
def test_documents_that_are_none(document: str) -> None:
    assert usable_keys(document) is None


def test_what_no_header_can_hold_is_left_out_of_prefixes() -> None:
    assert one({"jwks": DOCUMENT, "fromHeaders": [{"name": "x", "prefix": "a\r\nb"}]}).headers == (TokenHeader("x", "ab"),)
