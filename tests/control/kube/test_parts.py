"""The small pure parts: waits, rates, lines, kinds, discovery, state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.kube.errors import (
    Behind,
    Busy,
    Conflict,
    Expired,
    Forbidden,
    Garbled,
    Invalid,
    KubeError,
    Missing,
    ServerFailed,
    Unauthorized,
    Unreachable,
    failure,
    read_status,
)
from control.sources.kubernetes.discovery import choose
from control.sources.kubernetes.health import Health, sentence, stale_since
from control.sources.kubernetes.kinds import CORE, KNOWN, Kind, Known, known_kinds, maturity, plural, split
from control.sources.kubernetes.lines import Inbox, Lines
from control.sources.kubernetes.sharing import Labels, Pool
from culvert.cli.crds import NAMES

# Lines


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=10), st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    reader, found = Lines(1000), []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        found += reader.feed(text[start:end])
    assert found == [line for line in lines if line]
    assert reader.rest == 0


def test_a_line_without_an_end_is_given_up() -> None:
    reader = Lines(10)
    reader.feed(b"1234567890")
    with pytest.raises(Garbled):
        reader.feed(b"1")


def test_an_inbox_stops_reading_when_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.sources.kubernetes.lines.WAITING", 10)
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"12345\n"

    async def test() -> None:
        inbox = Inbox(Lines(100))
        task = asyncio.create_task(inbox.fill(chunks()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert read == 3
        taken = []
        while lines := await inbox.take():
            taken += lines
        assert len(taken) == 100
        await task

    asyncio.run(test())


def test_what_was_whole_is_given_before_the_break_is() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one\ntw"
        raise Unreachable("reset")

    async def test() -> None:
        inbox = Inbox(Lines(100))
        await inbox.fill(chunks())
        assert await inbox.take() == [b"one"]
        with pytest.raises(Unreachable):
            await inbox.take()

    asyncio.run(test())


# Kinds


def test_maturity_is_kubernetes_order() -> None:
    mature_first = ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1"]
    assert sorted(set(mature_first), key=maturity, reverse=True) == mature_first


def test_the_parser_says_what_is_ours() -> None:
    assert known_kinds()["security.istio.io", "AuthorizationPolicy"].versions == ("v1", "v1beta1")
    assert ("", "Pod") not in known_kinds()


def test_origins_and_paths() -> None:
    kind = Kind("networking.istio.io", "v1", "virtualservices", "VirtualService", "VirtualService")
    assert kind.origin("shop", "cart") == "virtualservices.networking.istio.io/shop/cart"
    assert kind.path() == "/apis/networking.istio.io/v1/virtualservices"
    assert kind.path("shop", "cart", "status") == "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/cart/status"
    assert split(kind.origin("shop", "cart")) == (kind.resource, "shop", "cart")
    assert split(CORE[0].origin("", "shop")) == ("namespaces", "", "shop")
    assert CORE[0].path("", "shop") == "/api/v1/namespaces/shop"


def test_kinds_are_called_as_their_definitions_call_them() -> None:
    assert {(group, kind): plural(kind) for group, kind in KNOWN} == {each: NAMES[each].plural for each in KNOWN}


# Discovery


def document(*versions: tuple[str, str, str, tuple[str, ...]], group: str = "gateway.networking.k8s.io") -> bytes:
    """(version, plural, kind, verbs) of one group."""
    listed = [
        {"version": version, "resources": [{"resource": plural, "responseKind": {"kind": kind}, "verbs": list(verbs)}]}
        for version, plural, kind, verbs in versions
    ]
    return json.dumps({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": group}, "versions": listed}]}).encode()


BOTH = ("list", "watch")
ROUTES = {("gateway.networking.k8s.io", "HTTPRoute"): Known("HTTPRoute", ("v1", "v1beta1"))}


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ([("v1beta1", "httproutes", "HTTPRoute", BOTH), ("v1", "httproutes", "HTTPRoute", BOTH)], {"httproutes": "v1"}),
        ([("v2", "httproutes", "HTTPRoute", BOTH), ("v1beta1", "httproutes", "HTTPRoute", BOTH)], {"httproutes": "v1beta1"}),
        ([("v2", "httproutes", "HTTPRoute", BOTH)], {}),
        ([("v1", "httproutes", "HTTPRoute", ("list",))], {}),
        ([("v1", "gateways", "Gateway", BOTH)], {}),
        ([], {}),
    ],
)
def test_the_best_version_that_is_known_is_chosen(versions: list[tuple[str, str, str, tuple[str, ...]]], chosen: dict[str, str]) -> None:
    found = choose(document(*versions), ROUTES)
    assert {kind.plural: kind.version for kind in found.values()} == chosen


@pytest.mark.parametrize("body", [b"", b"{}", b'{"kind": "APIGroupList", "groups": []}', b'{"kind": "APIGroupDiscoveryList", "items": 3}'])
def test_discovery_that_is_none(body: bytes) -> None:
    with pytest.raises(Garbled):
        choose(body, ROUTES)


# State


def test_a_first_failure_is_no_trouble_unless_a_person_has_to_act() -> None:
    health = Health(100.0)
    health.failed(Unreachable("reset"))
    assert health.error is None
    health.failed(Unreachable("refused"))
    assert (sentence("https://k", [health]), stale_since([health])) == ("the API server https://k cannot be reached: refused", 100.0)
    health.succeeded(200.0)
    assert (sentence("https://k", [health]), stale_since([health])) == ("", None)
    health.failed(Forbidden("needs x"))
    assert "needs x" in sentence("https://k", [health])


def test_what_a_person_has_to_mend_comes_first() -> None:
    one, two, three = Health(3.0), Health(2.0), Health(1.0)
    for _ in range(2):
        one.failed(Unreachable("a"))
        two.failed(Forbidden("z"))
        three.failed(Unreachable("b"))
    assert sentence("s", [one, two, three]) == "API server s: z (and 2 more like it)"
    assert stale_since([one, two, three]) == 1.0


@pytest.mark.parametrize(
    ("code", "reason", "headers", "expected"),
    [
        (401, "", {}, Unauthorized),
        (403, "", {}, Forbidden),
        (404, "", {}, Missing),
        (409, "Conflict", {}, Conflict),
        (410, "Expired", {}, Expired),
        (422, "", {}, Invalid),
        (429, "", {}, Busy),
        (429, "", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, Busy),
        (500, "", {}, ServerFailed),
        (503, "", {"retry-after": "5"}, Busy),
        (503, "", {}, ServerFailed),
        (302, "", {}, Invalid),
    ],
)
def test_what_a_failed_answer_means(code: int, reason: str, headers: dict[str, str], expected: type[KubeError]) -> None:
    body = json.dumps({"kind": "Status", "code": code, "reason": reason, "message": "m"}).encode()
    assert type(failure(read_status(body, code), headers, "list", "pods")) is expected


def test_retry_after_is_bounded_and_said_in_two_places() -> None:
    assert isinstance(error := failure(read_status(b"", 429), {"retry-after": "99999999"}, "list", "pods"), Busy)
    assert error.after == 120.0
    body = b'{"code": 503, "details": {"retryAfterSeconds": 3}}'
    assert isinstance(error := failure(read_status(body, 503), {}, "list", "pods"), Busy)
    assert error.after == 3.0


def test_a_server_that_is_behind_is_told_from_one_that_is_slow() -> None:
    body = b'{"code": 504, "reason": "Timeout", "message": "x", "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}'
    assert isinstance(failure(read_status(body, 504), {}, "watch", "pods"), Behind)
    assert isinstance(failure(read_status(b"<html>gateway", 504), {}, "watch", "pods"), ServerFailed)


# Sharing


def test_equal_maps_are_one() -> None:
    labels = Labels(size=2)
    assert labels.get({"a": "b"}) is labels.get({"a": "b"})
    assert labels.get(None) is labels.get({})


@given(st.lists(st.integers(0, 30), max_size=200))
def test_a_pool_is_bounded_and_gives_what_was_made(keys: list[int]) -> None:
    pool: Pool[int, str] = Pool(5)
    for key in keys:
        assert pool.get(key, str) == str(key)
        assert len(pool) <= 10
