"""Tokens: who may issue them, where they are looked for, which keys verify them, and what becomes of them afterwards.

No token passes, as nobody; a token that does not verify is answered 401, whoever it claims to be from. Of several tokens all must verify.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """`prefix` is taken away from the value as it is."""

    name: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class RemoteKeys:
    """Keys that the proxy fetches by itself, through a cluster."""

    uri: str
    cluster: str
    timeout: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class JwtRule:
    """`keys`: a JWKS document, or where to get it; None where there are none: no token of this issuer verifies then.

    `headers`, `params` and `cookies` all empty: `Authorization: Bearer`, and the query parameter `access_token`. `claim_headers` are
    pairs of header and claim. `split`: claims whose text is a list of words.
    """

    issuer: str
    keys: str | RemoteKeys | None
    audiences: tuple[str, ...] = ()
    headers: tuple[TokenHeader, ...] = ()
    params: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    forward: bool = False
    payload_header: str = ""
    claim_headers: tuple[tuple[str, str], ...] = ()
    split: tuple[str, ...] = ("scope", "permission")
