"""Who calls, by Kubernetes' tokens: what the API server says, how long that counts, and what is left while it is away."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control.auth import Caller, TooManyAsk
from control.auth.issuer import CONFIGURATION, KEYS, Issuer, Unproved, expiry
from control.auth.kubernetes import AT_ONCE, AT_ONCE_UNPROVED, AWAY, TokenReviews, bearer
from control.keep import Filling, Keeper
from control.sources.kubernetes import Kind
from control.sources.kubernetes.kinds import CORE_KINDS
from control.sources.kubernetes.read import Reader
from control.sources.kubernetes.wire import head
from mesh.model.manifest import Pod, parse_object
from tests.control.kube.fake import Broken, FakeCluster, Hang, Page, Status
from tests.control.kube.rig import pod

NOW = 1_800_000_000
ISSUER = "https://kubernetes.default.svc"
ZTUNNEL = Caller(node="n1", namespace="istio-system", account="ztunnel", pod="ztunnel-1", pod_uid="u-1", impersonates=True)
RSA, OTHER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())


def as_pod(value: dict[str, Any]) -> Pod:
    raw = json.dumps(value).encode()
    kind: Kind = CORE_KINDS["pods"]
    parsed = Reader(parse_object, 1 << 20).read(kind, head.decode(raw).metadata, raw).parsed
    assert parsed is not None
    (found,) = parsed.objects
    assert isinstance(found, Pod)
    return found


def ztunnel(**metadata: str) -> Pod:
    value = pod("ztunnel-1", namespace="istio-system")
    value["metadata"].update({"uid": "u-1", **metadata})
    value["spec"].update({"serviceAccountName": "ztunnel", "nodeName": "n1"})
    return as_pod(value)


@dataclass
class Pods:
    known: dict[tuple[str, str], Pod] = field(default_factory=lambda: {("istio-system", "ztunnel-1"): ztunnel()})

    def pod(self, namespace: str, name: str) -> Pod | None:
        return self.known.get((namespace, name))


def claims(**changes: Any) -> dict[str, Any]:
    """What a projected token of ztunnel-1 says."""
    bound = {
        "namespace": "istio-system",
        "node": {"name": "n1", "uid": "u-n1"},
        "pod": {"name": "ztunnel-1", "uid": "u-1"},
        "serviceaccount": {"name": "ztunnel", "uid": "u-sa"},
        **changes.pop("bound", {}),
    }
    return {
        "aud": ["istio-ca"],
        "exp": NOW + 3600,
        "iat": NOW,
        "nbf": NOW,
        "iss": ISSUER,
        "sub": "system:serviceaccount:istio-system:ztunnel",
        "kubernetes.io": {name: value for name, value in bound.items() if value is not None},
        **changes,
    }


def token(key: Any = RSA, kid: str = "rsa", algorithm: str = "RS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid})


def meta(text: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "x"), ("authorization", f"Bearer {text}")]


def yes(extra: dict[str, list[str]] | None = None, **changes: Any) -> Callable[[str, list[str]], dict[str, Any]]:
    """A server that knows every token to be of ztunnel-1."""
    known = {"pod-name": ["ztunnel-1"], "pod-uid": ["u-1"], "node-name": ["n1"], "node-uid": ["u-n1"]} if extra is None else extra
    user = {
        "username": "system:serviceaccount:istio-system:ztunnel",
        "extra": {f"authentication.kubernetes.io/{name}": value for name, value in known.items()},
    }
    return lambda _, audiences: {"authenticated": True, "audiences": audiences, "user": user, **changes}


class Desk:
    """An authenticator, a clock and a cluster."""

    def __init__(self, tmp_path: Path) -> None:
        self.cluster = FakeCluster()
        self.cluster.review = yes()
        jwks = [json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key())) | {"kid": "rsa", "alg": "RS256"}]
        jwks.append(json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC.public_key())) | {"kid": "ec", "alg": "ES256"})
        self.cluster.pages = {CONFIGURATION: {"issuer": ISSUER, "jwks_uri": "https://elsewhere.test/"}, KEYS: {"keys": jwks}}
        self.api = self.cluster.api(tmp_path)
        self.pods = Pods()
        self.now, self.wall = 0.0, float(NOW)
        self.counts: dict[str, int] = {}
        self.waiting = 0
        self.issuer = Issuer(self.api)
        self.reviews = TokenReviews(self.api, self.pods, issuer=self.issuer, meter=self, now=lambda: self.now, wall=lambda: self.wall)

    def reviewed(self, result: str) -> None:
        self.counts[result] = self.counts.get(result, 0) + 1

    def asking(self, tokens: int) -> None:
        self.waiting = tokens

    async def who(self, text: str = "a-token") -> Caller | None:
        return await self.reviews.authenticate(meta(text))

    @property
    def asked(self) -> int:
        return len(self.cluster.seen("create", "tokenreviews.authentication.k8s.io"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture(autouse=True)
def _time(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyJWT looks at the clock itself."""

    class Frozen(jwt.api_jwt.datetime):  # type: ignore[misc, name-defined]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(NOW, tz)

    monkeypatch.setattr(jwt.api_jwt, "datetime", Frozen)


# What the API server says


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


# While the API server is away


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
