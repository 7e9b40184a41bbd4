"""RequestAuthentication of security.istio.io, v1 and v1beta1 (which are the same): which tokens of requests are believed.

A request without a token passes as one of nobody; a token that is bad in any way is refused. An AuthorizationPolicy can demand one.
"""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.security import API_VERSIONS
from mesh.model.manifest.shapes import Flag, ListOf, Parsed, Text
from mesh.model.manifest.status import IstioStatus, status
from mesh.model.manifest.targets import ONE_WAY, Targeted
from mesh.model.manifest.words import HEADER_NAME, NONEMPTY, POSITIVE


def _keys(text: str) -> str:
    """The text of a key set as RFC 7517 §5 has it."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys):
        raise ValueError(text)
    return text


JWKS = Parsed(_keys, 'a JSON Web Key Set: {"keys": [...]} with at least one key', r"(?s)\s*\{.+")
JWKS_URI = Text(r"https?://[^\s/?#]+(?:[/?#]\S*)?", "an http:// or https:// URL of up to 2048 characters", 2048)
OUTPUT_HEADER = Parsed(str.lower, "a header's name of letters, digits, '-' and '_'", r"[-_A-Za-z0-9]+", 256)
NAMES = ListOf(NONEMPTY, most=256)


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtHeader:
    name: str = item(HEADER_NAME, required=True, about="The header that carries the token.")
    prefix: str = item(Text(), "", about="What stands before the token in it, with its blank: 'Bearer ' for instance.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimToHeader:
    header: str = item(OUTPUT_HEADER, required=True, about="The header that is set; one that the client sent under this name is removed.")
    claim: str = item(NONEMPTY, required=True, about="The claim whose value it gets: a string, a whole number or a truth value.")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule:
    """One issuer. `timeout` in seconds. `key_set_uri` is what counts, in whichever of its fields it stands."""

    issuer: str = item(NONEMPTY, "", about="Who must have issued the token: its claim iss.")
    audiences: tuple[str, ...] = item(NAMES, (), about="For whom the token may be issued: its claim aud must hold one; none asks nothing.")
    jwks_uri: str = item(JWKS_URI, "", about="Where the issuer's public keys are; absent, they are discovered from the issuer's URL.")
    jwks_uri_old: str = item(JWKS_URI, "", name="jwks_uri", about="An old spelling of jwksUri.")
    jwks: str = item(JWKS, "", about="The issuer's public keys themselves, as a JSON Web Key Set.")
    from_headers: tuple[JwtHeader, ...] = item(
        ListOf(Record(JwtHeader), most=64), (), about="Headers to look for the token in, instead of Authorization."
    )
    from_params: tuple[str, ...] = item(NAMES, (), about="Query parameters to look for the token in, instead of access_token.")
    from_cookies: tuple[str, ...] = item(NAMES, (), about="Cookies to look for the token in.")
    output_payload_to_header: str = item(HEADER_NAME, "", about="A header that gets the token's payload, in base64url.")
    forward_original_token: bool = item(Flag(), False, about="Whether the token is passed on to the destination.")
    output_claim_to_headers: tuple[ClaimToHeader, ...] = item(
        ListOf(Record(ClaimToHeader), most=64), (), about="Claims that are passed on as headers of their own."
    )
    timeout: float = item(POSITIVE, "5s", about="How long fetching the keys may take.")
    space_delimited_claims: tuple[str, ...] = item(
        ListOf(NONEMPTY, most=64, distinct=True), (), about="Claims whose text is a list with blanks between, beside scope and permission."
    )

    RULES = (
        Rule(
            lambda rule: [bool(rule.jwks), bool(rule.jwks_uri), bool(rule.jwks_uri_old)].count(True) <= 1,
            "jwks",
            "at most one of jwks and jwksUri",
            "[has(self.jwks), has(self.jwksUri), has(self.jwks_uri)].filter(x, x).size() <= 1",
        ),
        Rule(
            lambda rule: rule.issuer or rule.jwks or rule.key_set_uri,
            "issuer",
            "an issuer, or jwksUri or jwks: otherwise no key is known",
            "has(self.issuer) || has(self.jwks) || has(self.jwksUri) || has(self.jwks_uri)",
        ),
    )

    @property
    def key_set_uri(self) -> str:
        return self.jwks_uri or self.jwks_uri_old


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthenticationSpec(Targeted):
    jwt_rules: tuple[JwtRule, ...] = item(ListOf(Record(JwtRule), most=4096), (), about="The issuers whose tokens are believed.")

    RULES = (ONE_WAY,)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthentication(Object):
    """Says whose tokens requests may carry, and where. Requests with a bad token are refused; those without one are nobody's."""

    KIND = "RequestAuthentication"
    API_VERSIONS = API_VERSIONS

    spec: RequestAuthenticationSpec = item(
        Record(RequestAuthenticationSpec), RequestAuthenticationSpec(), about="Whom it is for, and whose tokens are believed there."
    )
    status: Any = status(IstioStatus, "What became of it.")
