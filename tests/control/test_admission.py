"""What the API server is answered about objects that somebody wants to store."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from control.admission import Answer, judge, routes
from mesh.io.http import Request, Response

POLICY = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "p", "namespace": "shop"},
    "spec": {"action": "DENY", "rules": [{}]},
}


def asked(value: Any, operation: str = "CREATE", **changes: Any) -> dict[str, Any]:
    group, _, version = str(value["apiVersion"]).rpartition("/") if isinstance(value, dict) else ("security.istio.io", "", "v1")
    kind = value["kind"] if isinstance(value, dict) else "AuthorizationPolicy"
    return {"uid": "1", "kind": {"group": group, "version": version, "kind": kind}, "operation": operation, "object": value, **changes}


def changed(**spec: Any) -> dict[str, Any]:
    return {**POLICY, "spec": {**POLICY["spec"], **spec}}  # type: ignore[dict-item]


def test_what_the_parser_takes_is_let_in() -> None:
    assert judge(asked(POLICY)) == Answer(True)


REFUSED = [
    (changed(action="DENI"), "spec.action: DENI is not accepted; accepted: one of ALLOW, DENY, AUDIT, CUSTOM"),
    (changed(rules=[]), "spec.rules: an empty list is not accepted; accepted: at least one rule"),
    ({**POLICY, "spec": {"acton": "DENY"}}, "spec.acton: an unknown field is not accepted; accepted: one of the fields"),
    ({**POLICY, "apiVersion": "security.istio.io/v9"}, "apiVersion: security.istio.io/v9 is not accepted"),
]


@pytest.mark.parametrize(("value", "words"), REFUSED, ids=[row[1][:50] for row in REFUSED])
def test_what_it_refuses_is_refused_in_its_words(value: dict[str, Any], words: str) -> None:
    for operation in ("CREATE", "UPDATE"):
        answer = judge(asked(value, operation))
        assert not answer.allowed
        assert words in answer.message


@pytest.mark.parametrize("value", [None, "text", []])
def test_a_review_without_an_object_is_refused(value: Any) -> None:
    assert not judge(asked(POLICY) | {"object": value}).allowed


LET_THROUGH = [
    asked({"apiVersion": "example.com/v1", "kind": "Widget", "nonsense": True}),
    asked({"apiVersion": "example.com/v1", "kind": "AuthorizationPolicy", "nonsense": True}),
    asked(changed(action="DENI"), "DELETE"),
    asked(changed(action="DENI"), "CONNECT"),
    asked(changed(action="DENI"), "UPDATE", subResource="status"),
]


@pytest.mark.parametrize("request_", LET_THROUGH)
def test_what_is_not_ours_to_judge_is_let_through(request_: dict[str, Any]) -> None:
    assert judge(request_).allowed


def test_what_will_have_no_effect_is_a_warning() -> None:
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "g", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "x",
            "addresses": [{"value": "192.0.2.1"}],
            "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}],
        },
    }
    answer = judge(asked(gateway))
    assert answer.allowed
    assert answer.warnings == ("spec.addresses has no effect: its addresses are those of its Service",)


def test_warnings_are_few_and_short() -> None:
    routes = [{"route": [{"destination": {"host": "a"}}], "match": [{"sourceLabels": {"a": "b"}}]} for _ in range(100)]
    service = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "v", "namespace": "shop"},
        "spec": {"hosts": ["a"], "http": routes},
    }
    answer = judge(asked(service))
    assert answer.allowed
    assert 1 < len(answer.warnings) <= 12
    assert sum(map(len, answer.warnings)) < 4096


class Counted:
    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def validated(self, kind: str, passed: bool) -> None:
        self.seen.append((kind, passed))


def answered(body: bytes) -> tuple[Response, Counted]:
    counted = Counted()

    async def answer() -> Response:
        response = routes(counted)["POST", "/validate"](Request("POST", "/validate", body=body))
        return response if isinstance(response, Response) else await response

    return asyncio.run(answer()), counted


def test_a_review_is_answered_in_kind() -> None:
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked(changed(action="X"))}
    response, counted = answered(json.dumps(review).encode())
    found = json.loads(response.body)
    assert (found["apiVersion"], found["kind"], found["response"]["uid"]) == ("admission.k8s.io/v1", "AdmissionReview", "1")
    assert (found["response"]["allowed"], found["response"]["status"]["code"]) == (False, 422)
    assert counted.seen == [("AuthorizationPolicy", False)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"\0" * 100_000,
        b'{"apiVersion": "admission.k8s.io/v1", "request": []}',
        b'{"apiVersion": "admission.k8s.io/v1", "request": {"uid": "1", "kind": ["a"]}}',
        b'{"apiVersion": "admission.k8s.io/v1", "request": {"uid": "1", "object": ' + b"9" * 10_000 + b"}}",
        b'{"apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "1"}}',
        b"[" * 100_000,
        b'{"request": {}}',
    ],
)
def test_what_is_no_review_is_an_error(body: bytes) -> None:
    response, counted = answered(body)
    assert response.status == 400
    assert counted.seen == [("unreadable", False)]


def test_kinds_that_somebody_makes_up_are_counted_as_one() -> None:
    for kind in ("a", "b" * 10_000):
        review = {"apiVersion": "admission.k8s.io/v1", "request": {**asked(None), "kind": {"group": "x", "version": "v1", "kind": kind}}}
        response, counted = answered(json.dumps(review).encode())
        assert json.loads(response.body)["response"]["allowed"]
        assert counted.seen == [("other", True)]


def test_what_is_large_is_judged_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of work, for anybody who can connect."""
    where: list[bool] = []

    def noted(request: dict[str, Any]) -> Any:
        where.append(threading.current_thread() is threading.main_thread())
        return judge(request)

    monkeypatch.setattr("control.admission.judge", noted)
    for rules in (1, 5000):
        large = changed()
        large["spec"]["rules"] = [{"from": [{"source": {"namespaces": ["x"]}}]}] * rules
        response, _ = answered(json.dumps({"apiVersion": "admission.k8s.io/v1", "request": asked(large)}).encode())
        assert response.status == 200
    assert where == [True, False]
