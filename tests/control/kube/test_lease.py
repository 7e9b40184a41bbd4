"""Who leads: tables for each decision, and candidates with clocks that differ, against a server that loses answers."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.kube.lease import Election, Read, Record, Timing, Write
from mesh.model.errors import BugError

WALL = datetime(2026, 1, 31, tzinfo=UTC)
LATER = datetime(2026, 2, 1, tzinfo=UTC)
OTHER = Record("other", 15, WALL, WALL, 3, "7")


def written(step: object) -> Record:
    assert isinstance(step, Write)
    return step.record


def test_it_looks_first() -> None:
    assert Election("me").step(0.0, WALL) == Read()


def test_a_lease_that_is_not_there_is_made() -> None:
    election = Election("me")
    election.read(None, 0.0)
    assert written(election.step(0.0, WALL)) == Record("me", 15, WALL, WALL, 0, "")
    assert not election.leading(0.0), "asking is not having"


def test_what_another_holds_is_left_to_it_as_long_as_it_renews() -> None:
    election = Election("me")
    record = OTHER
    for now in (0.0, 10.0, 20.0, 30.0):
        record = replace(record, renewed=WALL.replace(second=int(now)), version=str(now))
        election.read(record, now)
        assert election.step(now, WALL) == Read()
        assert election.step(now + 14.9, WALL) == Read()
    election.read(record, 40.0)
    assert written(election.step(45.0, LATER)) == Record("me", 15, LATER, LATER, 4, "30.0")


def test_a_change_that_is_no_renewal_gives_no_more_time() -> None:
    election = Election("me")
    election.read(OTHER, 0.0)
    election.read(replace(OTHER, version="8"), 14.0)  # somebody put a label on it
    assert isinstance(election.step(15.0, WALL), Write)


def test_what_the_record_says_of_time_is_not_compared_with_ours() -> None:
    election = Election("me")
    election.read(replace(OTHER, renewed=datetime(1999, 1, 1, tzinfo=UTC)), 0.0)
    assert election.step(14.9, WALL) == Read()
    election.read(replace(OTHER, renewed=datetime(2099, 1, 1, tzinfo=UTC)), 100.0)
    assert isinstance(election.step(115.0, WALL), Write)


def test_a_lease_that_was_let_go_is_free_at_once() -> None:
    election = Election("me")
    election.read(replace(OTHER, holder=""), 0.0)
    assert written(election.step(0.0, WALL)).transitions == 4


def lead() -> Election:
    election = Election("me")
    election.read(None, 100.0)
    record = written(election.step(100.0, WALL))
    election.written(replace(record, version="1"), 100.0)
    return election


def test_a_leader_renews_and_leads_for_less_long_than_it_says() -> None:
    election = lead()
    assert election.leading(109.9)
    assert not election.leading(110.0)
    record = written(election.step(102.0, LATER))
    assert record == Record("me", 15, WALL, LATER, 0, "1")
    election.written(replace(record, version="2"), 102.0)
    assert election.leading(111.9)


def test_a_renewal_whose_answer_was_lost_is_found_again() -> None:
    election = lead()
    lost = replace(written(election.step(102.0, LATER)), version="2")
    election.refused()  # the second try meets the first
    assert election.step(104.0, LATER) == Read()
    election.read(lost, 104.0)
    assert election.leading(109.9)
    assert not election.leading(110.0), "a look is no renewal"
    assert written(election.step(104.0, LATER)).version == "2"


def test_a_leader_that_sees_another_one_stops_at_once() -> None:
    election = lead()
    election.refused()
    election.read(OTHER, 103.0)
    assert not election.leading(103.0)


def test_letting_go() -> None:
    election = lead()
    step = election.release(105.0, LATER)
    assert step is not None
    assert step.record == Record("", 1, WALL, LATER, 0, "1")
    election.written(replace(step.record, version="2"), 105.0)
    assert not election.leading(105.0)
    assert election.release(105.0, LATER) is None
    assert Election("me").release(0.0, WALL) is None


def test_when_to_act_again() -> None:
    follower = Election("me")
    assert follower.pause(0.0, 0.0) == 2.0
    assert follower.pause(0.0, 1.0) == pytest.approx(2.4)
    assert lead().pause(103.0, 1.0) == 2.0
    assert lead().pause(109.5, 1.0) == pytest.approx(0.5), "not past the end of our own term"


@pytest.mark.parametrize("times", [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_times_with_which_two_could_lead(times: tuple[float, float, float]) -> None:
    with pytest.raises(BugError):
        Timing(*times)


class Server:
    """One Lease."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self.version = 0

    def write(self, record: Record) -> Record | None:
        if record.version != (self.record.version if self.record is not None else ""):
            return None
        self.version += 1
        self.record = replace(record, version=str(self.version))
        return self.record


