"""Certificates in virtual time: the schedule itself, and the driver over a CA that answers when told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import pytest

from mesh.io.tls import Credentials
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from ztunnel.certificates import Certificates, Schedule, State

A, B = Identity("td", "ns", "a"), Identity("td", "ns", "b")
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
DAY = 86400.0


def certificate(identity: Identity, not_before: float = 0, life: float = DAY, trust: str = "") -> Credentials:
    return Credentials(identity, CONTEXT, CONTEXT, not_before, not_before + life, ("leaf",), ("root",), trust)


def test_one_fetch_for_all_who_want_it() -> None:
    schedule = Schedule()
    assert schedule.want(A, "pod-1", 0)
    assert not schedule.want(A, "pod-2", 0)
    assert schedule.start_due(0) == [A]
    assert schedule.start_due(0) == []
    assert schedule.entries[A].state(0) is State.INITIALIZING
    assert schedule.fetched(A, certificate(A), 0)
    assert schedule.current(A, 1) is not None
    assert schedule.entries[A].state(1) is State.AVAILABLE


def test_renewal_at_half_life_counted_from_the_certificates_own_dates() -> None:
    schedule = Schedule()
    schedule.want(A, "pod", 1000)
    schedule.start_due(1000)
    schedule.fetched(A, certificate(A, not_before=880, life=240), 1000)
    assert schedule.next_due() == 1001  # half is over already, and still we do not spin
    schedule.start_due(1001)
    schedule.fetched(A, certificate(A, not_before=1000), 1002)
    assert schedule.next_due() == 1000 + DAY / 2


def test_failures_double_the_delay_and_the_old_certificate_serves_while_valid() -> None:
    schedule = Schedule()
    schedule.want(A, "pod", 0)
    schedule.start_due(0)
    schedule.fetched(A, certificate(A, life=1000), 0)
    now = 500.0
    delays = []
    for _ in range(10):
        assert schedule.start_due(now) == [A]
        delay = schedule.failed(A, "unavailable", now)
        assert delay is not None
        delays.append(delay)
        assert schedule.next_due() == now + delay
        assert (schedule.current(A, now) is not None) == (now < 1000)
        now += delay
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 150, 150]
    assert schedule.entries[A].state(999) is State.AVAILABLE
    assert schedule.entries[A].state(1000) is State.UNAVAILABLE
    schedule.start_due(now)
    schedule.fetched(A, certificate(A, not_before=now), now)
    schedule.start_due(schedule.next_due() or 0)
    assert schedule.failed(A, "again", now) == 1  # a success starts the delays anew


def test_at_most_eight_at_a_time_and_those_without_a_certificate_first() -> None:
    schedule = Schedule()
    schedule.want(B, "pod", 0)
    schedule.start_due(0)
    schedule.fetched(B, certificate(B), 0)
    others = [Identity("td", "ns", f"other-{number}") for number in range(10)]
    for other in others:
        schedule.want(other, "pod", DAY)
    assert schedule.start_due(DAY) == others[:8]
    assert schedule.next_due() is None
    schedule.failed(others[0], "no", DAY)
    assert schedule.start_due(DAY) == [others[8]]
    for other in others[1:9]:
        schedule.fetched(other, certificate(other, DAY), DAY)
    assert schedule.start_due(DAY + 2) == [others[9], others[0], B]


def test_forgotten_with_the_last_pod_even_in_the_middle_of_a_fetch() -> None:
    schedule = Schedule()
    schedule.want(A, "pod-1", 0)
    schedule.want(A, "pod-2", 0)
    schedule.want(B, "pod-2", 0)
    assert schedule.release("pod-1") == []
    schedule.start_due(0)
    assert schedule.release("pod-2", keep=B) == [A]
    assert not schedule.fetched(A, certificate(A), 0)
    assert schedule.current(A, 0) is None
    assert schedule.failed(A, "late", 0) is None
    assert list(schedule.entries) == [B]


def test_wanted_again_while_the_old_fetch_runs() -> None:
    schedule = Schedule()
    schedule.want(A, "pod-1", 0)
    schedule.start_due(0)
    schedule.release("pod-1")
    schedule.want(A, "pod-2", 0)
    assert schedule.start_due(0) == []  # its answer will do
    assert schedule.fetched(A, certificate(A), 0)


def held_by(schedule: Schedule, *identities: Identity, trust: str, now: float) -> None:
    for identity in identities:
        schedule.want(identity, "pod", now)
    for identity in schedule.start_due(now):
        schedule.fetched(identity, certificate(identity, now, trust=trust), now)


def test_an_announcement_makes_what_is_from_before_due_at_once() -> None:
    schedule = Schedule()
    held_by(schedule, A, B, trust="one", now=0)
    schedule.announce("one", 10)
    assert (schedule.start_due(10), schedule.held()) == ([], (2, 0))
    schedule.announce("two", 20)
    assert schedule.held() == (2, 2)
    assert schedule.start_due(20) == [A, B]
    assert schedule.current(A, 20) is not None  # until there is another
    schedule.fetched(A, certificate(A, 20, trust="two"), 21)
    assert schedule.held() == (2, 1)
    schedule.fetched(B, certificate(B, 20, trust="two"), 21)
    assert schedule.held() == (2, 0)
    assert schedule.next_due() == 20 + DAY / 2


def test_an_answer_from_before_is_used_and_asked_for_again() -> None:
    """Of a replica that does not know of the change yet, or that was on its way when it was announced."""
    schedule = Schedule()
    held_by(schedule, A, trust="one", now=0)
    schedule.announce("two", 10)
    now, waits = 10.0, []
    for _ in range(4):
        assert schedule.start_due(now) == [A]
        assert schedule.fetched(A, certificate(A, now, trust="one"), now)
        assert schedule.entries[A].error == ""
        assert schedule.held() == (1, 1)
        due = schedule.next_due()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits == [1, 2, 4, 8]
    schedule.start_due(now)
    schedule.fetched(A, certificate(A, now, trust="two"), now)
    assert (schedule.held(), schedule.next_due()) == ((1, 0), now + DAY / 2)


def test_what_is_under_way_may_turn_out_to_be_from_before() -> None:
    schedule = Schedule()
    schedule.want(A, "pod", 0)
    schedule.start_due(0)
    schedule.announce("two", 1)
    assert schedule.held() == (0, 1)
    schedule.failed(A, "away", 2)
    assert schedule.held() == (0, 0)


def test_nobody_announces_any_more() -> None:
    schedule = Schedule()
    held_by(schedule, A, trust="one", now=0)
    schedule.announce("two", 10)
    schedule.announce("", 11)
    assert schedule.held() == (1, 0)
    assert schedule.start_due(11) == [A]  # it was due already
    schedule.fetched(A, certificate(A, 11, trust="one"), 11)
    assert schedule.next_due() == 11 + DAY / 2


def test_a_short_life_and_a_stale_answer_do_not_make_it_spin() -> None:
    schedule = Schedule()
    schedule.want(A, "pod", 100)
    schedule.start_due(100)
    schedule.announce("two", 100)
    schedule.fetched(A, certificate(A, not_before=90, life=10.5, trust="one"), 100)
    assert schedule.next_due() == 101


class Ca:
    """Answers each fetch when told, in the order in which they came."""

    def __init__(self) -> None:
        self.asked: list[tuple[Identity, asyncio.Future[Credentials]]] = []

    async def fetch(self, identity: Identity) -> Credentials:
        answer: asyncio.Future[Credentials] = asyncio.get_running_loop().create_future()
        self.asked.append((identity, answer))
        return await answer


def driven(check: Callable[[Certificates, Ca, list[Identity]], Awaitable[None]]) -> None:
    async def main() -> None:
        ca, renewed = Ca(), list[Identity]()
        certificates = Certificates(ca.fetch, renewed.append, clock=lambda: 0.0)
        try:
            await check(certificates, ca, renewed)
        finally:
            await certificates.close()

    asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_those_who_wait_get_the_outcome_of_the_first_fetch() -> None:
    async def check(certificates: Certificates, ca: Ca, renewed: list[Identity]) -> None:
        certificates.want(A, "pod")
        waiting = [asyncio.ensure_future(certificates.obtain(A, 60)) for _ in range(3)]
        await turns()
        assert len(ca.asked) == 1
        ca.asked[0][1].set_result(certificate(A))
        assert [(await each).identity for each in waiting] == [A, A, A]
        assert (await certificates.obtain(A, 0)).identity == A
        assert renewed == []

    driven(check)


@pytest.mark.parametrize(
    ("failure", "detail"),
    [
        (PeerError(Reason.NO_CERTIFICATE, "UNAUTHENTICATED"), "UNAUTHENTICATED"),
        (OSError("token file is gone"), "token file is gone"),
        (certificate(B), "a certificate for spiffe://td/ns/ns/sa/b"),
    ],
)
def test_a_failed_or_wrong_answer_is_no_certificate_and_says_why(failure: BaseException | Credentials, detail: str) -> None:
    async def check(certificates: Certificates, ca: Ca, renewed: list[Identity]) -> None:
        certificates.want(A, "pod")
        waiting = asyncio.ensure_future(certificates.obtain(A, 60))
        await turns()
        answer = ca.asked[0][1]
        if isinstance(failure, Credentials):
            answer.set_result(failure)
        else:
            answer.set_exception(failure)
        with pytest.raises(PeerError, match=detail) as raised:
            await waiting
        assert raised.value.reason is Reason.NO_CERTIFICATE
        with pytest.raises(PeerError, match=detail):  # the next does not wait for the retry
            await certificates.obtain(A, 60)

    driven(check)


def test_patience_ends() -> None:
    async def check(certificates: Certificates, ca: Ca, renewed: list[Identity]) -> None:
        certificates.want(A, "pod")
        with pytest.raises(PeerError):
            await certificates.obtain(A, 0.01)
        with pytest.raises(PeerError, match="no pod of this node"):
            await certificates.obtain(B, 60)

    driven(check)


def test_a_pod_that_goes_wakes_who_waits_for_its_certificate() -> None:
    async def check(certificates: Certificates, ca: Ca, renewed: list[Identity]) -> None:
        certificates.want(A, "pod")
        waiting = asyncio.ensure_future(certificates.obtain(A, 60))
        await turns()
        certificates.release("pod")
        with pytest.raises(PeerError, match="no pod of this node"):
            await waiting

    driven(check)


def test_a_renewal_is_announced() -> None:
    async def main() -> None:
        now = [0.0]
        ca, renewed = Ca(), list[Identity]()
        certificates = Certificates(ca.fetch, renewed.append, clock=lambda: now[0])
        certificates.want(A, "pod")
        await turns()
        first = certificate(A)
        ca.asked[0][1].set_result(first)
        await turns()
        now[0] = DAY / 2
        certificates._advance()  # the timer's call
        await turns()
        assert certificates.current(A) is first  # until the new one is there
        ca.asked[1][1].set_result(certificate(A, DAY / 2))
        await turns()
        assert certificates.current(A) is not first
        assert renewed == [A]
        await certificates.close()

    asyncio.run(main())
