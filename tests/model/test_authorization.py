"""AuthorizationPolicy at L4: a rule of a policy, who connects, and what comes of it. Istio's semantics, one line a case."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from mesh.model.identity import Identity
from mesh.model.manifest import AuthorizationPolicy, parse
from mesh.model.manifest.authorization import Compiled, compile_policy
from mesh.model.policy import Action, Connection, PolicyScope, evaluate
from mesh.model.reasons import Reason

WEB = Identity("cluster.local", "web", "frontend")
JOB = Identity("cluster.local", "batch-eu", "job")
OTHER = Identity("other.org", "web", "frontend")


def compiled(spec: str, *, namespace: str = "shop", annotations: str = "") -> Compiled:
    meta = f"{{name: p, namespace: {namespace}, annotations: {{{annotations}}}}}"
    (policy,) = parse(f"{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {meta}, spec: {spec}}}", "f")
    assert isinstance(policy, AuthorizationPolicy)
    return compile_policy(policy, "istio-system")


def peer(who: Identity | None = WEB, ip: str = "10.1.0.7", port: int = 8080, to: str = "10.2.0.9") -> Connection:
    return Connection(who, ip_address(ip), ip_address(to), port)


def rule(text: str, connection: Connection) -> bool:
    """Whether a rule matches, asked of a DENY with nothing else."""
    result = compiled(f"{{action: DENY, rules: [{text}]}}")
    assert result.policy is not None
    assert result.notes == ()
    return result.policy.matching_rule(connection) is not None


def source(text: str) -> str:
    return f"{{from: [{{source: {text}}}]}}"


PLAIN = peer(None)
RULES = [
    # (rule, connection, matches)
    ("{}", peer(), True),
    ("{}", PLAIN, True),
    # principals
    (source("{principals: [cluster.local/ns/web/sa/frontend]}"), peer(), True),
    (source("{principals: [cluster.local/ns/web/sa/front]}"), peer(), False),
    (source("{principals: [cluster.local/ns/web/sa/frontend]}"), peer(OTHER), False),
    (source("{principals: [a, cluster.local/ns/web/sa/frontend]}"), peer(), True),
    (source("{principals: ['cluster.local/ns/web/*']}"), peer(), True),
    (source("{principals: ['cluster.local/ns/we/*']}"), peer(), False),
    (source("{principals: ['*/sa/frontend']}"), peer(OTHER), True),
    (source("{principals: ['*']}"), peer(), True),
    (source("{principals: ['*']}"), PLAIN, False),
    (source("{notPrincipals: ['*']}"), PLAIN, True),
    (source("{notPrincipals: ['*']}"), peer(), False),
    (source("{notPrincipals: [cluster.local/ns/web/sa/frontend]}"), peer(), False),
    (source("{notPrincipals: [cluster.local/ns/web/sa/frontend]}"), peer(JOB), True),
    (source("{notPrincipals: [cluster.local/ns/web/sa/frontend]}"), PLAIN, True),
    (source("{principals: ['cluster.local/*'], notPrincipals: ['*/sa/job']}"), peer(), True),
    (source("{principals: ['cluster.local/*'], notPrincipals: ['*/sa/job']}"), peer(JOB), False),
    # namespaces
    (source("{namespaces: [web]}"), peer(), True),
    (source("{namespaces: [web]}"), peer(OTHER), True),
    (source("{namespaces: [web]}"), peer(JOB), False),
    (source("{namespaces: [web]}"), PLAIN, False),
    (source("{namespaces: ['batch-*']}"), peer(JOB), True),
    (source("{namespaces: ['*-eu']}"), peer(JOB), True),
    (source("{namespaces: ['*']}"), PLAIN, False),
    (source("{notNamespaces: [web]}"), peer(), False),
    (source("{notNamespaces: [web]}"), PLAIN, True),
    (source("{notNamespaces: ['*']}"), peer(JOB), False),
    # service accounts
    (source("{serviceAccounts: [web/frontend]}"), peer(), True),
    (source("{serviceAccounts: [web/frontend]}"), peer(OTHER), True),
    (source("{serviceAccounts: [frontend]}"), peer(), False),
    (source("{serviceAccounts: [cart]}"), peer(Identity("cluster.local", "shop", "cart")), True),
    (source("{serviceAccounts: [web/frontend]}"), PLAIN, False),
    (source("{notServiceAccounts: [web/frontend]}"), peer(), False),
    (source("{notServiceAccounts: [web/frontend]}"), PLAIN, True),
    # addresses
    (source("{ipBlocks: [10.1.0.7]}"), peer(), True),
    (source("{ipBlocks: [10.1.0.0/16]}"), PLAIN, True),
    (source("{ipBlocks: [10.1.99.99/16]}"), peer(), True),
    (source("{ipBlocks: [10.2.0.0/16]}"), peer(), False),
    (source("{ipBlocks: ['fd00::/8']}"), peer(ip="fd12::1"), True),
    (source("{ipBlocks: ['fd00::/8']}"), peer(), False),
    (source("{ipBlocks: [0.0.0.0/0]}"), peer(ip="fd12::1"), False),
    (source("{notIpBlocks: [10.1.0.0/16]}"), peer(), False),
    (source("{notIpBlocks: [10.1.0.0/16]}"), peer(ip="fd12::1"), True),
    (source("{ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16]}"), peer(ip="10.3.0.1"), True),
    # fields of one source are ANDed, sources ORed
    (source("{namespaces: [web], ipBlocks: [10.9.0.0/16]}"), peer(), False),
    ("{from: [{source: {namespaces: [x]}}, {source: {ipBlocks: [10.1.0.0/16]}}]}", peer(), True),
    ("{from: [{source: {namespaces: [x]}}, {source: {namespaces: [y]}}]}", peer(), False),
    # ports
    ("{to: [{operation: {ports: ['8080']}}]}", peer(), True),
    ("{to: [{operation: {ports: ['80', '8080']}}]}", peer(), True),
    ("{to: [{operation: {ports: ['80']}}]}", peer(), False),
    ("{to: [{operation: {notPorts: ['8080']}}]}", peer(), False),
    ("{to: [{operation: {notPorts: ['80']}}]}", peer(), True),
    ("{to: [{operation: {ports: ['80']}}, {operation: {ports: ['8080']}}]}", peer(), True),
    # from and to and every when
    ("{from: [{source: {namespaces: [web]}}], to: [{operation: {ports: ['8080']}}]}", peer(), True),
    ("{from: [{source: {namespaces: [web]}}], to: [{operation: {ports: ['80']}}]}", peer(), False),
    ("{from: [{source: {namespaces: [x]}}], to: [{operation: {ports: ['8080']}}]}", peer(), False),
    # when
    ("{when: [{key: source.ip, values: [10.1.0.0/16]}]}", peer(), True),
    ("{when: [{key: source.ip, notValues: [10.1.0.0/16]}]}", peer(), False),
    ("{when: [{key: source.namespace, values: ['we*']}]}", peer(), True),
    ("{when: [{key: source.namespace, values: ['we*']}]}", PLAIN, False),
    ("{when: [{key: source.namespace, notValues: [web]}]}", PLAIN, True),
    ("{when: [{key: source.principal, values: ['*/sa/frontend']}]}", peer(), True),
    ("{when: [{key: source.principal, values: ['*']}]}", PLAIN, False),
    ("{when: [{key: source.principal, notValues: ['*']}]}", PLAIN, True),
    ("{when: [{key: source.serviceAccount, values: [web/frontend]}]}", peer(), True),
    ("{when: [{key: source.serviceAccount, notValues: [web/frontend]}]}", peer(), False),
    ("{when: [{key: destination.ip, values: [10.2.0.0/16]}]}", peer(), True),
    ("{when: [{key: destination.ip, values: [10.3.0.0/16]}]}", peer(), False),
    ("{when: [{key: destination.port, values: ['8080']}]}", peer(), True),
    ("{when: [{key: destination.port, notValues: ['8080']}]}", peer(), False),
    ("{when: [{key: destination.port, values: ['8080']}, {key: source.namespace, values: [x]}]}", peer(), False),
    ("{when: [{key: source.ip, values: [10.0.0.0/8], notValues: [10.1.0.7]}]}", peer(), False),
]


@pytest.mark.parametrize(("text", "connection", "matches"), RULES, ids=[f"{row[0]} {row[1].source_identity}"[:90] for row in RULES])
def test_rules(text: str, connection: Connection, matches: bool) -> None:
    assert rule(text, connection) is matches


L7 = [
    # (spec, connection, decision) where part of a policy asks what only a waypoint can judge
    ("{rules: [{to: [{operation: {paths: [/a]}}]}]}", peer(), Reason.POLICY_NO_ALLOW),
    ("{rules: [{to: [{operation: {paths: [/a], ports: ['8080']}}]}]}", peer(), Reason.POLICY_NO_ALLOW),
    ("{rules: [{to: [{operation: {ports: ['8080']}}, {operation: {hosts: [x]}}]}]}", peer(), Reason.POLICY_NO_ALLOW),
    ("{rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ['8080']}}]}]}", peer(), Reason.OK),
    ("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", peer(), Reason.POLICY_NO_ALLOW),
    ("{rules: [{from: [{source: {remoteIpBlocks: [0.0.0.0/0]}}]}]}", peer(), Reason.POLICY_NO_ALLOW),
    ("{rules: [{when: [{key: 'request.headers[x]', values: [y]}]}]}", peer(), Reason.POLICY_NO_ALLOW),
    ("{rules: [{to: [{operation: {notPaths: [/a]}}]}]}", peer(), Reason.POLICY_NO_ALLOW),
    ("{action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}", peer(), Reason.POLICY_DENY),
    ("{action: DENY, rules: [{to: [{operation: {notMethods: [GET]}}]}]}", PLAIN, Reason.POLICY_DENY),
    ("{action: DENY, rules: [{to: [{operation: {paths: [/a], ports: ['8080']}}]}]}", peer(), Reason.POLICY_DENY),
    ("{action: DENY, rules: [{to: [{operation: {paths: [/a], ports: ['80']}}]}]}", peer(), Reason.OK),
    ("{action: DENY, rules: [{to: [{operation: {ports: ['80']}}, {operation: {hosts: [x]}}]}]}", peer(), Reason.POLICY_DENY),
    ("{action: DENY, rules: [{from: [{source: {namespaces: [web]}}], to: [{operation: {paths: [/a]}}]}]}", peer(), Reason.POLICY_DENY),
    ("{action: DENY, rules: [{from: [{source: {namespaces: [web]}}], to: [{operation: {paths: [/a]}}]}]}", peer(JOB), Reason.OK),
    ("{action: DENY, rules: [{from: [{source: {namespaces: [x], requestPrincipals: ['*']}}]}]}", peer(), Reason.OK),
    ("{action: DENY, rules: [{from: [{source: {requestPrincipals: ['*']}}, {source: {namespaces: [x]}}]}]}", peer(), Reason.POLICY_DENY),
    ("{action: DENY, rules: [{when: [{key: connection.sni, values: [a]}]}]}", peer(), Reason.POLICY_DENY),
    (
        "{action: DENY, rules: [{when: [{key: remote.ip, values: [10.0.0.0/8]}, {key: destination.port, values: ['80']}]}]}",
        peer(),
        Reason.OK,
    ),
    ("{action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {ports: ['80']}}]}]}", peer(), Reason.POLICY_UNENFORCEABLE),
    ("{targetRefs: [{kind: Service, name: cart}], rules: [{}]}", peer(), Reason.POLICY_UNENFORCEABLE),
    (
        "{targetRef: {kind: Gateway, group: gateway.networking.k8s.io, name: w}, action: DENY, rules: [{}]}",
        peer(),
        Reason.POLICY_UNENFORCEABLE,
    ),
]


@pytest.mark.parametrize(("spec", "connection", "reason"), L7, ids=[f"{row[0]} {row[1].source_identity}"[:90] for row in L7])
def test_what_only_a_waypoint_can_judge_never_opens_anything_and_is_told(spec: str, connection: Connection, reason: Reason) -> None:
    result = compiled(spec)
    assert result.policy is not None
    assert evaluate(connection, [result.policy]).reason is reason
    assert result.notes


def test_a_rule_that_never_matches_keeps_its_place() -> None:
    policy = compiled("{rules: [{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {ports: ['8080']}}]}]}").policy
    assert policy is not None
    assert evaluate(peer(), [policy]).rule == 1


def test_notes_name_the_field_and_the_effect() -> None:
    (note,) = compiled("{action: DENY, rules: [{to: [{operation: {paths: [/a]}}], when: [{key: remote.ip, values: [192.0.2.1]}]}]}").notes
    assert note == (
        "spec.rules[0].to[0].operation.paths, spec.rules[0].when[0].key remote.ip: judged only by a waypoint, and there is none; "
        "taken as matched, so that this rule denies more"
    )


def test_audit_has_no_effect_and_says_so() -> None:
    result = compiled("{action: AUDIT, rules: [{}]}")
    assert result.policy is None
    assert result.notes == ("AUDIT has no effect: no tunnel writes audit logs",)


@pytest.mark.parametrize(
    ("namespace", "spec", "scope"),
    [
        ("shop", "{}", PolicyScope.NAMESPACE),
        ("shop", "{selector: {}}", PolicyScope.NAMESPACE),
        ("shop", "{selector: {matchLabels: {app: x}}}", PolicyScope.WORKLOAD),
        ("istio-system", "{}", PolicyScope.GLOBAL),
        ("istio-system", "{selector: {matchLabels: {app: x}}}", PolicyScope.WORKLOAD),
    ],
)
def test_scopes(namespace: str, spec: str, scope: PolicyScope) -> None:
    policy = compiled(spec, namespace=namespace).policy
    assert policy is not None
    assert (policy.key, policy.scope) == (f"{namespace}/p", scope)


def test_an_allow_without_rules_allows_nothing_and_one_with_an_empty_rule_everything() -> None:
    for spec, reason in (("{}", Reason.POLICY_NO_ALLOW), ("{rules: []}", Reason.POLICY_NO_ALLOW), ("{rules: [{}]}", Reason.OK)):
        policy = compiled(spec).policy
        assert policy is not None
        assert evaluate(peer(), [policy]).reason is reason


def test_deny_goes_before_allow_and_one_allow_is_enough() -> None:
    deny, allow, no = (
        compiled(spec).policy
        for spec in (
            "{action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}",
            "{rules: [{}]}",
            "{rules: [{from: [{source: {namespaces: [x]}}]}]}",
        )
    )
    assert deny is not None
    assert allow is not None
    assert no is not None
    assert evaluate(peer(port=80), [allow, deny]).reason is Reason.POLICY_DENY
    assert evaluate(peer(), [no, allow, deny]).allowed
    assert evaluate(peer(), [no, deny]).reason is Reason.POLICY_NO_ALLOW
    assert evaluate(peer(), [deny]).allowed


def test_a_dry_run_is_told_and_decides_nothing() -> None:
    policy = compiled("{action: DENY, rules: [{}]}", annotations="istio.io/dry-run: 'true'").policy
    assert policy is not None
    assert policy.dry_run
    assert policy.action is Action.DENY
    decision = evaluate(peer(), [policy])
    assert decision.allowed
    assert decision.dry_run == ("Deny shop/p",)
    result = compiled("{targetRefs: [{kind: Service, name: s}], rules: [{}]}", annotations="istio.io/dry-run: 'true'")
    assert result.policy is None
    assert result.notes