Outage = tuple[int, float, float, bool]
"""(candidate, from, for how long, whether requests get through and only answers do not)."""


class World:
    """Candidates whose clocks begin anywhere and run at speeds of their own, and a network that takes its time and has outages."""

    def __init__(self, clocks: list[tuple[float, float]], network: Iterator[tuple[float, float]], outages: Iterable[Outage] = ()) -> None:
        self.server = Server()
        self.elections = [Election(f"c{index}") for index in range(len(clocks))]
        self.terms = 0
        self._clocks = clocks
        self._network = network
        self._outages = list(outages)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.now = 0.0

    def run(self, until: float) -> None:
        for index in range(len(self.elections)):
            self._at(0.0, lambda index=index: self._act(index))
        while self._events and self.now < until:
            self.now, _, event = heapq.heappop(self._events)
            event()
            leaders = [one.identity for index, one in enumerate(self.elections) if one.leading(self._clock(index))]
            assert len(leaders) <= 1, f"{leaders} at {self.now}"

    def _clock(self, index: int) -> float:
        start, speed = self._clocks[index]
        return start + self.now * speed

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event))

    def _act(self, index: int) -> None:
        election, began = self.elections[index], self._clock(index)
        step = election.step(began, WALL.replace(year=2026 + self._count % 1000))
        there, back = next(self._network)
        out = next((outage for outage in self._outages if outage[0] == index and outage[1] <= self.now < outage[1] + outage[2]), None)
        if out is not None and not out[3]:
            self._at(self.now + 5.0, lambda: self._rest(index))
        else:
            self._at(self.now + there, lambda: self._arrive(index, step, began, back, out is not None))

    def _arrive(self, index: int, step: Read | Write, began: float, back: float, lost: bool) -> None:
        answer = self.server.record if isinstance(step, Read) else self.server.write(step.record)
        self._at(self.now + back, (lambda: self._rest(index)) if lost else lambda: self._learn(index, step, began, answer))

    def _learn(self, index: int, step: Read | Write, began: float, answer: Record | None) -> None:
        election = self.elections[index]
        if isinstance(step, Read):
            election.read(answer, self._clock(index))
        elif answer is None:
            election.refused()
        else:
            self.terms += not election.leading(self._clock(index))
            election.written(answer, began)
        self._rest(index)

    def _rest(self, index: int) -> None:
        self._at(self.now + self.elections[index].pause(self._clock(index), 0.5), lambda: self._act(index))


delays = st.floats(0.0, 4.0)
networks = st.lists(st.tuples(delays, delays), min_size=1, max_size=20)
clocks = st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from([0.85, 1.0, 1.15])), min_size=2, max_size=3)
outages = st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 60.0), st.floats(0.0, 60.0), st.booleans()), max_size=6)


@settings(max_examples=300, deadline=None)
@given(clocks, networks, outages)
def test_two_never_lead(clocks: list[tuple[float, float]], network: list[tuple[float, float]], outages: list[Outage]) -> None:
    World(clocks, itertools.cycle(network), outages).run(until=150.0)


@pytest.mark.parametrize("speeds", [(0.85, 1.15), (1.15, 0.85), (1.0, 1.0)])
def test_the_slowest_leader_stops_before_the_quickest_follower_begins(speeds: tuple[float, float]) -> None:
    for tenth in range(0, 200, 3):
        for answers_only in (False, True):
            world = World([(0.0, speeds[0]), (50.0, speeds[1])], itertools.cycle([(0.0, 0.0)]), [(0, 5 + tenth / 10, 60.0, answers_only)])
            world.run(until=60.0)
            assert world.terms == 2


def test_one_leads_where_the_network_is_good() -> None:
    world = World([(0.0, 1.0), (1e6, 1.05), (-5.0, 0.95)], itertools.cycle([(0.01, 0.01)]))
    world.run(until=600.0)
    assert world.terms == 1


def test_a_leader_that_is_cut_off_is_followed() -> None:
    world = World([(0.0, 1.0), (7.0, 1.0)], itertools.cycle([(0.01, 0.01)]))
    world.run(until=10.0)
    leader = next(one for one in world.elections if one.leading(world._clock(world.elections.index(one))))
    leader.step = lambda now, wall: Read()  # type: ignore[method-assign]
    world.run(until=60.0)
    assert world.terms == 2
    assert world.server.record is not None
    assert world.server.record.holder != leader.identity
