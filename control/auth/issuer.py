"""Service account tokens judged here, by the cluster's published keys: what is left while the API server cannot be asked.

A projected token is a JWT that the API server signed (KEP-1205). Its issuer and keys are published at `/.well-known/openid-configuration`
and `/openid/v1/jwks` (KEP-1393); they are fetched while the server answers, and kept on disk for a start without it. What a token claims
then counts if its signature, issuer, audience and times are right *and* the pod that it is bound to is the one that was last seen, by uid,
account and node. What cannot be known without the server is whether it still is: see docs/decisions/0012.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
import msgspec

from control.keep import Book
from control.kube.client import Api
from control.kube.errors import KubeError
from control.pacing import Backoff
from mesh.io.log import Log
from mesh.model.manifest import Pod

log = Log("tokens")

CONFIGURATION, KEYS = "/.well-known/openid-configuration", "/openid/v1/jwks"
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
"""What API servers sign with. Nothing symmetric, and not `none`."""
LEEWAY = 60
"""Seconds by which clocks may differ: what Kubernetes' own check of tokens gives (go-jose's default)."""
REFRESH = 300.0
"""Seconds between two fetches of the keys."""
ORIGIN = "openid"
FINISHED = frozenset({"Succeeded", "Failed"})
SUBJECT = "system:serviceaccount:"


class Pods(Protocol):
    """The Kubernetes source: what was last seen."""

    def pod(self, namespace: str, name: str) -> Pod | None: ...


class Unproved(Exception):  # noqa: N818 - what the token is
    """Why a token proves nothing."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token was issued for."""

    namespace: str
    account: str
    pod: str
    pod_uid: str
    node: str
    expires: float


class _Configuration(msgspec.Struct):
    issuer: str


class _Kept(msgspec.Struct):
    issuer: str
    keys: msgspec.Raw


class Issuer:
    """`book`: where the keys are kept, None for nowhere. `wall` gives Unix seconds."""

    def __init__(self, api: Api, book: Book | None = None, wall: Callable[[], float] = time.time) -> None:
        self._api = api
        self._book = book
        self._wall = wall
        self._issuer = ""
        self._keys: dict[str, jwt.PyJWK] = {}
        self._kept = b""
        if book is not None:
            book.on_loss = self._keep

    @property
    def known(self) -> bool:
        """Whether there are keys to judge by."""
        return bool(self._keys)

    async def run(self) -> None:
        """Keep the keys up to date, until cancelled."""
        await self._restore()
        backoff = Backoff()
        while True:
            try:
                await self.fetch()
                backoff.succeeded()
                wait = REFRESH
            except KubeError as error:
                log.debug("the keys of service account tokens cannot be fetched", error=str(error))
                wait = min(REFRESH, backoff.wait())
            await asyncio.sleep(wait)

    async def fetch(self) -> None:
        """KubeError, or the keys are those that the API server has now."""
        configuration = await self._api.call("get", CONFIGURATION, CONFIGURATION)
        keys = await self._api.call("get", KEYS, KEYS)
        try:
            issuer = msgspec.json.decode(configuration.body, type=_Configuration).issuer
            self._take(issuer, keys.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, jwt.PyJWTError) as error:
            log.error("the keys of service account tokens cannot be read: the old ones stay", error=str(error))
            return
        self._kept = msgspec.json.encode(_Kept(issuer, msgspec.Raw(keys.body)))
        if self._book is not None:
            self._book.confirm(self._wall())
        self._keep()

    def _keep(self) -> None:
        """Anew too, where it was lost: then also that there is nothing."""
        if self._book is None:
            return
        if self._kept:
            self._book.put(ORIGIN, self._kept)
            self._book.complete()
        self._book.refilled()

    def verify(self, token: str, audience: str, pods: Pods) -> Claims:
        """What the token proves by itself and by what was last seen of its pod. Unproved."""
        claims = self._decode(token, audience)
        seen = pods.pod(claims.namespace, claims.pod)
        if seen is None or not claims.pod_uid or seen.metadata.uid != claims.pod_uid:
            raise Unproved(f"its pod {claims.namespace}/{claims.pod} is not one that was seen")
        if seen.metadata.deletion_timestamp or seen.status.phase in FINISHED:
            raise Unproved(f"its pod {claims.namespace}/{claims.pod} is at its end")
        if seen.spec.account != claims.account or claims.node not in ("", seen.spec.node_name):
            raise Unproved(f"its pod {claims.namespace}/{claims.pod} runs as another account or on another node")
        return claims

    def _decode(self, token: str, audience: str) -> Claims:
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(header.get("kid") or "")
            if key is None:
                raise Unproved("it is signed with a key that the cluster did not publish")
            found = jwt.decode(
                token,
                key,
                algorithms=[algorithm for algorithm in ALGORITHMS if algorithm == key.algorithm_name],
                audience=audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iat", "nbf", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, RecursionError) as error:
            raise Unproved(str(error)) from error
        return claims_of(found)

    def _take(self, issuer: str, keys: bytes) -> None:
        found = {key.key_id: key for key in jwt.PyJWKSet.from_json(keys.decode()).keys if key.key_id and key.algorithm_name in ALGORITHMS}
        if not issuer or not found:
            raise ValueError("no issuer, or no key that can be used")
        self._issuer, self._keys = issuer, found

    async def _restore(self) -> None:
        kept = await self._book.load() if self._book is not None else None
        for row in kept.rows if kept is not None else ():
            try:
                known = msgspec.json.decode(row.value, type=_Kept)
                self._take(known.issuer, bytes(known.keys))
                self._kept = row.value
            except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, jwt.PyJWTError) as error:
                log.error("the keys of service account tokens that were kept cannot be read", error=str(error))


def claims_of(found: dict[str, Any]) -> Claims:
    """Unproved where it is no token of a pod."""
    bound = found.get("kubernetes.io")
    bound = bound if isinstance(bound, dict) else {}
    namespace, account = bound.get("namespace"), _name(bound.get("serviceaccount"))
    pod, node = bound.get("pod"), bound.get("node")
    if not isinstance(namespace, str) or not account or found.get("sub") != f"{SUBJECT}{namespace}:{account}":
        raise Unproved("it is no token of a service account")
    uid = pod.get("uid") if isinstance(pod, dict) else None
    if not _name(pod) or not isinstance(uid, str):
        raise Unproved("it is bound to no pod")
    return Claims(namespace, account, _name(pod), uid, _name(node), float(found["exp"]))


def expiry(token: str) -> float:
    """When a token says that it expires, without proof; 0 where that cannot be read. For tokens that were proved otherwise."""
    try:
        found = jwt.decode(token, options={"verify_signature": False})
        return float(found["exp"])
    except (jwt.PyJWTError, KeyError, TypeError, ValueError):
        return 0.0


class _Said(msgspec.Struct):
    aud: str | list[str] = []
    exp: float = float("inf")


def hopeless(token: str, audience: str, now: float) -> bool:
    """Whether a token says itself that it is for somebody else, or expired. Not where it says nothing that can be read."""
    parts = token.split(".")
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)) if len(parts) == 3 else b""
        said = msgspec.json.decode(payload, type=_Said)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return audience not in ([said.aud] if isinstance(said.aud, str) else said.aud) or now > said.exp + LEEWAY


def _name(entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""
