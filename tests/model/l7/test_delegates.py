"""Delegation: which pairs of matches come together, and whose settings count."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.model.l7.notes import Problem
from mesh.model.l7.routes import Forward, PathKind, RouteMatch
from mesh.model.l7.translate.delegates import wanted
from mesh.model.l7.translate.virtual_service import http_routes
from mesh.model.manifest import VirtualService
from tests.model.l7.objects import WAYPOINT, made, target, targets

KNOWN = targets(target())


def root(match: list[dict[str, Any]] | None = None, **fields: Any) -> VirtualService:
    rule = {"delegate": {"name": "leaf", "namespace": "team"}, **fields}
    if match is not None:
        rule["match"] = match
    found: VirtualService = made("VirtualService", {"hosts": ["app"], "http": [rule, {"redirect": {"uri": "/rest"}}]}, "root")
    return found


def leaf(*rules: dict[str, Any], **spec: Any) -> VirtualService:
    found: VirtualService = made("VirtualService", {"http": list(rules), **spec}, "leaf", "team")
    return found


def to(**fields: Any) -> dict[str, Any]:
    return {"route": [{"destination": {"host": "app.shop.svc.cluster.local"}}], **fields}


def translated(above: VirtualService, below: VirtualService | None) -> Any:
    delegates = {("team", "leaf"): below} if below is not None else {}
    return http_routes([above], target(), 80, WAYPOINT, KNOWN, delegates)


def match(above: list[dict[str, Any]] | None, below: list[dict[str, Any]] | None) -> list[RouteMatch]:
    """The matches of what the leaf's one rule comes to."""
    rule = to() if below is None else to(match=below)
    return [route.match for route in translated(root(above), leaf(rule)).value if isinstance(route.action, Forward)]


PATHS: list[tuple[dict[str, Any] | None, dict[str, Any] | None, tuple[PathKind, str] | None]] = [
    (None, None, (PathKind.PREFIX, "/")),
    ({"prefix": "/a"}, None, (PathKind.PREFIX, "/a")),
    (None, {"exact": "/a"}, (PathKind.EXACT, "/a")),
    ({"prefix": "/a"}, {"prefix": "/a/b"}, (PathKind.PREFIX, "/a/b")),
    ({"prefix": "/a"}, {"exact": "/a"}, (PathKind.EXACT, "/a")),
    ({"prefix": "/a"}, {"prefix": "/b"}, None),
    ({"prefix": "/a/b"}, {"prefix": "/a"}, None),
    ({"exact": "/a"}, {"exact": "/a"}, (PathKind.EXACT, "/a")),
    ({"exact": "/a"}, {"prefix": "/a"}, None),
    ({"regex": "/a.*"}, None, (PathKind.REGEX, "/a.*")),
    ({"regex": "/a.*"}, {"exact": "/ab"}, None),
    ({"prefix": "/a"}, {"regex": "/a.*"}, None),
]


@pytest.mark.parametrize(("above", "below", "both"), PATHS)
def test_paths(above: dict[str, Any] | None, below: dict[str, Any] | None, both: tuple[PathKind, str] | None) -> None:
    found = match(None if above is None else [{"uri": above}], None if below is None else [{"uri": below}])
    assert [(entry.path.kind, entry.path.value) for entry in found] == ([both] if both is not None else [])


@pytest.mark.parametrize(
    ("above", "below", "agree"),
    [
        ({"headers": {"x-a": {"exact": "1"}}}, {"headers": {"x-b": {"exact": "2"}}}, True),
        ({"headers": {"x-a": {"exact": "1"}}}, {"headers": {"x-a": {"exact": "2"}}}, False),
        ({"headers": {"x-a": {}}}, {"headers": {"x-a": {"exact": "2"}}}, True),
        ({"queryParams": {"q": {"prefix": "a"}}}, {"queryParams": {"q": {"exact": "ab"}}}, True),
        ({"method": {"exact": "GET"}}, {"method": {"exact": "PUT"}}, False),
        ({"port": 80}, {"uri": {"prefix": "/"}}, True),
        ({"port": 80}, {"port": 81}, False),
        ({"uri": {"prefix": "/a"}, "ignoreUriCase": True}, {"uri": {"prefix": "/a/b"}}, False),
        ({"sourceNamespace": "shop"}, {"sourceNamespace": "other"}, False),
        ({"gateways": ["mesh"]}, {"gateways": ["mesh", "other/gw"]}, False),
    ],
)
def test_what_contradicts(above: dict[str, Any], below: dict[str, Any], agree: bool) -> None:
    assert bool(match([above], [below])) is agree


def test_headers_of_both() -> None:
    (found,) = match([{"headers": {"x-a": {"exact": "1"}}}], [{"headers": {"x-b": {"exact": "2"}}}])
    assert [header.name for header in found.headers] == ["x-a", "x-b"]


def test_every_pair_and_order() -> None:
    found = translated(root([{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}}]), leaf(to(match=[{"uri": {"prefix": "/a/1"}}]), to()))
    assert [route.match.path.value for route in found.value] == ["/a/1", "/a", "/b", "/"]


def test_settings() -> None:
    above = root(
        [{"uri": {"prefix": "/a"}}], name="top", timeout="1s", retries={"attempts": 7}, headers={"request": {"set": {"x": "root"}}}
    )
    below = leaf(to(name="low", timeout="2s", headers={"request": {"set": {"y": "leaf"}}}))
    first = translated(above, below).value[0]
    assert first.name == "top-low"
    assert first.request.set == (("y", "leaf"),), "the leaf's as a whole"
    assert (first.action.timeout.total_seconds(), first.action.retry.attempts) == (2, 7)


def test_short_names_are_of_the_leafs_namespace() -> None:
    found = translated(root(), leaf({"route": [{"destination": {"host": "app"}}]}))
    assert found.value[0].action.destinations[0].cluster == "outbound|80||app.team.svc.cluster.local"


@pytest.mark.parametrize(
    ("below", "problem"),
    [
        (None, Problem.MISSING_DELEGATE),
        (made("VirtualService", {"hosts": ["x"], "http": [to()]}, "leaf", "team"), Problem.BAD_DELEGATE),
        (leaf(to(), exportTo=["."]), Problem.BAD_DELEGATE),
        (leaf(to(match=[{"uri": {"prefix": "/elsewhere"}}])), Problem.BAD_DELEGATE),
    ],
)
def test_what_is_left_out(below: VirtualService | None, problem: Problem) -> None:
    found = translated(root([{"uri": {"prefix": "/a"}}]), below)
    assert [note.problem for note in found.notes] == [problem]
    assert [route.match.path.value for route in found.value] == ["/"], "the rules after it still count"


def test_which_are_wanted() -> None:
    assert wanted([root()]) == {("team", "leaf")}
