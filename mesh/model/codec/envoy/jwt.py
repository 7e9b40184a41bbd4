"""Token rules → Envoy's jwt_authn filter.

One requirement for every request: `allow_missing`, without a provider. Envoy then looks for tokens wherever any of the issuers has them,
and each that it finds must verify with the keys of whom it says it is from, in a place where that issuer's tokens may be. So no token
passes, several must all be good, and a token of an issuer that nobody named is refused.

Claims go to metadata under `payload`, where policies and routes find them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2, http_uri_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as pb

from mesh.model.codec.envoy import parts
from mesh.model.codec.envoy.routes import JWT_FILTER, JWT_PAYLOAD
from mesh.model.l7.jwt import JwtRule, RemoteKeys

CACHE_SECONDS = 300
# A key that nobody has the private half of, since the point was not made from one: x is the SHA-256 of "culvert: no keys 0", y follows.
NO_KEYS = (
    '{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"none",'
    '"x":"3YTXzEsqcKqbkzxwIDi_Zxs7ki9jJeA6fJS7qshuYtA","y":"FhOlV6MLTO1kRGONNU0q40QZXdbP8xs9PRaSldTNU1k"}]}'
)


def filter_config(rules: Sequence[JwtRule], *, routes_by_claims: bool) -> tuple[str, Any]:
    """`routes_by_claims`: the route is chosen again when the claims are known."""
    made = pb.JwtAuthentication(bypass_cors_preflight=True)
    issuers = Counter(rule.issuer for rule in rules)
    for index, rule in enumerate(rules):
        made.providers[f"origins-{index}"].CopyFrom(_provider(rule, routes_by_claims))
    requirement = made.rules.add()
    requirement.match.prefix = "/"
    missing = pb.JwtRequirement()
    missing.allow_missing.SetInParent()
    if max(issuers.values(), default=1) == 1:
        requirement.requires.CopyFrom(missing)
    else:
        # Envoy knows one provider by its issuer: where several share one, each has to be asked by name.
        choices = [pb.JwtRequirement(provider_name=f"origins-{index}") for index in range(len(rules))]
        requirement.requires.requires_any.requirements.extend([*choices, missing])
    return JWT_FILTER, made


def _provider(rule: JwtRule, routes_by_claims: bool) -> Any:
    made = pb.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward,
        from_headers=[pb.JwtHeader(name=header.name, value_prefix=header.prefix) for header in rule.headers],
        from_params=rule.params,
        from_cookies=rule.cookies,
        forward_payload_header=rule.payload_header,
        payload_in_metadata=JWT_PAYLOAD,
        normalize_payload_in_metadata=pb.JwtProvider.NormalizePayload(space_delimited_claims=rule.split),
        claim_to_headers=[pb.JwtClaimToHeader(header_name=header, claim_name=claim) for header, claim in rule.claim_headers],
        clear_route_cache=routes_by_claims,
    )
    match rule.keys:
        case RemoteKeys():
            made.remote_jwks.http_uri.CopyFrom(
                http_uri_pb2.HttpUri(uri=rule.keys.uri, cluster=rule.keys.cluster, timeout=parts.duration(rule.keys.timeout))
            )
            made.remote_jwks.cache_duration.seconds = CACHE_SECONDS
        case str():
            made.local_jwks.CopyFrom(base_pb2.DataSource(inline_string=rule.keys))
        case None:
            made.local_jwks.CopyFrom(base_pb2.DataSource(inline_string=NO_KEYS))
    return made
