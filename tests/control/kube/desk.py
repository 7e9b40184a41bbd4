"""An authenticator of Kubernetes' tokens, with a cluster that it asks, keys that it knows, and a clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control.auth import Caller
from control.auth.issuer import CONFIGURATION, KEYS, Issuer
from control.auth.kubernetes import TokenReviews
from control.sources.kubernetes import Kind
from control.sources.kubernetes.kinds import CORE_KINDS
from control.sources.kubernetes.read import Reader
from control.sources.kubernetes.wire import head
from mesh.model.manifest import Pod, parse_object
from tests.control.kube.fake import FakeCluster
from tests.control.kube.rig import pod

NOW = 1_800_000_000
ISSUER = "https://kubernetes.default.svc"
ZTUNNEL = Caller(node="n1", namespace="istio-system", account="ztunnel", pod="ztunnel-1", pod_uid="u-1", impersonates=True)
RSA, OTHER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())


def as_pod(value: dict[str, Any]) -> Pod:
    raw = json.dumps(value).encode()
    kind: Kind = CORE_KINDS["pods"]
    parsed = Reader(parse_object, 1 << 20).read(kind, head.decode(raw).metadata, raw).parsed
    assert parsed is not None
    (found,) = parsed.objects
    assert isinstance(found, Pod)
    return found


def ztunnel(**metadata: str) -> Pod:
    value = pod("ztunnel-1", namespace="istio-system")
    value["metadata"].update({"uid": "u-1", **metadata})
    value["spec"].update({"serviceAccountName": "ztunnel", "nodeName": "n1"})
    return as_pod(value)


@dataclass
class Pods:
    known: dict[tuple[str, str], Pod] = field(default_factory=lambda: {("istio-system", "ztunnel-1"): ztunnel()})

    def pod(self, namespace: str, name: str) -> Pod | None:
        return self.known.get((namespace, name))


def claims(**changes: Any) -> dict[str, Any]:
    """What a projected token of ztunnel-1 says."""
    bound = {
        "namespace": "istio-system",
        "node": {"name": "n1", "uid": "u-n1"},
        "pod": {"name": "ztunnel-1", "uid": "u-1"},
        "serviceaccount": {"name": "ztunnel", "uid": "u-sa"},
        **changes.pop("bound", {}),
    }
    return {
        "aud": ["istio-ca"],
        "exp": NOW + 3600,
        "iat": NOW,
        "nbf": NOW,
        "iss": ISSUER,
        "sub": "system:serviceaccount:istio-system:ztunnel",
        "kubernetes.io": {name: value for name, value in bound.items() if value is not None},
        **changes,
    }


def token(key: Any = RSA, kid: str = "rsa", algorithm: str = "RS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid})


def meta(text: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "x"), ("authorization", f"Bearer {text}")]


def yes(extra: dict[str, list[str]] | None = None, **changes: Any) -> Callable[[str, list[str]], dict[str, Any]]:
    """A server that knows every token to be of ztunnel-1."""
    known = {"pod-name": ["ztunnel-1"], "pod-uid": ["u-1"], "node-name": ["n1"], "node-uid": ["u-n1"]} if extra is None else extra
    user = {
        "username": "system:serviceaccount:istio-system:ztunnel",
        "extra": {f"authentication.kubernetes.io/{name}": value for name, value in known.items()},
    }
    return lambda _, audiences: {"authenticated": True, "audiences": audiences, "user": user, **changes}


class Desk:
    """An authenticator, a clock and a cluster."""

    def __init__(self, tmp_path: Path) -> None:
        self.cluster = FakeCluster()
        self.cluster.review = yes()
        jwks = [json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key())) | {"kid": "rsa", "alg": "RS256"}]
        jwks.append(json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC.public_key())) | {"kid": "ec", "alg": "ES256"})
        self.cluster.pages = {CONFIGURATION: {"issuer": ISSUER, "jwks_uri": "https://elsewhere.test/"}, KEYS: {"keys": jwks}}
        self.api = self.cluster.api(tmp_path)
        self.pods = Pods()
        self.now, self.wall = 0.0, float(NOW)
        self.counts: dict[str, int] = {}
        self.waiting = 0
        self.issuer = Issuer(self.api)
        self.reviews = TokenReviews(self.api, self.pods, issuer=self.issuer, meter=self, now=lambda: self.now, wall=lambda: self.wall)

    def reviewed(self, result: str) -> None:
        self.counts[result] = self.counts.get(result, 0) + 1

    def asking(self, tokens: int) -> None:
        self.waiting = tokens

    async def who(self, text: str = "a-token") -> Caller | None:
        return await self.reviews.authenticate(meta(text))

    @property
    def asked(self) -> int:
        return len(self.cluster.seen("create", "tokenreviews.authentication.k8s.io"))
