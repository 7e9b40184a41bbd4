"""Who calls, by a Kubernetes service account token: the API server is asked (TokenReview), and what it says counts for a short time.

    authenticator = TokenReviews(api, source, issuer=issuer)
    caller = await authenticator.authenticate(metadata)     # None: nothing is proved, and the call is refused

The token has to be for our audience, so that one that was given to somebody else proves nothing to us. While the server cannot be asked,
tokens are judged by the cluster's published keys (`issuer`): proxies must be able to renew certificates when the API server is
away. A server that answers, with whatever, is not away. What is remembered is a hash of the token, never the token.

Anybody can send made-up tokens, as many as they like. What says itself that it is for somebody else or expired is refused without a
question. The others are asked about in places of which most are for tokens that the published keys prove, and some for the tunnels of nodes
alone; the same keys say who does not wait behind whom. A question whose callers have all gone away is not asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from lightkube.models.authentication_v1 import TokenReviewSpec, TokenReviewStatus
from lightkube.resources.authentication_v1 import TokenReview

from control.auth import TRUSTED, Caller, Metadata, TooManyAsk
from control.auth.issuer import SUBJECT, Issuer, Pods, Unproved, expiry, hopeless
from control.kube.client import Api
from control.kube.errors import Busy, KubeError, ServerFailed, Unreachable
from mesh.io.log import Log

log = Log("tokens")

AUDIENCE = "istio-ca"
RESOURCE = "tokenreviews.authentication.k8s.io"
EXTRA = "authentication.kubernetes.io/"
LONGEST_TOKEN = 16 << 10
"""Bytes."""
GOOD = 30.0
"""Seconds for which a yes counts: how long a deleted pod's token may go on working."""
BAD = 1.5
"""Seconds for which a no counts: a client that tries again and again costs the API server one question in that time."""
MOST_KNOWN = 10_000
"""Of those that were accepted, and as many of the others."""
AT_ONCE, AT_ONCE_UNPROVED = 32, 24
"""Questions that the API server is asked at one time, and those of them that may be about tokens that the published keys do not prove."""
MOST_ASKED, MOST_PROVED, MOST_UNPROVED = 1024, 768, 512
"""Tokens about which it is asked or to be asked: what has one of 16 KiB is 16 MiB. A server that answers in 20 ms is done with them in less
than a second. Whoever comes beside them comes again. Only a node's tunnel comes in beside 768, and only what is proved beside 512.
"""
PATIENCE = 5.0
AWAY = 5.0
"""Seconds after a failure to reach the API server in which it is not asked again."""


class ReviewMeter(Protocol):
    def reviewed(self, result: str) -> None:
        """yes, no, cached, unreachable, failed, turned_away; refused: without a question, by what it says itself; abandoned: its callers
        went away before it was asked about; and offline, offline_no: judged by the published keys.
        """

    def asking(self, tokens: int) -> None:
        """So many are asked about or wait for it."""


