"""Which policies a pod is under, and what those that are refused, or need a waypoint, mean for whom. Never silently open."""

from __future__ import annotations

import pytest

from control.catalog import KEPT, KEPT_FILE
from control.resolve import Mesh, MeshSettings
from mesh.model.manifest import parse_file
from mesh.model.policy import Connection, Decision, evaluate
from mesh.model.reasons import Reason
from mesh.model.state import MeshState
from tests.control.objects import feed, ip, namespace, peer, pod, policy, resolved, service, told

STRICT = "istio-system/istio_converted_static_strict"
PODS = (
    pod("web", "10.0.0.1", labels="app: web"),
    pod("db", "10.0.0.2", labels="app: db"),
    pod("other", "10.0.0.3", labels="app: web", meta="namespace: other"),
    pod("root", "10.0.0.4", labels="app: web", meta="namespace: istio-system"),
)
ALL = {"web", "db", "other", "root"}


def decisions(found: Mesh) -> dict[str, Decision]:
    """By pod: what a tunnel that was told all this decides about a plaintext peer."""
    state = MeshState()
    for workload in found.workloads.values():
        state.upsert_workload(workload)
    for entry in found.policies.values():
        state.upsert_policy(entry)
    result = {}
    for workload in found.workloads.values():
        policies, missing = state.policies_for(workload)
        assert not missing
        result[workload.name] = evaluate(Connection(None, ip("10.9.9.9"), workload.addresses[0], 80), policies, missing)
    return result


def denied(found: Mesh) -> set[str]:
    return {name for name, decision in decisions(found).items() if not decision.allowed}


DENY, BAD, BAD_SELECTOR = "action: DENY, rules: [{}]", "actoin: DENY", "selector: {app: web}"
WEB = "selector: {matchLabels: {app: web}}"
GATEWAY = "kind: Gateway, group: gateway.networking.k8s.io"

REACH = [
    # (objects beside the pods, pods that are denied)
    ((), set()),
    ((policy("p", DENY),), {"web", "db"}),
    ((policy("p", f"{WEB}, {DENY}"),), {"web"}),
    ((policy("p", f"{WEB}, {DENY}", "other"),), {"other"}),
    ((policy("p", DENY, "istio-system"),), ALL),
    ((policy("p", f"{WEB}, {DENY}", "istio-system"),), {"web", "other", "root"}),
    ((policy("p", ""),), {"web", "db"}),
    ((policy("p", DENY, annotations="istio.io/dry-run: 'true'"),), set()),
    ((policy("p", "action: AUDIT, rules: [{}]"),), set()),
    ((policy("p", f"{WEB}, action: CUSTOM, provider: {{name: x}}, rules: [{{}}]"),), {"web"}),
    ((peer("s", "mtls: {mode: STRICT}"),), {"web", "db"}),
    ((peer("s", "mtls: {mode: STRICT}", "istio-system"),), ALL),
    ((peer("s", f"{WEB}, mtls: {{mode: STRICT}}"),), {"web"}),
    # refused, and never accepted before
    ((policy("p", BAD),), {"web", "db"}),
    ((policy("p", f"{WEB}, {BAD}"),), {"web"}),
    ((policy("p", BAD_SELECTOR),), {"web", "db"}),
    ((policy("p", BAD, "istio-system"),), ALL),
    ((policy("p", f"{WEB}, {BAD}", "istio-system"),), {"web", "other", "root"}),
    ((policy("p", BAD, "'[]'"),), ALL),
    ((policy("p", "rules: [{when: [{key: x.y, values: [z]}]}]"),), {"web", "db"}),
    ((policy("p", BAD, annotations="istio.io/dry-run: 'true'"),), set()),
    (("kind: AuthorizationPolicy\nmetadata: {name: p, namespace: other}\nspec: [",), {"other"}),
    (("kind: AuthorizationPolicy\nmetadata: {name: p, namespace: [",), ALL),
    (("kind: Pod\nmetadata: {name: p, namespace: [",), set()),
    ((policy("p", "rules: [{}]"), policy("p", DENY)), {"web", "db"}),
    ((policy("p", f"{WEB}, rules: [{{}}]"), policy("p", f"{WEB}, rules: [{{}}, {{}}]")), {"web"}),
    ((peer("s", "mtls: {mode: SRICT}"),), {"web", "db"}),
    ((peer("s", f"{WEB}, mtls: {{mode: SRICT}}"), peer("t", "mtls: {mode: PERMISSIVE}")), {"web"}),
    ((peer("s", "mtls: {mode: SRICT}", "istio-system"),), ALL),
    (
        ("{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: r, namespace: other}, spec: {nope: 1}}",),
        {"other"},
    ),
    # for a waypoint that is not there
    ((policy("p", "targetRefs: [{kind: Service, name: front}]"), service("front", "selector: {app: web}")), {"web"}),
    ((policy("p", "targetRefs: [{kind: Service, name: front}]", "other"), service("front", "selector: {app: web}")), set()),
    ((policy("p", "targetRefs: [{kind: Service, name: nope}], rules: [{}]"), service("front", "selector: {app: web}")), set()),
    ((policy("p", "targetRefs: [{kind: Service, name: front}], nope: 1"), service("front", "selector: {app: web}")), {"web"}),
    ((policy("p", f"targetRefs: [{{{GATEWAY}, name: wp}}]"), namespace("shop", "istio.io/use-waypoint: wp")), {"web", "db"}),
    ((policy("p", f"targetRefs: [{{{GATEWAY}, name: wp}}]"), namespace("shop", "istio.io/use-waypoint: none")), set()),
    ((policy("p", f"targetRefs: [{{{GATEWAY}, name: wp}}]"), namespace("other", "istio.io/use-waypoint: wp")), set()),
    (
        (
            policy("p", f"targetRefs: [{{{GATEWAY}, name: wp}}]", "gw"),
            namespace("shop", "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: gw"),
        ),
        {"web", "db"},
    ),
    (
        (
            policy("p", f"targetRef: {{{GATEWAY}, name: wp}}"),
            service("front", "selector: {app: db}", "labels: {istio.io/use-waypoint: wp}"),
        ),
        {"db"},
    ),
    (
        (
            policy("p", "targetRef: {kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}", "istio-system"),
            namespace("other", "istio.io/use-waypoint: wp"),
        ),
        {"other"},
    ),
]


