"""Who calls, by Kubernetes' tokens, while the API server is away: what its published keys prove, and what is kept of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from control.auth import Caller
from control.auth.issuer import KEYS, Issuer, Unproved, expiry
from control.keep import Filling, Keeper
from tests.control.kube.desk import EC, NOW, OTHER, RSA, ZTUNNEL, Desk, as_pod, claims, token, ztunnel
from tests.control.kube.fake import Broken, Page
from tests.control.kube.rig import pod


def away(desk: Desk, text: str, fault: Broken | Page | None = None) -> Caller | None:
    async def test() -> Caller | None:
        await desk.issuer.fetch()
        desk.cluster.fail(fault or Broken(), "create")
        return await desk.who(text)

    return asyncio.run(test())


@pytest.mark.parametrize("fault", [Broken(), Page(503), Page(502, b"<html>")], ids=["broken", "503", "a page"])
def test_a_good_token_of_a_pod_that_was_seen_still_counts(desk: Desk, fault: Broken | Page) -> None:
    """Also while it is only a proxy in front of the API server that says something."""
    assert away(desk, token(), fault) == ZTUNNEL
    assert desk.counts == {"unreachable": 1, "offline": 1}


def test_elliptic_keys_too(desk: Desk) -> None:
    assert away(desk, token(EC, "ec", "ES256")) == ZTUNNEL


def test_without_keys_nobody_is_known(desk: Desk) -> None:
    desk.cluster.fail(Broken(), "create")
    assert asyncio.run(desk.who(token())) is None


BAD: dict[str, Callable[[], str]] = {
    "no token": lambda: "nonsense",
    "another key under a known name": lambda: token(OTHER),
    "an unknown key": lambda: token(OTHER, "other"),
    "no name of a key": lambda: jwt.encode(claims(), RSA, algorithm="RS256"),
    "no signature": lambda: jwt.encode(claims(), None, algorithm="none", headers={"kid": "rsa"}),
    "another algorithm of the key": lambda: token(RSA, "rsa", "RS512"),
    "a public key as a secret": lambda: jwt.encode(claims(), "x" * 64, algorithm="HS256", headers={"kid": "rsa"}),
    "a wrong audience": lambda: token(aud=["vault"]),
    "no audience": lambda: token(aud=[]),
    "a wrong issuer": lambda: token(iss="https://elsewhere.test"),
    "expired": lambda: token(exp=NOW - 61),
    "not yet valid": lambda: token(nbf=NOW + 61),
    "issued later": lambda: token(iat=NOW + 61),
    "no expiry": lambda: token(exp=None),
    "a subject that is another": lambda: token(sub="system:serviceaccount:istio-system:other"),
    "no pod": lambda: token(bound={"pod": None}),
    "a pod without uid": lambda: token(bound={"pod": {"name": "ztunnel-1"}}),
    "another pod of that name": lambda: token(bound={"pod": {"name": "ztunnel-1", "uid": "u-2"}}),
    "a pod that was not seen": lambda: token(bound={"pod": {"name": "ztunnel-2", "uid": "u-2"}}),
    "a pod that was on another node": lambda: token(bound={"node": {"name": "n2"}}),
    "a pod of another account": lambda: token(sub="system:serviceaccount:istio-system:x", bound={"serviceaccount": {"name": "x"}}),
    "claims of a wrong shape": lambda: token(bound={"pod": "ztunnel-1"}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_does_not(desk: Desk, name: str) -> None:
    assert away(desk, BAD[name]()) is None
    assert desk.counts in ({"unreachable": 1, "offline_no": 1}, {"refused": 1})


@pytest.mark.parametrize("name", BAD)
def test_the_keys_prove_no_bad_token(desk: Desk, name: str) -> None:
    async def test() -> None:
        await desk.issuer.fetch()
        with pytest.raises(Unproved):
            desk.issuer.verify(BAD[name](), "istio-ca", desk.pods)

    asyncio.run(test())


@pytest.mark.parametrize(
    "text", [token(exp=NOW - 59), token(nbf=NOW + 59, iat=NOW + 59), token(bound={"node": None})], ids=["late", "early", "no node"]
)
def test_clocks_may_differ_by_a_minute(desk: Desk, text: str) -> None:
    assert away(desk, text) == ZTUNNEL


@pytest.mark.parametrize("seen", [None, "deleted", "finished"])
def test_a_pod_that_is_gone_proves_nothing(desk: Desk, seen: str | None) -> None:
    if seen is None:
        desk.pods.known.clear()
    elif seen == "deleted":
        desk.pods.known["istio-system", "ztunnel-1"] = ztunnel(deletionTimestamp="2026-01-01T00:00:00Z")
    else:
        value = pod("ztunnel-1", namespace="istio-system")
        value["metadata"]["uid"] = "u-1"
        value["spec"]["serviceAccountName"] = "ztunnel"
        value["status"]["phase"] = "Succeeded"
        desk.pods.known["istio-system", "ztunnel-1"] = as_pod(value)
    assert away(desk, token()) is None


def test_a_server_that_is_back_is_asked_again_by_one(desk: Desk) -> None:
    async def test() -> None:
        await desk.issuer.fetch()
        desk.cluster.fail(Broken(), "create")
        await asyncio.gather(*(desk.who(token(jti=str(number))) for number in range(5)))
        asked = desk.asked
        await desk.who(token(jti="x"))
        assert desk.asked == asked, "it is known to be away"
        desk.now = 5.1
        await asyncio.gather(*(desk.who(token(jti=f"y{number}")) for number in range(5)))
        assert desk.asked == asked + 1
        desk.cluster.heal()
        desk.now = 20.0
        desk.cluster.review = lambda token, audiences: {"authenticated": False}
        assert await desk.who(token(jti="z")) is None
        assert await desk.who(token(jti="zz")) is None
        assert desk.asked == asked + 3

    asyncio.run(test())


def test_keys_that_cannot_be_read_do_not_replace_good_ones(desk: Desk) -> None:
    async def test() -> None:
        await desk.issuer.fetch()
        for keys in ({"keys": []}, {"keys": [{"kty": "oct", "kid": "rsa", "k": "eHh4"}]}, {"nothing": 1}, {"keys": [{"kid": "rsa"}]}):
            desk.cluster.pages[KEYS] = keys
            await desk.issuer.fetch()
            assert desk.issuer.verify(token(), "istio-ca", desk.pods).pod == "ztunnel-1"

    asyncio.run(test())


def test_a_key_that_was_taken_away_counts_no_more(desk: Desk) -> None:
    async def test() -> None:
        await desk.issuer.fetch()
        desk.cluster.pages[KEYS]["keys"].pop(0)
        await desk.issuer.fetch()
        with pytest.raises(Unproved):
            desk.issuer.verify(token(), "istio-ca", desk.pods)

    asyncio.run(test())


def test_keys_are_put_anew_where_what_was_kept_is_lost(desk: Desk, tmp_path: Path) -> None:
    async def test() -> None:
        keeper = Keeper(tmp_path / "keep.db")
        await keeper.open()
        book = keeper.book("tokens")
        issuer = Issuer(desk.api, book, lambda: desk.wall)
        await issuer.fetch()
        for _ in range(2):
            assert await keeper.flush()
            assert [origin for origin in book.rows if book.holds(origin)] == ["openid"]
            book.lose()
            assert not book.rows
            book.refill()
            assert not book.asks
        await keeper.close()

    asyncio.run(test())


def test_where_there_are_no_keys_what_was_lost_is_made_good_without(desk: Desk, tmp_path: Path) -> None:
    async def test() -> None:
        keeper = Keeper(tmp_path / "keep.db")
        await keeper.open()
        book = keeper.book("tokens")
        issuer = Issuer(desk.api, book, lambda: desk.wall)
        book.lose()
        book.refill()
        assert await keeper.flush()
        assert book.filling is Filling.NOT
        await issuer.fetch()
        await keeper.close()
        await keeper_again(tmp_path)

    async def keeper_again(where: Path) -> None:
        keeper = Keeper(where / "keep.db")
        await keeper.open()
        kept = await keeper.book("tokens").load()
        assert kept is not None
        assert [row.origin for row in kept.rows] == ["openid"]
        await keeper.close()

    asyncio.run(test())


def test_keys_are_there_in_the_next_life(desk: Desk, tmp_path: Path) -> None:
    async def life(check: Callable[[Issuer], Any]) -> None:
        keeper = Keeper(tmp_path / "keep.db")
        await keeper.open()
        issuer = Issuer(desk.api, keeper.book("tokens"), lambda: desk.wall)
        task = asyncio.create_task(issuer.run())
        while not issuer.known:
            await asyncio.sleep(0.001)
        check(issuer)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await keeper.close()

    async def test() -> None:
        await life(lambda issuer: None)
        desk.cluster.fail(Broken())
        await life(lambda issuer: issuer.verify(token(), "istio-ca", desk.pods))

    asyncio.run(test())


def test_when_a_token_says_that_it_expires() -> None:
    assert expiry(token()) == NOW + 3600
    assert [expiry(text) for text in ("", "a.b.c", "opaque")] == [0.0, 0.0, 0.0]
