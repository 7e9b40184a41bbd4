"""What the API server is answered about objects that somebody wants to store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.admission import Answer, judge, routes
from mesh.io.http import Request, Response
from mesh.model.manifest import Object

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
    answer = judge(asked(gateway), lambda entry: (f"{entry.key} is for nobody",))
    assert answer.allowed
    assert answer.warnings == ("spec.addresses has no effect: its addresses are those of its Service", "Gateway shop/g is for nobody")


def test_warnings_are_few_and_short() -> None:
    def foresight(entry: Object) -> tuple[str, ...]:
        return ("x" * 5000,) * 100

    answer = judge(asked(POLICY), foresight)
    assert len(answer.warnings) <= 12
    assert sum(map(len, answer.warnings)) < 4096


class Counted:
    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def validated(self, kind: str, passed: bool) -> None:
        self.seen.append((kind, passed))


def answered(body: bytes) -> tuple[Response, Counted]:
    counted = Counted()
    response = routes(counted)["POST", "/validate"](Request("POST", "/validate", body=body))
    assert isinstance(response, Response)
    return response, counted


def test_a_review_is_answered_in_kind() -> None:
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked(changed(action="X"))}
    response, counted = answered(json.dumps(review).encode())
    found = json.loads(response.body)
    assert (found["apiVersion"], found["kind"], found["response"]["uid"]) == ("admission.k8s.io/v1", "AdmissionReview", "1")
    assert (found["response"]["allowed"], found["response"]["status"]["code"]) == (False, 422)
    assert counted.seen == [("AuthorizationPolicy", False)]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "1"}}', b"[" * 100_000, b'{"request": {}}'],
)
def test_what_is_no_review_is_an_error(body: bytes) -> None:
    response, counted = answered(body)
    assert response.status == 400
    assert counted.seen == [("unreadable", False)]