@pytest.mark.parametrize(("texts", "expected"), REACH, ids=[" + ".join(row[0])[-100:] or "nothing" for row in REACH])
def test_whom_a_policy_denies(texts: tuple[str, ...], expected: set[str]) -> None:
    assert denied(resolved(*PODS, *texts)) == expected


def test_reasons_say_why() -> None:
    found = decisions(resolved(PODS[0], peer("s", "mtls: {mode: STRICT}")))
    assert found["web"].reason is Reason.MTLS_REQUIRED
    found = decisions(resolved(PODS[0], policy("p", BAD)))
    assert (found["web"].reason, found["web"].policy) == (Reason.POLICY_UNENFORCEABLE, "shop/p")


def test_copies_of_one_name_each_deny_under_a_name_of_their_own() -> None:
    found = resolved(*PODS, policy("p", f"{WEB}, {BAD}"), policy("p", f"selector: {{matchLabels: {{app: db}}}}, {BAD}"))
    assert set(found.policies) == {STRICT, "shop/p", "shop/p~2"}
    assert denied(found) == {"web", "db"}


CONSEQUENCES = [
    (policy("p", BAD), "all traffic is denied to every pod of namespace shop"),
    (policy("p", f"{WEB}, {BAD}"), "all traffic is denied to the pods of namespace shop with app=web"),
    (policy("p", BAD, "istio-system"), "all traffic is denied to every pod of the whole mesh"),
    (
        policy("p", "targetRefs: [{kind: Service, name: s}], nope: 1"),
        "all traffic is denied to the pods of namespace shop behind Service s",
    ),
    (peer("p", "mtls: {mode: X}"), "taken as STRICT: plaintext is denied to every pod of namespace shop"),
    (policy("p", BAD, annotations="istio.io/dry-run: 'true'"), "it is a dry run and would not be enforced: nothing is denied"),
    ("{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {x: y}}", ""),
    ("a: [", ""),
]


@pytest.mark.parametrize(("text", "sentence"), CONSEQUENCES, ids=[row[1][:60] or row[0][:40] for row in CONSEQUENCES])
def test_what_a_refusal_means_is_said(text: str, sentence: str) -> None:
    ((_, consequence),) = resolved(text).refused()
    assert consequence == sentence


def test_status_says_what_is_not_enforced_as_written() -> None:
    found = resolved(policy("p", "action: AUDIT, rules: [{}]"), policy("q", "rules: [{}]"))
    assert [(status.subject, status.where) for status in told(found)] == [("AuthorizationPolicy shop/p", "0.yaml:1")]


# What an update may do to what was in force.

GOOD, OTHER = policy("p", f"{WEB}, {DENY}"), policy("p", f"{WEB}, action: DENY, rules: [{{to: [{{operation: {{ports: ['1']}}}}]}}]")


def after(*steps: tuple[str, ...]) -> Mesh:
    found = Mesh(MeshSettings())
    for texts in steps:
        feed(found, *texts)
    return found