class NoReviewMeter:
    def reviewed(self, result: str) -> None: ...

    def asking(self, tokens: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    caller: Caller | None
    until: float


class Standing(Enum):
    """What can be said of a token before the API server is asked."""

    UNPROVED = "nothing"
    PROVED = "the published keys prove it, of a pod that was seen"
    TUNNEL = "and that is a node's tunnel"


@dataclass(eq=False, slots=True)
class Question:
    """`waiting`: callers who want to know. `asked`: it is on its way to the API server, and will be remembered."""

    task: asyncio.Task[Caller | None] | None = None
    waiting: int = 0
    asked: bool = False


class AwayError(Exception):
    """The API server cannot be asked."""


class TokenReviews:
    """An `Authenticator`. `trusted`: accounts, as namespace/name, that may speak for other pods of their node. `now` is monotonic."""

    def __init__(
        self,
        api: Api,
        pods: Pods,
        *,
        issuer: Issuer | None = None,
        audience: str = AUDIENCE,
        trusted: frozenset[str] = TRUSTED,
        meter: ReviewMeter | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._pods = pods
        self._issuer = issuer
        self._audience = audience
        self._trusted = trusted
        self._meter = meter or NoReviewMeter()
        self._now = now
        self._wall = wall
        # Apart: what strangers make up must not push out who is known.
        self._accepted: OrderedDict[bytes, Verdict] = OrderedDict()
        self._others: OrderedDict[bytes, Verdict] = OrderedDict()
        self._asking: dict[bytes, Question] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._slots_unproved = asyncio.Semaphore(AT_ONCE_UNPROVED)
        self._away = False
        self._away_until = float("-inf")
        self._said = ""

    async def authenticate(self, metadata: Metadata) -> Caller | None:
        token = bearer(metadata)
        if token is None:
            return None
        digest = hashlib.sha256(token.encode()).digest()
        for table in (self._accepted, self._others):
            known = table.get(digest)
            if known is not None and self._now() < known.until:
                table.move_to_end(digest)
                self._meter.reviewed("cached")
                return known.caller
        if hopeless(token, self._audience, self._wall()):
            self._meter.reviewed("refused")
            return None
        return await self._answer(self._asking.get(digest) or self._ask(token, digest), digest)

    def _ask(self, token: str, digest: bytes) -> Question:
        standing = self._standing(token)
        most = {Standing.UNPROVED: MOST_UNPROVED, Standing.PROVED: MOST_PROVED, Standing.TUNNEL: MOST_ASKED}[standing]
        if len(self._asking) >= most:
            self._meter.reviewed("turned_away")
            raise TooManyAsk(f"{most} callers wait to be known already")
        question = self._asking[digest] = Question()
        question.task = asyncio.create_task(self._judge(token, digest, question, standing))
        question.task.add_done_callback(lambda _: self._asked(digest, question))
        self._meter.asking(len(self._asking))
        return question

    async def _answer(self, question: Question, digest: bytes) -> Caller | None:
        assert question.task is not None  # `_ask` gives it one
        question.waiting += 1
        try:
            # One caller that goes away must not take the answer from the others who wait for it.
            return await asyncio.shield(question.task)
        finally:
            question.waiting -= 1
            if not question.waiting and not question.asked and not question.task.done():
                self._asked(digest, question)  # at once: who comes now asks anew
                self._meter.reviewed("abandoned")
                question.task.cancel()

    def _asked(self, digest: bytes, question: Question) -> None:
        if self._asking.get(digest) is question:
            del self._asking[digest]
            self._meter.asking(len(self._asking))

    def _standing(self, token: str) -> Standing:
        if self._issuer is None or not self._issuer.known:
            return Standing.UNPROVED
        try:
            claims = self._issuer.verify(token, self._audience, self._pods)
        except Unproved:
            return Standing.UNPROVED
        caller = self._caller(claims.namespace, claims.account, claims.pod, claims.pod_uid, claims.node)
        return Standing.TUNNEL if caller.impersonates else Standing.PROVED

    async def _judge(self, token: str, digest: bytes, question: Question, standing: Standing) -> Caller | None:
        try:
            self._check_away()
            async with self._slots_unproved if standing is Standing.UNPROVED else nullcontext(), self._slots:
                question.asked = True
                caller = await self._review(token)
        except AwayError:
            caller = self._offline(token)
        life = BAD
        if caller is not None:
            expires = expiry(token)
            life = min(GOOD, expires - self._wall()) if expires else GOOD
        for table in (self._accepted, self._others):
            table.pop(digest, None)
        table = self._accepted if caller is not None else self._others
        table[digest] = Verdict(caller, self._now() + life)
        while len(table) > MOST_KNOWN:
            table.popitem(last=False)
        return caller

    async def _review(self, token: str) -> Caller | None:
        """What the API server says. AwayError where it says nothing."""
        self._check_away()  # those before may have found out
        try:
            question = TokenReview(spec=TokenReviewSpec(token=token, audiences=[self._audience]))
            if self._away:
                self._away_until = self._now() + PATIENCE  # one finds out whether it is back, and only that one waits
            review = await self._api.typed("create", RESOURCE, lambda client: client.create(question), PATIENCE)
        except (Unreachable, Busy, ServerFailed) as error:
            self._away, self._away_until = True, self._now() + AWAY
            self._meter.reviewed("unreachable")
            self._say(f"the API server cannot be asked whose tokens are whose: {error}")
            raise AwayError from error
        except KubeError as error:
            # It answers, and does not let us ask. Only a person can mend that, and until then nobody is known.
            self._meter.reviewed("failed")
            self._say(f"callers cannot be known: {error}")
            return None
        self._away, self._away_until = False, float("-inf")
        self._say("")
        caller = self._caller_of(review.status or TokenReviewStatus())
        self._meter.reviewed("yes" if caller is not None else "no")
        return caller

    def _check_away(self) -> None:
        if self._now() < self._away_until:
            raise AwayError

    def _caller_of(self, status: TokenReviewStatus) -> Caller | None:
        # A server that knows no audiences says so by naming none. Its yes is to a token for anybody.
        if not status.authenticated or self._audience not in (status.audiences or ()) or status.user is None:
            log.debug("a token is not accepted", error=status.error or "not for our audience")
            return None
        kind, _, rest = (status.user.username or "").partition(SUBJECT)
        namespace, _, account = rest.partition(":")
        if kind or not namespace or not account:
            log.debug("a token is no service account's", user=status.user.username)
            return None
        extra = {name: values[0] for name, values in (status.user.extra or {}).items() if len(values) == 1}
        pod, uid = extra.get(f"{EXTRA}pod-name", ""), extra.get(f"{EXTRA}pod-uid", "")
        return self._caller(namespace, account, pod, uid, extra.get(f"{EXTRA}node-name", ""))

    def _caller(self, namespace: str, account: str, pod: str, uid: str, node: str) -> Caller:
        if pod and not node:
            seen = self._pods.pod(namespace, pod)
            node = seen.spec.node_name if seen is not None and seen.metadata.uid == uid else ""
        trusted = bool(node and pod) and f"{namespace}/{account}" in self._trusted
        return Caller(node=node, namespace=namespace, account=account, pod=pod, pod_uid=uid, impersonates=trusted)

    def _offline(self, token: str) -> Caller | None:
        if self._issuer is None or not self._issuer.known:
            return None
        try:
            claims = self._issuer.verify(token, self._audience, self._pods)
        except Unproved as error:
            self._meter.reviewed("offline_no")
            log.info("a token is not accepted while the API server is away", reason=str(error))
            return None
        self._meter.reviewed("offline")
        return self._caller(claims.namespace, claims.account, claims.pod, claims.pod_uid, claims.node)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._said:
            log.error(trouble)
        elif self._said and not trouble:
            log.info("the API server can be asked about tokens again")
        self._said = trouble


def bearer(metadata: Metadata) -> str | None:
    """The token of `authorization: Bearer ...`; None where there is none, or more than one, or what no token can be."""
    values = [value for key, value in metadata or () if key == "authorization"]
    if len(values) != 1:
        return None
    text = values[0].decode("latin-1") if isinstance(values[0], bytes) else values[0]
    scheme, _, token = text.partition(" ")
    token = token.strip()
    acceptable = scheme.lower() == "bearer" and 0 < len(token) <= LONGEST_TOKEN and token.isascii() and token.isprintable()
    return token if acceptable else None
