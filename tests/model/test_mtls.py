"""PeerAuthentication: which policies of which scopes there are, and whether plaintext and mTLS get in at a port. One line a case."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import pytest

from mesh.model.identity import Identity
from mesh.model.manifest import PeerAuthentication, parse
from mesh.model.manifest.mtls import Demand, MutualTlsModes
from mesh.model.policy import Authorization, Connection, evaluate
from mesh.model.reasons import Reason

ROOT = "istio-system"
SOMEBODY = Identity("cluster.local", "web", "frontend")
WEB, DB = {"app": "web"}, {"app": "db"}


def policies_of(*texts: str) -> list[PeerAuthentication]:
    """Each text is `namespace[/app]: mode[, port=mode ...][ @age]`."""
    policies = []
    for index, text in enumerate(texts):
        where, _, rest = text.partition(": ")
        rest, _, age = rest.partition(" @")
        mode, *ports = rest.split(", ")
        namespace, _, app = where.partition("/")
        meta = f"name: p{index}, namespace: {namespace}" + (f", creationTimestamp: '{age}-01-01T00:00:00Z'" if age else "")
        spec = [f"mtls: {{mode: {mode}}}"] if mode else []
        if app:
            spec.append(f"selector: {{matchLabels: {{app: {app}}}}}")
        if ports:
            spec.append("portLevelMtls: {" + ", ".join(f"{port.split('=')[0]}: {{mode: {port.split('=')[1]}}}" for port in ports) + "}")
        document = f"{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{{meta}}}, spec: {{{', '.join(spec)}}}}}"
        (policy,) = parse(document, "f")
        assert isinstance(policy, PeerAuthentication)
        policies.append(policy)
    return policies


def modes(*texts: str, demands: Iterable[Demand] = ()) -> MutualTlsModes:
    return MutualTlsModes(policies_of(*texts), ROOT, demands)


def plaintext(found: MutualTlsModes, namespace: str, labels: dict[str, str], port: int = 8080) -> bool:
    """Whether a peer without identity gets in. One with an identity must always."""
    key = found.key_for(namespace, labels)
    policies: list[Authorization] = [policy for policy in found.policies if policy.key == key]
    assert (key is None) == (not policies)
    known, unknown = (evaluate(Connection(who, ip_address("10.0.0.1"), ip_address("10.0.0.2"), port), policies) for who in (SOMEBODY, None))
    assert known.allowed
    assert unknown.allowed or unknown.reason is Reason.MTLS_REQUIRED
    return unknown.allowed


CASES = [
    # (policies, namespace, labels, port, plaintext gets in)
    ([], "shop", WEB, 80, True),
    (["istio-system: STRICT"], "shop", WEB, 80, False),
    (["istio-system: PERMISSIVE"], "shop", WEB, 80, True),
    (["istio-system: STRICT"], "istio-system", WEB, 80, False),
    (["shop: STRICT"], "shop", WEB, 80, False),
    (["shop: STRICT"], "other", WEB, 80, True),
    (["shop: DISABLE"], "shop", WEB, 80, True),
    (["istio-system: STRICT", "shop: PERMISSIVE"], "shop", WEB, 80, True),
    (["istio-system: STRICT", "shop: DISABLE"], "shop", WEB, 80, True),
    (["istio-system: STRICT", "shop: UNSET"], "shop", WEB, 80, False),
    (["istio-system: STRICT", "shop: "], "shop", WEB, 80, False),
    (["istio-system: PERMISSIVE", "shop: STRICT"], "shop", WEB, 80, False),
    (["istio-system: PERMISSIVE", "shop: STRICT"], "other", WEB, 80, True),
    # workloads
    (["shop/web: STRICT"], "shop", WEB, 80, False),
    (["shop/web: STRICT"], "shop", DB, 80, True),
    (["shop/web: STRICT"], "other", WEB, 80, True),
    (["shop: STRICT", "shop/web: PERMISSIVE"], "shop", WEB, 80, True),
    (["shop: STRICT", "shop/web: PERMISSIVE"], "shop", DB, 80, False),
    (["shop: STRICT", "shop/web: DISABLE"], "shop", WEB, 80, True),
    (["shop: STRICT", "shop/web: UNSET"], "shop", WEB, 80, False),
    (["istio-system: STRICT", "shop/web: UNSET"], "shop", WEB, 80, False),
    (["istio-system/web: STRICT"], "shop", WEB, 80, True),
    (["istio-system/web: STRICT"], "istio-system", WEB, 80, False),
    # ports
    (["shop/web: PERMISSIVE, 80=STRICT"], "shop", WEB, 80, False),
    (["shop/web: PERMISSIVE, 80=STRICT"], "shop", WEB, 81, True),
    (["shop/web: STRICT, 80=PERMISSIVE"], "shop", WEB, 80, True),
    (["shop/web: STRICT, 80=PERMISSIVE"], "shop", WEB, 81, False),
    (["shop/web: STRICT, 80=DISABLE"], "shop", WEB, 80, True),
    (["shop/web: STRICT, 80=STRICT"], "shop", WEB, 81, False),
    (["shop/web: STRICT, 80=UNSET"], "shop", WEB, 80, False),
    (["shop/web: PERMISSIVE, 80=UNSET"], "shop", WEB, 80, True),
    (["shop/web: PERMISSIVE, 80=DISABLE"], "shop", WEB, 80, True),
    (["shop: STRICT", "shop/web: UNSET, 80=PERMISSIVE"], "shop", WEB, 80, True),
    (["shop: STRICT", "shop/web: UNSET, 80=PERMISSIVE"], "shop", WEB, 81, False),
    (["shop: PERMISSIVE", "shop/web: UNSET, 80=STRICT"], "shop", WEB, 80, False),
    (["shop: PERMISSIVE", "shop/web: UNSET, 80=STRICT"], "shop", WEB, 81, True),
    (["istio-system: STRICT", "shop: PERMISSIVE", "shop/web: , 80=STRICT, 81=PERMISSIVE"], "shop", WEB, 82, True),
    (["shop/web: STRICT, 80=PERMISSIVE, 81=DISABLE"], "shop", WEB, 81, True),
    (["shop/web: STRICT, 80=PERMISSIVE, 81=DISABLE"], "shop", DB, 81, True),
    # of several in one scope, the oldest
    (["shop: STRICT @2026", "shop: PERMISSIVE @2025"], "shop", WEB, 80, True),
    (["shop: PERMISSIVE @2026", "shop: STRICT @2025"], "shop", WEB, 80, False),
    (["shop/web: STRICT @2026", "shop/web: PERMISSIVE @2025"], "shop", WEB, 80, True),
    (["shop: PERMISSIVE @2026", "shop: STRICT"], "shop", WEB, 80, True),
    (["shop: PERMISSIVE", "shop: STRICT"], "shop", WEB, 80, False),
    (["shop/web: PERMISSIVE", "shop/web: STRICT"], "shop", WEB, 80, False),
]


@pytest.mark.parametrize(
    ("texts", "namespace", "labels", "port", "allowed"),
    CASES,
    ids=[f"{'; '.join(row[0])} → {row[1]}/{row[2]['app']}:{row[3]}" for row in CASES],
)
def test_plaintext(texts: list[str], namespace: str, labels: dict[str, str], port: int, allowed: bool) -> None:
    assert plaintext(modes(*texts), namespace, labels, port) is allowed


def test_strict_is_one_shared_policy_with_istios_name() -> None:
    found = modes("istio-system: STRICT", "shop: STRICT", "shop/web: STRICT, 80=STRICT")
    assert {found.key_for("shop", WEB), found.key_for("other", DB)} == {"istio-system/istio_converted_static_strict"}
    assert [policy.key for policy in found.policies] == ["istio-system/istio_converted_static_strict"]


def test_ports_that_differ_have_a_policy_named_after_their_own() -> None:
    found = modes("shop/web: STRICT, 80=PERMISSIVE")
    assert found.key_for("shop", WEB) == "shop/converted_peer_authentication_p0"


def test_those_without_effect_are_told() -> None:
    found = modes("shop: STRICT @2025", "shop: PERMISSIVE @2026")
    assert [(ignored.name, used.name) for ignored, used in found.ignored] == [("p1", "p0")]


@pytest.mark.parametrize(
    ("demand", "denied"),
    [
        (Demand(None, {}), {("shop", "web"), ("shop", "db"), ("other", "web")}),
        (Demand("shop", {}), {("shop", "web"), ("shop", "db")}),
        (Demand("shop", {"app": "web"}), {("shop", "web")}),
    ],
)
def test_a_refused_one_is_taken_as_strict_over_all_others(demand: Demand, denied: set[tuple[str, str]]) -> None:
    found = modes("istio-system: PERMISSIVE", "shop: PERMISSIVE", "shop/web: PERMISSIVE", demands=[demand])
    places = [("shop", "web"), ("shop", "db"), ("other", "web")]
    assert {place for place in places if not plaintext(found, place[0], {"app": place[1]})} == denied