def kept(found: Mesh) -> list[str]:
    return [sentence for _, sentence in found.refused()]


def test_a_refused_update_leaves_the_last_accepted_version() -> None:
    found = after((GOOD, *PODS), (policy("p", f"{WEB}, {BAD}"), *PODS))
    assert denied(found) == {"web"}
    assert kept(found) == [KEPT]
    assert kept(found)[0] == KEPT
    found = after((OTHER, *PODS), (policy("p", f"{WEB}, {BAD}"), *PODS))
    assert denied(found) == set(), "the accepted one does not deny, and it is the one in force"


def test_a_second_copy_does_not_replace_what_is_in_force() -> None:
    found = after((GOOD, *PODS), (GOOD, *PODS, OTHER))
    assert denied(found) == {"web"}
    assert kept(found) == [KEPT, KEPT]


def test_a_file_that_becomes_unreadable_keeps_what_it_held() -> None:
    found = after((f"{GOOD}\n---\n{PODS[0]}",), ("kind: AuthorizationPolicy\nmetadata: [",))
    assert denied(found) == {"web"}
    assert kept(found) == [KEPT_FILE]
    found = after((GOOD, PODS[0]), ("a: [", PODS[0]), ("", PODS[0]))
    assert denied(found) == set(), "a file that is there, and empty, holds nothing"


def test_what_is_removed_is_gone_and_what_is_mended_is_taken() -> None:
    assert denied(after((GOOD, *PODS), PODS)) == set()
    assert denied(after((policy("p", BAD), *PODS), (GOOD, *PODS))) == {"web"}
    assert denied(after((GOOD, *PODS), (policy("p", BAD), *PODS), (OTHER, *PODS))) == set()


def test_what_an_earlier_life_accepted_stays_in_force_while_what_is_said_now_is_refused() -> None:
    found = Mesh(MeshSettings())
    found.recall(parse_file(GOOD, "p.yaml"))
    feed(found, policy("p", f"{WEB}, {BAD}"), *PODS)
    assert denied(found) == {"web"}
    assert kept(found) == [KEPT]
    feed(found, *PODS)
    assert denied(found) == set(), "it was taken back, and is not remembered"
    feed(found, policy("p", f"{WEB}, {BAD}"), *PODS)
    assert kept(found) != [KEPT]


def test_what_an_earlier_life_accepted_does_not_count_beside_what_is_accepted_now() -> None:
    found = Mesh(MeshSettings())
    found.recall(parse_file(GOOD, "p.yaml"))
    feed(found, OTHER, *PODS)
    assert denied(found) == set()
    assert kept(found) == []


def test_what_was_gone_for_a_moment_has_no_past() -> None:
    found = after((OTHER, *PODS))
    found.put("files", "0.yaml", parse_file("", "0.yaml"))
    feed(found, policy("p", f"{WEB}, {BAD}"), *PODS)
    assert denied(found) == {"web"}, "as if it had been seen to be gone"
    found.put("files", "0.yaml", parse_file("", "0.yaml"))
    feed(found, OTHER, *PODS)
    assert denied(found) == set()


NOWHERE = policy("foo", BAD, "'[]'")
REAL = policy("foo", DENY, "istio-system")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (((REAL, *PODS), (REAL, *PODS, NOWHERE), (REAL, *PODS)), ALL),
        (((NOWHERE, *PODS), (NOWHERE, *PODS, policy("foo", "action: ALLOW, rules: [{}]", "istio-system"))), ALL),
        (((NOWHERE, *PODS, NOWHERE), (NOWHERE, *PODS)), ALL),
        (((NOWHERE, *PODS, NOWHERE), PODS), set()),
    ],
    ids=["it goes, the real one stays", "the real one comes", "one of two goes", "both go"],
)
def test_a_policy_whose_namespace_cannot_be_read_is_no_other(steps: tuple[tuple[str, ...], ...], expected: set[str]) -> None:
    assert denied(after(*steps)) == expected


def test_a_policy_that_we_fail_to_compile_denies_its_namespace_or_with_another_root_the_whole_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("control.resolve.policies.compile_policy", broken)
    for where, expected in (("shop", {"web", "db"}), ("mesh-root", ALL)):
        found = Mesh(MeshSettings(root_namespace="mesh-root"))
        for index, text in enumerate((policy("p", "rules: [{}]", where), *PODS)):
            found.put("files", str(index), parse_file(text, str(index)))
        found.publish(found.settle(found.take()))
        assert denied(found) == expected
        assert [bug[2].__class__ for bug in found.engine.bugs] == [ZeroDivisionError]
