"""AuthorizationPolicies → policies of a chain, and the decision that is the reference for every proxy."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.identity import Identity
from mesh.model.l7.notes import Problem
from mesh.model.l7.policies import (
    ALWAYS,
    ANY_TEXT,
    Action,
    Check,
    Clause,
    Field,
    Match,
    Policy,
    Request,
    Rule,
    Value,
    Verdict,
    at_connect,
    deny_all,
    judge,
    requesters,
)
from mesh.model.l7.texts import TextKind, TextMatch, exact, regex
from mesh.model.l7.translate.authorization import enforced, key_of, path, text
from mesh.model.manifest import AuthorizationPolicy, Key
from mesh.model.manifest.security import DRY_RUN_ANNOTATION
from tests.model.l7.objects import made

DOMAINS = ("cluster.local",)


def policy(rules: list[dict[str, Any]], action: str = "ALLOW", name: str = "one", dry: bool = False) -> AuthorizationPolicy:
    spec: dict[str, Any] = {"action": action, "rules": rules, "targetRefs": [{"kind": "Service", "group": "", "name": "app"}]}
    if action == "CUSTOM":
        spec["provider"] = {"name": "opa"}
    found: AuthorizationPolicy = made("AuthorizationPolicy", spec, name, **({DRY_RUN_ANNOTATION: "true"} if dry else {}))
    return found


def one(rule: dict[str, Any], action: str = "ALLOW", domains: tuple[str, ...] = DOMAINS) -> Rule:
    (found,) = enforced([policy([rule], action)], domains).value.http
    return found.rules[0]


def check(field: Field, *values: Value, not_values: tuple[Value, ...] = (), key: tuple[str, ...] = ()) -> Rule:
    return Rule((Clause((Match((Check(field, values, not_values, key),)),)),))


def source(**fields: Any) -> dict[str, Any]:
    return {"from": [{"source": fields}]}


def operation(**fields: Any) -> dict[str, Any]:
    return {"to": [{"operation": fields}]}


def when(key: str, *values: str) -> dict[str, Any]:
    return {"when": [{"key": key, "values": list(values)}]}


NET = ip_network("10.0.0.0/8")
CHECKS: list[tuple[dict[str, Any], Rule]] = [
    ({}, ALWAYS),
    (source(principals=["cluster.local/ns/a/sa/b"]), check(Field.PRINCIPAL, exact("cluster.local/ns/a/sa/b"))),
    (
        source(namespaces=["a*"], notNamespaces=["*b"]),
        check(Field.NAMESPACE, TextMatch(TextKind.PREFIX, "a"), not_values=(TextMatch(TextKind.SUFFIX, "b"),)),
    ),
    (source(serviceAccounts=["x", "ns/y"]), check(Field.SERVICE_ACCOUNT, exact("shop/x"), exact("ns/y"))),
    (source(ipBlocks=["10.0.0.0/8"]), check(Field.SOURCE_IP, NET)),
    (source(remoteIpBlocks=["10.0.0.0/8"]), check(Field.REMOTE_IP, NET)),
    (source(requestPrincipals=["*"]), check(Field.REQUEST_PRINCIPAL, ANY_TEXT)),
    (source(trustDomains=["x"]), check(Field.TRUST_DOMAIN, exact("x"))),
    (operation(hosts=["A.b", "*.C"]), check(Field.HOST, exact("a.b"), TextMatch(TextKind.SUFFIX, ".c"))),
    (operation(ports=["80"]), check(Field.DESTINATION_PORT, 80)),
    (operation(methods=["GET"]), check(Field.METHOD, exact("GET"))),
    (operation(paths=["/a", "/b/{*}/c"]), check(Field.PATH, exact("/a"), regex(r"\/b\/[^/]+\/c"))),
    (when("request.headers[X-A]", "1"), check(Field.HEADER, exact("1"), key=("x-a",))),
    (when("request.auth.claims[a][b]", "1"), check(Field.CLAIM, exact("1"), key=("a", "b"))),
    (when("request.auth.audiences", "1"), check(Field.CLAIM, exact("1"), key=("aud",))),
    (when("request.auth.presenter", "1"), check(Field.CLAIM, exact("1"), key=("azp",))),
    (when("source.serviceAccount", "x"), check(Field.SERVICE_ACCOUNT, exact("shop/x"))),
    (when("destination.port", "80"), check(Field.DESTINATION_PORT, 80)),
    (when("connection.sni", "a"), check(Field.SNI, exact("a"))),
    (
        when("experimental.envoy.filters.x.y[k]", "v"),
        check(Field.METADATA, exact("v"), key=("envoy.filters.x.y", "k")),
    ),
]


@pytest.mark.parametrize(("written", "rule"), CHECKS, ids=[str(case[0])[:60] for case in CHECKS])
def test_rule(written: dict[str, Any], rule: Rule) -> None:
    assert one(written) == rule


def test_clauses() -> None:
    found = one({**source(namespaces=["a"]), **operation(methods=["GET"]), **when("source.ip", "10.0.0.0/8")})
    assert [clause.matches[0].checks[0].field for clause in found.clauses] == [Field.METHOD, Field.NAMESPACE, Field.SOURCE_IP]


@pytest.mark.parametrize(
    ("principal", "found"),
    [
        ("cluster.local/ns/a/sa/b", ["cluster.local/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("old/ns/a/*", ["old/ns/a/", "cluster.local/ns/a/"]),
        ("third/ns/a/sa/b", ["third/ns/a/sa/b"]),
        ("*/sa/b", ["/sa/b"]),
    ],
)
def test_aliases(principal: str, found: list[str]) -> None:
    (made_,) = one(source(principals=[principal]), domains=("cluster.local", "old")).clauses[0].matches[0].checks
    assert [value.value for value in made_.values if isinstance(value, TextMatch)] == found


@pytest.mark.parametrize(
    ("written", "match"),
    [("/a/{*}", regex(r"\/a\/[^/]+")), ("/{**}", regex(r"\/.*")), ("/a*", TextMatch(TextKind.PREFIX, "/a")), ("*", ANY_TEXT)],
)
def test_path(written: str, match: TextMatch) -> None:
    assert path(written) == match


def test_keys() -> None:
    assert key_of("request.auth.principal") == (Field.REQUEST_PRINCIPAL, ())
    assert text("*x") == TextMatch(TextKind.SUFFIX, "x")


# Without HTTP

HALF = {**source(namespaces=["a"]), **operation(methods=["GET"], ports=["80"])}


@pytest.mark.parametrize(
    ("rule", "action", "fields", "problem"),
    [
        (source(namespaces=["a"]), "ALLOW", [Field.NAMESPACE], None),
        (HALF, "ALLOW", None, Problem.ALLOWS_LESS),
        (HALF, "DENY", [Field.DESTINATION_PORT, Field.NAMESPACE], Problem.DENIES_MORE),
        (operation(paths=["/x"]), "DENY", [], Problem.DENIES_MORE),
        ({"to": [{"operation": {"ports": ["80"]}}, {"operation": {"methods": ["GET"]}}]}, "DENY", [], Problem.DENIES_MORE),
        (when("request.headers[a]", "b"), "AUDIT", [], Problem.DENIES_MORE),
    ],
)
def test_without_http(rule: dict[str, Any], action: str, fields: list[Field] | None, problem: Problem | None) -> None:
    """`fields` are what the rule still asks about; None: it is gone."""
    found = enforced([policy([rule], action)], DOMAINS)
    (made_,) = found.value.tcp
    flat = [[check.field for clause in one.clauses for match in clause.matches for check in match.checks] for one in made_.rules]
    assert flat == ([] if fields is None else [fields])
    said = [note.problem for note in found.notes if note.field.startswith("spec.rules")]
    assert said == ([problem] if problem is not None else [])


def test_allow_of_which_nothing_is_left_allows_nothing() -> None:
    (found,) = enforced([policy([operation(methods=["GET"])])], DOMAINS).value.tcp
    assert not judge(REQUEST, [found]).allowed


# Whole policies


def test_kinds_of_policy() -> None:
    found = enforced([policy([{}], "CUSTOM", "c"), policy([{}], "AUDIT", "a"), policy([{}], "DENY", "d", dry=True)], DOMAINS)
    assert [(one.action, one.dry_run) for one in found.value.http] == [(Action.CUSTOM, False), (Action.AUDIT, False), (Action.DENY, True)]
    assert [(note.problem, note.subject.name) for note in found.notes] == [(Problem.DENIES_MORE, "c"), (Problem.NO_EFFECT, "a")]


def test_what_could_not_be_read_denies() -> None:
    found = enforced([], DOMAINS, [Key("AuthorizationPolicy", "shop", "bad")]).value
    assert found.http == found.tcp == (deny_all("bad", "shop"),)
    assert not judge(REQUEST, found.http).allowed


@pytest.mark.parametrize("rule", [source(principals=["x" * 2000]), when("request.headers[a\nb]", "1"), operation(hosts=["y" * 1025])])
def test_what_a_proxy_would_refuse_denies(rule: dict[str, Any]) -> None:
    found = enforced([policy([rule])], DOMAINS)
    assert found.value.http == (deny_all("one", "shop"),)
    assert [note.problem for note in found.notes] == [Problem.DENIES_ALL]


# What is known when somebody asks to be connected

IP = ip_address("10.96.0.1")


@pytest.mark.parametrize(
    ("rule", "action", "left"),
    [
        (operation(ports=["80"]), "DENY", [[]]),
        (operation(ports=["81"]), "DENY", None),
        (operation(notPorts=["80"]), "ALLOW", []),
        (when("destination.ip", "10.96.0.0/16"), "ALLOW", [[]]),
        (when("destination.ip", "10.97.0.0/16"), "ALLOW", []),
        ({**source(namespaces=["a"]), **operation(ports=["80"])}, "DENY", [[Field.NAMESPACE]]),
        (when("connection.sni", "a"), "DENY", None),
        (when("connection.sni", "a"), "ALLOW", [[]]),
        (
            {"to": [{"operation": {"ports": ["81"]}}, {"operation": {"ports": ["80"]}}], **source(namespaces=["a"])},
            "DENY",
            [[Field.NAMESPACE]],
        ),
    ],
)
def test_before_a_byte_has_come(rule: dict[str, Any], action: str, left: list[list[Field]] | None) -> None:
    """`left` is what each rule still asks about; None: there is nothing to judge yet."""
    (made_,) = enforced([policy([rule], action)], DOMAINS).value.tcp
    found = at_connect(made_, IP, 80)
    flat = found and [[check.field for clause in one.clauses for match in clause.matches for check in match.checks] for one in found.rules]
    assert flat == left


def test_dry_runs_and_audits_wait() -> None:
    for made_ in enforced([policy([{}], "DENY", dry=True), policy([{}], "AUDIT")], DOMAINS).value.tcp:
        assert at_connect(made_, IP, 80) is None


# The decision

REQUEST = Request(
    ip_address("10.0.0.1"), ip_address("10.96.0.1"), 80, Identity("cluster.local", "a", "b"), method="GET", path="/x?y", host="H"
)
PLAIN = Request(ip_address("10.0.0.1"), ip_address("10.96.0.1"), 80)


def of(action: Action, *rules: Rule, dry: bool = False) -> Policy:
    return Policy(action.value.lower(), "ns", action, rules, dry)


NEVER = check(Field.DESTINATION_PORT, 81)


@pytest.mark.parametrize(
    ("policies", "verdict"),
    [
        ([], Verdict(True)),
        ([of(Action.ALLOW)], Verdict(False)),
        ([of(Action.ALLOW, NEVER, ALWAYS)], Verdict(True, "ns/allow", 1)),
        ([of(Action.DENY, ALWAYS), of(Action.ALLOW, ALWAYS)], Verdict(False, "ns/deny", 0)),
        ([of(Action.DENY, NEVER)], Verdict(True)),
        ([of(Action.CUSTOM, ALWAYS), of(Action.DENY, ALWAYS)], Verdict(False, "ns/custom", 0)),
        ([of(Action.AUDIT, ALWAYS)], Verdict(True)),
        ([of(Action.DENY, ALWAYS, dry=True), of(Action.ALLOW, NEVER, dry=True)], Verdict(True)),
    ],
)
def test_order(policies: list[Policy], verdict: Verdict) -> None:
    assert judge(REQUEST, policies) == verdict


@pytest.mark.parametrize(
    ("rule", "with_identity", "without"),
    [
        (check(Field.PRINCIPAL, ANY_TEXT), True, False),
        (check(Field.PRINCIPAL, not_values=(ANY_TEXT,)), False, True),
        (check(Field.NAMESPACE, exact("a")), True, False),
        (check(Field.NAMESPACE, not_values=(exact("a"),)), False, True),
        (check(Field.SERVICE_ACCOUNT, exact("a/b")), True, False),
        (check(Field.TRUST_DOMAIN, exact("cluster.local")), True, False),
        (check(Field.PATH, exact("/x")), True, False),
        (check(Field.HOST, exact("h")), True, False),
        (check(Field.METHOD, not_values=(exact("GET"),)), False, True),
        (check(Field.REMOTE_IP, NET), False, False),
        (check(Field.CLAIM, not_values=(ANY_TEXT,), key=("x",)), True, True),
    ],
)
def test_what_is_absent_fails_positives_and_passes_negatives(rule: Rule, with_identity: bool, without: bool) -> None:
    allow = [of(Action.ALLOW, rule)]
    assert (judge(REQUEST, allow).allowed, judge(PLAIN, allow).allowed) == (with_identity, without)


PARTS = st.text("ab/", min_size=1, max_size=4)


@given(PARTS, PARTS, st.text("ab/", min_size=1, max_size=8), st.sampled_from([TextKind.EXACT, TextKind.PREFIX, TextKind.SUFFIX]))
def test_request_principals(issuer: str, subject: str, value: str, kind: TextKind) -> None:
    """Where it keeps out, every reading of `<issuer>/<subject>` counts, and nothing else does; where it lets in, never more than that."""
    wanted = TextMatch(kind, value)

    def holds(wide: bool) -> bool:
        return any(of_issuer.matches(issuer) and of_subject.matches(subject) for of_issuer, of_subject in requesters(wanted, wide))

    assert holds(True) == wanted.matches(f"{issuer}/{subject}")
    assert holds(True) or not holds(False)


def test_a_subject_cannot_pose_as_somebody_of_another_issuer() -> None:
    claims = {"iss": "https://a", "sub": "b/ann"}
    request = Request(ip_address("10.0.0.1"), ip_address("10.96.0.1"), 80, claims=claims)
    rule = check(Field.REQUEST_PRINCIPAL, exact("https://a/b/ann"))
    assert not judge(request, [of(Action.ALLOW, rule)]).allowed
    assert not judge(request, [of(Action.DENY, rule)]).allowed
