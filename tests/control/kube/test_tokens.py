"""Who calls, by Kubernetes' tokens: what the API server says, how long that counts, and how many are asked about."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from control.auth import Caller, TooManyAsk
from control.auth.kubernetes import AT_ONCE, AT_ONCE_UNPROVED, AWAY, bearer
from tests.control.kube.desk import NOW, OTHER, ZTUNNEL, Desk, as_pod, token, yes
from tests.control.kube.fake import Hang, Status
from tests.control.kube.rig import pod


def test_a_token_that_the_server_knows(desk: Desk) -> None:
    assert asyncio.run(desk.who()) == ZTUNNEL
    call = desk.cluster.seen("create", "tokenreviews.authentication.k8s.io")[0]
    assert call.body["spec"] == {"token": "a-token", "audiences": ["istio-ca"]}


@pytest.mark.parametrize(
    "status",
    [
        {"authenticated": False, "error": "[invalid bearer token]"},
        {"authenticated": True, "audiences": []},
        {"authenticated": True, "audiences": ["https://kubernetes.default.svc"]},
        {"authenticated": True, "audiences": None},
        {"user": None},
        {"user": {"username": "admin"}},
        {"user": {"username": "system:serviceaccount:only"}},
        {"user": {"username": "x:system:serviceaccount:istio-system:ztunnel"}},
        {"user": {"username": "system:serviceaccount::ztunnel"}},
        {},
    ],
)
def test_what_proves_nothing(desk: Desk, status: dict[str, Any]) -> None:
    whole = yes()("", ["istio-ca"])
    desk.cluster.review = lambda token, audiences: {**whole, **status} if status else {}
    assert asyncio.run(desk.who()) is None


@pytest.mark.parametrize(
    ("extra", "caller"),
    [
        ({"pod-name": ["ztunnel-1"], "pod-uid": ["u-1"]}, ZTUNNEL),
        ({"pod-name": ["ztunnel-1"], "pod-uid": ["u-2"]}, Caller("", "istio-system", "ztunnel", "ztunnel-1", "u-2", False)),
        ({}, Caller("", "istio-system", "ztunnel", "", "", False)),
        ({"node-name": ["n1"]}, Caller("n1", "istio-system", "ztunnel", "", "", False)),
        (
            {"pod-name": ["ztunnel-1"], "pod-uid": ["u-1"], "node-name": ["n1", "n2"]},
            ZTUNNEL,
        ),
    ],
)
def test_where_the_token_does_not_name_a_node(desk: Desk, extra: dict[str, list[str]], caller: Caller) -> None:
    desk.cluster.review = yes(extra)
    assert asyncio.run(desk.who()) == caller


def test_only_trusted_accounts_speak_for_others(desk: Desk) -> None:
    whole = yes()("", ["istio-ca"])
    for username, trusted in (("istio-system:ztunnel", True), ("shop:ztunnel", False), ("istio-system:other", False)):
        user = {**whole["user"], "username": f"system:serviceaccount:{username}"}
        desk.cluster.review = lambda token, audiences, user=user: {**whole, "user": user}
        caller = asyncio.run(desk.who(username))
        assert caller is not None
        assert caller.impersonates is trusted


def test_a_yes_counts_for_a_while_and_a_no_for_a_moment(desk: Desk) -> None:
    async def test() -> None:
        for _ in range(3):
            assert await desk.who() == ZTUNNEL
        assert desk.asked == 1
        desk.now = 30.1
        desk.cluster.review = lambda token, audiences: {"authenticated": False}
        for _ in range(3):
            assert await desk.who() is None
        assert desk.asked == 2
        desk.now += 1.6
        desk.cluster.review = yes()
        assert await desk.who() == ZTUNNEL

    asyncio.run(test())


def test_a_yes_never_outlives_the_token(desk: Desk) -> None:
    async def test() -> None:
        text = token(exp=NOW + 5)
        assert await desk.who(text) == ZTUNNEL
        desk.now = 4.9
        assert await desk.who(text) == ZTUNNEL
        assert desk.asked == 1
        desk.now = 5.1
        await desk.who(text)
        assert desk.asked == 2

    asyncio.run(test())


def test_many_who_ask_at_once_are_one_question(desk: Desk) -> None:
    async def test() -> None:
        first = asyncio.create_task(desk.who())
        await asyncio.sleep(0)
        others = [asyncio.create_task(desk.who()) for _ in range(50)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*others) == [ZTUNNEL] * 50
        assert desk.asked == 1

    asyncio.run(test())


def test_of_those_who_wait_there_is_a_bound_and_a_server_that_is_away_is_not_asked_for_each(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds(monkeypatch, 100, 100, 100)
    monkeypatch.setattr("control.auth.kubernetes.PATIENCE", 0.05)

    async def test() -> None:
        await desk.issuer.fetch()
        fault = desk.cluster.fail(Hang(), "create")
        tokens = [token(jti=str(number)) for number in range(100)]
        tasks = [asyncio.create_task(desk.who(text)) for text in tokens]
        while desk.asked < AT_ONCE:
            await asyncio.sleep(0.001)
        assert desk.waiting == 100
        with pytest.raises(TooManyAsk):
            await desk.who("one more")
        assert desk.counts == {"turned_away": 1}
        tasks.append(asyncio.create_task(desk.who(tokens[99])))  # it waits already
        assert await asyncio.gather(*tasks) == [ZTUNNEL] * 101
        assert desk.asked == AT_ONCE
        assert desk.counts == {"turned_away": 1, "unreachable": AT_ONCE, "offline": 100}
        assert desk.waiting == 0
        fault.times = 0
        desk.now = AWAY
        assert await desk.who("one more") == ZTUNNEL

    asyncio.run(test())


def bounds(monkeypatch: pytest.MonkeyPatch, unproved: int, proved: int, tunnels: int) -> None:
    for name, bound in (("MOST_UNPROVED", unproved), ("MOST_PROVED", proved), ("MOST_ASKED", tunnels)):
        monkeypatch.setattr(f"control.auth.kubernetes.{name}", bound)


def test_strangers_leave_room_for_who_is_proved_and_those_for_tunnels(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds(monkeypatch, 40, 42, 44)
    value = pod("web-1")
    value["metadata"]["uid"] = "u-w"
    value["spec"].update({"serviceAccountName": "web", "nodeName": "n1"})
    desk.pods.known["shop", "web-1"] = as_pod(value)
    bound = {"namespace": "shop", "pod": {"name": "web-1", "uid": "u-w"}, "serviceaccount": {"name": "web"}}

    def web(number: int) -> str:
        return token(jti=str(number), sub="system:serviceaccount:shop:web", bound=bound)

    async def test() -> None:
        await desk.issuer.fetch()
        desk.cluster.fail(Hang(), "create")
        tasks = []

        async def ask(text: str) -> None:
            tasks.append(asyncio.create_task(desk.who(text)))
            await asyncio.sleep(0)

        for number in range(40):
            await ask(f"made-up-{number}")
        while desk.asked < AT_ONCE_UNPROVED:
            await asyncio.sleep(0.001)
        with pytest.raises(TooManyAsk):
            await desk.who(token(OTHER))
        for number in range(2):
            await ask(web(number))
        with pytest.raises(TooManyAsk):
            await desk.who(web(2))
        for number in range(2):
            await ask(token(jti=str(number)))
        with pytest.raises(TooManyAsk):
            await desk.who(token(jti="2"))
        assert (desk.waiting, desk.counts) == (44, {"turned_away": 3})
        while desk.asked < AT_ONCE_UNPROVED + 4:  # beside the strangers who wait, not behind them
            await asyncio.sleep(0.001)
        assert desk.asked == AT_ONCE_UNPROVED + 4
        for task in tasks:
            task.cancel()

    asyncio.run(test())


@pytest.mark.parametrize(
    "text",
    [token(aud=["vault"]), token(aud="vault"), token(aud=[]), "e30.e30.x", token(OTHER, "other", exp=NOW - 61)],
    ids=["another audience", "one", "none", "nothing", "expired"],
)
def test_what_says_itself_that_it_proves_nothing_is_not_asked_about(desk: Desk, text: str) -> None:
    assert asyncio.run(desk.who(text)) is None
    assert (desk.asked, desk.counts) == (0, {"refused": 1})


DEEP = base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    ["opaque", "a.b.c", f"{DEEP}.{token().split('.')[1]}.x", f"e30.{DEEP}.x", token(aud=7), token(exp="soon"), token(aud="istio-ca")],
    ids=["opaque", "no base64", "a deep head", "a deep body", "a number", "a word", "a good one"],
)
def test_what_says_nothing_that_can_be_read_is_asked_about(desk: Desk, text: str) -> None:
    async def test() -> None:
        await desk.issuer.fetch()
        assert await desk.who(text) == ZTUNNEL

    asyncio.run(test())
    assert desk.asked == 1


def test_a_question_whose_callers_are_all_gone_is_not_asked(desk: Desk) -> None:
    async def test() -> None:
        desk.cluster.fail(Hang(), "create")
        asked = [asyncio.create_task(desk.who(f"asked-{number}")) for number in range(AT_ONCE_UNPROVED)]
        while desk.asked < AT_ONCE_UNPROVED:
            await asyncio.sleep(0.001)
        one, other = (asyncio.create_task(desk.who("waits")) for _ in range(2))
        await asyncio.sleep(0)
        assert desk.waiting == AT_ONCE_UNPROVED + 1
        one.cancel()
        asked[0].cancel()  # which is asked to its end, and remembered
        await asyncio.wait([one, asked[0]])
        assert (desk.waiting, desk.counts) == (AT_ONCE_UNPROVED + 1, {})
        other.cancel()
        await asyncio.wait([other])
        assert (desk.waiting, desk.counts) == (AT_ONCE_UNPROVED, {"abandoned": 1})
        again = asyncio.create_task(desk.who("waits"))
        await asyncio.sleep(0)
        assert desk.waiting == AT_ONCE_UNPROVED + 1
        for task in (again, *asked):
            task.cancel()

    asyncio.run(test())


def test_what_is_remembered_is_bounded_and_made_up_tokens_push_out_no_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.auth.kubernetes.MOST_KNOWN", 5)

    async def test() -> None:
        for number in range(20):
            await desk.who(f"token-{number}")
        desk.cluster.review = lambda token, audiences: {"authenticated": False}
        for number in range(20):
            await desk.who(f"made-up-{number}")
        for table in (desk.reviews._accepted, desk.reviews._others):
            assert len(table) == 5
            assert all(b"token" not in digest for digest in table)
        asked = desk.asked
        for number in range(15, 20):
            assert await desk.who(f"token-{number}") == ZTUNNEL
        assert desk.asked == asked

    asyncio.run(test())


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([("authorization", "Bearer abc")], "abc"),
        ([("authorization", b"bearer  abc ")], "abc"),
        ([("authorization", "Basic abc")], None),
        ([("authorization", "Bearer ")], None),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], None),
        ([("authorization", b"Bearer \xff\xfe")], None),
        ([("authorization", "Bearer a\nb")], None),
        ([("authorization", "Bearer " + "x" * 20_000)], None),
        ([], None),
        (None, None),
    ],
)
def test_bearer_tokens(metadata: Any, expected: str | None) -> None:
    assert bearer(metadata) == expected


@pytest.mark.parametrize("code", [400, 401, 403, 422])
def test_a_server_that_answers_is_not_away(desk: Desk, code: int) -> None:
    async def test() -> None:
        await desk.issuer.fetch()
        desk.cluster.fail(Status(code), "create")
        assert await desk.who(token()) is None
        assert desk.counts == {"failed": 1}

    asyncio.run(test())
