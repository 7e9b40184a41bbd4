"""RequestAuthentications → token rules, and the clusters through which proxies fetch keys.

Selection is done: these apply. Keys are the document in the object, or one that the control plane has fetched, or the proxy fetches them.
Where there are none to be had, the issuer's tokens are refused, all of them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mesh.model.l7.clusters import Cluster, Discovery, Tls
from mesh.model.l7.endpoints import Assignment, Endpoint, HostPort, LocalityGroup
from mesh.model.l7.jwt import JwtRule, RemoteKeys, TokenHeader
from mesh.model.l7.names import cluster_name, jwks_cluster_name
from mesh.model.l7.notes import Notes, Problem, Translated
from mesh.model.l7.texts import clean
from mesh.model.l7.translate.targets import Targets
from mesh.model.manifest import RequestAuthentication
from mesh.model.manifest.requestauth import JwtRule as ManifestRule

CURVES: Mapping[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
SPLIT = ("scope", "permission")
_VISIBLE = re.compile(r"[!-~]+")
_NAME = re.compile(r"[a-z0-9_](?:[-a-z0-9_.]*[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Tokens:
    rules: tuple[JwtRule, ...] = ()
    clusters: tuple[Cluster, ...] = ()


def tokens(
    found: Sequence[RequestAuthentication], targets: Targets, fetched: Mapping[str, str], *, remote: bool = True
) -> Translated[Tokens]:
    """`targets`: hosts of the mesh that keys may be at. `fetched`: documents that the control plane has, by URI, and for issuers whose
    keys are discovered by issuer. `remote`: what it has not, proxies fetch.
    """
    notes = Notes()
    rules: list[JwtRule] = []
    clusters: dict[str, Cluster] = {}
    for entry in found:
        for index, rule in enumerate(entry.spec.jwt_rules):
            field = f"spec.jwtRules[{index}]"
            keys, cluster = _keys(rule, targets, fetched, remote)
            if keys is None:
                message = "no usable keys are known: every token of this issuer is refused"
                notes.add(Problem.NO_KEYS, entry.key, field, message)
            if cluster is not None:
                clusters[cluster.name] = cluster
            rules.append(_rule(rule, keys))
    return notes.done(Tokens(tuple(rules), tuple(clusters.values())))


def _rule(rule: ManifestRule, keys: str | RemoteKeys | None) -> JwtRule:
    return JwtRule(
        issuer=rule.issuer,
        keys=keys,
        audiences=rule.audiences,
        headers=tuple(TokenHeader(header.name, clean(header.prefix)) for header in rule.from_headers),
        params=rule.from_params,
        cookies=rule.from_cookies,
        forward=rule.forward_original_token,
        payload_header=rule.output_payload_to_header,
        claim_headers=tuple((entry.header, entry.claim) for entry in rule.output_claim_to_headers),
        split=tuple(dict.fromkeys((*SPLIT, *rule.space_delimited_claims))),
    )


def _keys(rule: ManifestRule, targets: Targets, fetched: Mapping[str, str], remote: bool) -> tuple[str | RemoteKeys | None, Cluster | None]:
    if rule.jwks:
        return usable_keys(rule.jwks), None
    uri = rule.key_set_uri
    document = fetched.get(uri or rule.issuer)
    if document is not None:
        return usable_keys(document), None
    if not (uri and remote):
        return None, None
    try:
        cluster = _cluster(uri, targets)
    except ValueError:  # a port or address that is none
        return None, None
    name = cluster if isinstance(cluster, str) else cluster.name
    return RemoteKeys(uri, name, timedelta(seconds=rule.timeout)), None if isinstance(cluster, str) else cluster


def _cluster(uri: str, targets: Targets) -> Cluster | str:
    """The name of the mesh's own, or one for a server outside. ValueError where a proxy could not use the URI."""
    parts = urlsplit(uri)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    if not (_VISIBLE.fullmatch(uri) and (_NAME.fullmatch(host) or ip_address(host))):
        raise ValueError(uri)
    port = parts.port or (443 if secure else 80)
    target = targets.get(host)
    if target is not None and target.mesh.port(port) is not None:
        return cluster_name(host, port)
    name = jwks_cluster_name(host, port, secure)
    endpoints = Assignment(name, (LocalityGroup((Endpoint(HostPort(host, port)),)),))
    return Cluster(name, host, port, discovery=Discovery.DNS, endpoints=endpoints, tls=Tls(sni=host) if secure else None)


def usable_keys(document: str) -> str | None:
    """The keys that a proxy can verify with, as a document; None where there are none. One bad key must not take the good ones along."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return None
    keys = found.get("keys") if isinstance(found, dict) else None
    good = [key for key in keys if isinstance(key, dict) and _good(key)] if isinstance(keys, list) else []
    return json.dumps({"keys": good}, sort_keys=True, separators=(",", ":")) if good else None


def _good(key: Mapping[str, Any]) -> bool:
    try:
        match key.get("kty"):
            case "RSA":
                rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key()
            case "EC":
                ec.EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), CURVES[key["crv"]]).public_key()
            case "OKP":
                ed25519.Ed25519PublicKey.from_public_bytes(_bytes(key["x"]))
                return bool(key["crv"] == "Ed25519")
            case "oct":
                return bool(_bytes(key["k"]))
            case _:
                return False
    except (KeyError, TypeError, ValueError):
        return False
    return all(isinstance(key.get(name, ""), str) for name in ("kid", "alg", "use"))


def _number(value: object) -> int:
    return int.from_bytes(_bytes(value), "big")


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(value)
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(value) from error
