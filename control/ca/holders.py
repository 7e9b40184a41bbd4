"""Who may hold a certificate of ours, and who has said that it renewed: what the steps of a root's change wait for.

A *holder* is a node (its tunnel asks for all of its pods) or a workload that asks for itself. May hold: those that the mesh expects to (the
nodes on which its pods run), those that follow the CA, and those to which this replica has issued what is still alive. Has renewed: all
streams of a holder say that they hold nothing from before. Is not waited for: whose pod is known to be gone (`departed`), and of whom no
other replica says anything else.

Others are asked by what they share anyway, the names of `State.held`. Who finds a holder gone (`doubtful`) replaces its name there by one
with DOUBT, and says it no more. A replica that it follows, or for which it is not gone, puts the name there again within a second or two,
beside the doubt: then it is waited for. So does one of a version before this, of everybody to whom it has issued. A dead one does not, and
nobody follows it. Where the doubt stays alone for OBJECTION, who finds the holder gone by itself does not wait for it; others do. Only a
replica that is cut off from the store is not heard: see docs/decisions/0013.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from control.auth import Caller
from control.ca.departed import GRACE, Departed, There
from control.ca.state import DOUBT, State

MAX_REMEMBERED = 10_000
OBJECTION = 60.0
"""Seconds in which other replicas may say that they know of somebody who is gone: many times what a store takes to tell them that they are
asked, and them to answer (`Store.settle`, `upkeep.TICK`).
"""
MAX_PROBLEM = 500  # characters
SILENT = "it does not follow the CA: it renews at half of its certificate's life"
GONE = "it is gone, and not waited for"


@dataclass(frozen=True, slots=True)
class Report:
    """What a holder says on one stream: of which token, how many certificates it has, how many of them may be from another, what is
    wrong.
    """

    token: str = ""
    certificates: int = 0
    waiting: int = 0
    problem: str = ""

    def confirms(self, token: str) -> bool:
        return self.token == token and not self.waiting and not self.problem


@dataclass(slots=True)
class Follower:
    """One stream. `confirmed_at`: since when it holds nothing from before the last change, Unix seconds; None while it does."""

    holder: str
    peer: str
    report: Report = Report()
    confirmed_at: float | None = None


class Holders:
    """`expected`: the nodes that must have renewed before a change goes on, connected or not. `sources`: see `Departed`. `monotonic` gives
    seconds.
    """

    def __init__(
        self,
        expected: Callable[[], Iterable[str]] = lambda: (),
        sources: Callable[[], There | None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.followers: dict[int, Follower] = {}
        self._expected = expected
        self._departed = Departed(sources)
        self._monotonic = monotonic
        self._alive_until: dict[str, float] = {}
        self._change: tuple[str, float] = ("", 0.0)
        self._unclaimed: dict[str, float] = {}
        """Since when nobody says that they hold anything, of those who are gone for us; monotonic."""
        self._asked: dict[str, float] = {}
        """When we asked last, of them too."""
        self._count = 0

    def issued(self, holder: str, not_after: float, now: float) -> None:
        """A certificate that lives until `not_after` was given to `holder`."""
        self._departed.shows(holder)
        if holder not in self._alive_until and len(self._alive_until) >= MAX_REMEMBERED:
            self._alive_until = {name: end for name, end in self._alive_until.items() if end > now}
            if len(self._alive_until) >= MAX_REMEMBERED:
                return  # those that are expected or follow are known without
        self._alive_until[holder] = max(not_after, self._alive_until.get(holder, 0.0))

    def join(self, holder: str, peer: str) -> int:
        self._count += 1
        self._departed.shows(holder)
        self.followers[self._count] = Follower(holder, peer)
        return self._count

    def report(self, number: int, report: Report, token: str, now: float) -> None:
        """`token`: what the CA wants now."""
        follower = self.followers[number]
        follower.report = report
        if not report.confirms(token):
            follower.confirmed_at = None
        elif follower.confirmed_at is None:
            follower.confirmed_at = now

    def leave(self, number: int) -> None:
        del self.followers[number]

    def moved(self, token: str, now: float) -> None:
        """The CA wants another token from now on."""
        for number, follower in self.followers.items():
            self.report(number, follower.report, token, now)

    def confirmed(self) -> set[str]:
        """The holders that follow and have renewed on every stream of theirs."""
        behind = {follower.holder for follower in self.followers.values() if follower.confirmed_at is None}
        return self._following() - behind

    def names(self, now: float) -> set[str]:
        """All who may hold a certificate."""
        return self.known(now).union(self._expected())

    def known(self, now: float) -> set[str]:
        """Those of them of whom this replica knows by itself."""
        alive = {name for name, end in self._alive_until.items() if end > now}
        return alive | self._following()

    def look(self, others: Iterable[str], now: float) -> None:
        """See who is gone. To be called often. `others`: of whom other replicas know, or doubt."""
        self._departed.look(self.names(now).union(name.removesuffix(DOUBT) for name in others), self._monotonic(), self._following())

    def heard(self, state: State) -> None:
        """What other replicas say, as of this state. To be called with each that is news, and before `gone` is asked for it."""
        if self._change != (change := (state.token, state.since)):  # nobody has said anything of the new one
            self._change = change
            self._unclaimed.clear()
            self._asked.clear()
        now, lost = self._monotonic(), self._lost()
        self._unclaimed = {name: self._unclaimed.get(name, now) for name in lost if name not in state.held}
        self._asked = {name: at for name, at in self._asked.items() if name in lost}

    def doubtful(self, state: State) -> set[str]:
        """Of whom to ask the others: who is gone for us and not for all. Once in a while: see `asked`."""
        due = self._monotonic() - GRACE
        return {name for name in self._lost() if name in state.held and self._asked.get(name, due) <= due}

    def asked(self, names: Iterable[str]) -> None:
        """The others are asked of them now."""
        self._asked |= dict.fromkeys(names, self._monotonic())

    def claimed(self, now: float) -> set[str]:
        """Whom others are to wait for, as this replica knows by itself."""
        return self.known(now).difference(self._lost())

    def gone(self) -> dict[str, float]:
        """Who is known to be gone as of the last look, for so many seconds, and to no other replica to be there as of what was heard."""
        now = self._monotonic()
        since = {name: at for name, at in self._unclaimed.items() if now - at >= OBJECTION}
        return {name: seconds for name, seconds in self._lost().items() if name in since}

    def _lost(self) -> dict[str, float]:
        """Who is gone, as far as this replica can tell."""
        following = self._following()
        return {name: seconds for name, seconds in self._departed.gone().items() if name not in following}

    def _following(self) -> set[str]:
        return {follower.holder for follower in self.followers.values()}

    def view(self, now: float) -> list[dict[str, Any]]:
        """For people: one entry per holder and stream, those that do not follow too."""
        shown = [
            {
                "holder": follower.holder,
                "peer": follower.peer,
                "renewed": follower.confirmed_at is not None,
                "renewedAt": follower.confirmed_at,
                "certificates": follower.report.certificates,
                "waiting": follower.report.waiting,
                "problem": follower.report.problem,
                "gone": None,
            }
            for follower in self.followers.values()
        ]
        silent = self.names(now) - self._following()
        gone = self.gone()
        shown += [
            {
                "holder": name,
                "peer": "",
                "renewed": False,
                "renewedAt": None,
                "certificates": None,
                "waiting": None,
                "problem": GONE if name in gone else SILENT,
                "gone": gone.get(name),
            }
            for name in silent
        ]
        return sorted(shown, key=lambda entry: (str(entry["holder"]), str(entry["peer"])))


def holder_of(caller: Caller) -> str:
    """A node where it speaks for its pods, else the workload itself: its pod, or its account where that is not proved. No node's name has a
    slash, and no pod's a colon.
    """
    if caller.impersonates:
        return caller.node
    return f"{caller.namespace}/{caller.pod}" if caller.pod else f"{caller.namespace}/account:{caller.account}"
