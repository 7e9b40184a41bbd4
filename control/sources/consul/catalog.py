"""What is known of Consul's catalogue, and what to ask next. Pure: no I/O, times are arguments (`now`, seconds of any clock).

Three blocking queries tell *that* something changed, and a plain read of one service tells what. A query per service would tell both at
once, but a thousand of them are a thousand connections, of which an agent allows one client 200. So:

    list of services      a name is new, or has other tags → read it; a name is gone → removed
                          anything else of the table changed (an instance came, went, moved) → sweep
    checks that fail      one came, went or has another status → read its service, or the services with an instance on its node
    nodes                 the table changed (a node has another address) → sweep

A sweep asks every service for its index only, and reads those whose index is another one. It follows at once where all is quiet, and
takes a bounded share of the time where it is not. What a list shows is read first, so that nothing of it waits for a sweep.

Rules against losing services that are there, or keeping some that are not:
- What Consul says is believed, at once, removals included.
- Unless its history went backwards: servers that lost their data hear of services as agents register them anew. Until the
  grace is over, nothing is removed, no service and no instance; what is said to be different is.
- Nor is anything removed by who has no leader, and a name that is missing from a list of which access rules hid something is asked for.
- After a failure everything is `unsure` until it was read again.
- A service is not asked for by two at a time, and one that changed while it was is read again.
- Reads of one service have a bounded rate, however often it flaps.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from control.pacing import Bucket
from control.sources.consul.cursor import News
from control.sources.consul.tuning import Tuning
from control.sources.consul.wire import Check, Instance


@dataclass(frozen=True, slots=True)
class Task:
    """A question to ask: for a service's instances, or, for `index_only`, whether its index is another one. `number`: no other has it."""

    name: str
    number: int
    index_only: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """An answer beside what it says. `whole`: who answers knows a leader, so that what is missing is gone; `filtered`: unless access rules
    hid something.
    """

    index: int
    news: News = News.CHANGE
    whole: bool = True
    filtered: bool = False


@dataclass(slots=True)
class Service:
    """`instances` None: never read. `listed`: Consul's list has it. `unsure`: what is known may be out of date. `asked`: the number of the
    question that is out, 0 for none; `again`: what comes may be too old already. `later`: it will be asked for, but not yet.
    """

    bucket: Bucket
    tags: tuple[str, ...] = ()
    index: int = 0
    instances: tuple[Instance, ...] | None = None
    listed: bool = True
    unsure: bool = False
    asked: int = 0
    again: bool = False
    later: bool = False


class Catalog:
    """`grace` in seconds, 0 for none. `lags`: any server may answer, and be behind, so that a change is looked at once more."""

    def __init__(self, tuning: Tuning, exclude: frozenset[str] = frozenset(), grace: float = 0.0, lags: bool = False) -> None:
        self.services: dict[str, Service] = {}
        self.hidden: set[str] = set()
        """Services whose instances are there, and access rules keep them from us."""
        self.sweeps = 0
        self._tuning = tuning
        self._exclude = exclude
        self._grace = grace
        self._lags = lags
        self._heard = False  # a list, since this process began
        self._asked = 0
        self._settled_at: float | None = None
        self._unsure = 0
        self._failing: frozenset[Check] = frozenset()
        self._names_on: dict[str, set[str]] = {}
        self._reads: dict[str, None] = {}  # in order
        self._later: list[tuple[float, str]] = []
        self._probes: dict[str, None] = {}
        self._probing = 0
        self._sweep_at: float | None = None
        self._asked_before = 0  # the last question before what the next sweep is for
        self._sweep_begun = self._rest_until = 0.0
        self._seen = self._swept_to = 0  # the greatest index that anybody told of, now and when the last sweep begun

    # What Consul says

    def take_list(self, listed: Mapping[str, tuple[str, ...]], told: Told, now: float) -> list[str]:
        """All services with their tags. The names that are gone."""
        self._hear(told, now)
        for name, tags in listed.items():
            if name in self._exclude:
                continue
            known = self.services.get(name)
            if known is None:
                known = self._add(name, tags)
                self._want(name)
            elif known.tags != tags or not known.listed:
                self._want(name)
            known.tags, known.listed = tags, True
        missing = [name for name in self.services if name not in listed]
        for name in missing:
            self.services[name].listed = False
        self._heard = True
        if not told.whole or self.settling:
            return []
        for name in missing:
            if told.filtered:
                self._want(name)
            else:
                self._forget(name)
        return [] if told.filtered else missing

    def take_failing(self, failing: frozenset[Check], told: Told, now: float) -> None:
        """All checks that do not pass."""
        self._hear(told, now, shown=True)
        for check in failing ^ self._failing:
            for name in (check.service,) if check.service else self._names_on.get(check.node, ()):
                self._want(name)
        self._failing = failing

    def take_nodes(self, told: Told, now: float) -> None:
        """Of nodes it is only told that something changed."""
        self._hear(told, now)

    def doubt(self) -> None:
        """Everything may have changed unseen."""
        for name, known in self.services.items():
            self._set_unsure(known, True)
            self._want(name)

    def take(self, task: Task, instances: tuple[Instance, ...], told: Told) -> bool:
        """The answer to a read: whether there is something else to hand over, or the name is gone (then it is not in `services`)."""
        known, name = self._answered(task), task.name
        if known is None:
            return False
        known.index = told.index
        self._set_unsure(known, known.again)
        self.hidden.discard(name)
        if not instances:
            if told.filtered:
                self.hidden.add(name)
            elif told.whole and not known.listed and not self.settling:
                self._forget(name)
                return True
            return False  # where the last instance went, the list says so too, and is on its way
        before = known.instances or ()
        if self.settling:
            keys = {instance.key for instance in instances}
            instances = tuple(sorted((*instances, *(one for one in before if one.key not in keys)), key=lambda one: one.key))
        if instances == known.instances:
            return False
        self._place(name, before, instances)
        known.instances = instances
        return True

    def take_index(self, task: Task, told: Told, now: float) -> None:
        """The answer to an `index_only` question."""
        known = self._answered(task)
        if known is not None and known.index != told.index:
            self._want(task.name)
        self._probed(now)

    def give_back(self, task: Task, at: float, now: float, *, refused: bool = False) -> None:
        """The question was not answered. Its service is read, not before `at`. `refused`: what Consul says of it is known, and no good."""
        known = self._answered(task)
        if known is not None:
            self._set_unsure(known, known.unsure and not refused)
            self._reads.pop(task.name, None)
            self._postpone(known, task.name, at)
        if task.index_only:
            self._probed(now)

    # What to ask

    def next(self, now: float) -> Task | None:
        """What to ask now. It must come back, by `take`, `take_index` or `give_back`."""
        if not self._heard:
            return None
        self._settle(now)
        while self._later and self._later[0][0] <= now:
            name = heapq.heappop(self._later)[1]
            if name in self.services:
                self.services[name].later = False
                self._want(name)
        while self._reads:
            name = next(iter(self._reads))
            del self._reads[name]
            known = self.services.get(name)
            if known is None:
                continue
            wait = known.bucket.take(now)
            if not wait:
                return self._ask(known, name)
            self._postpone(known, name, now + wait)
        self._begin_sweep(now)
        while self._probes:
            name = next(iter(self._probes))
            del self._probes[name]
            known = self.services.get(name)
            if known is not None and not known.asked:
                return self._ask(known, name, index_only=True)
            self._probed(now)
        return None

    def due(self) -> float | None:
        """When `next` may have something that it has not now; None: not before something is taken."""
        if not self._heard:
            return None
        times = [self._later[0][0]] if self._later else []
        if self._sweep_at is not None and not self._probing:
            times.append(max(self._sweep_at, self._rest_until))
        if self._settled_at is not None:
            times.append(self._settled_at)
        return min(times, default=None)

    # How it is doing

    @property
    def settling(self) -> bool:
        """Nothing is removed now."""
        return self._settled_at is not None

    @property
    def complete(self) -> bool:
        """Everything was read since it was last in doubt. What is hidden does not count, unless all of it is."""
        return not self._unsure and (not self.services or len(self.hidden) < len(self.services))

    def restore(self, name: str, instances: tuple[Instance, ...]) -> None:
        """From before this process began. Not read again before Consul lists it."""
        known = self._add(name, ())
        known.listed, known.instances = False, instances
        self._place(name, (), instances)

    # Inside

    def _hear(self, told: Told, now: float, *, shown: bool = False) -> None:
        """What follows from an answer's index alone. `shown`: what changed, if nothing was missed, is in the answer."""
        if told.news is News.NOTHING:
            return
        if told.news is News.BACKWARDS:
            self._set_back(now)
        elif told.news is News.FIRST:
            self.doubt()
        elif not shown and told.index > self._swept_to:
            # Else it is one change of several tables, and the sweep that began with the first of them sees it.
            self._seen = max(self._seen, told.index)
            self._sweep_from(now)
        if self._lags and self._sweep_at is None:
            self._sweep_from(now + self._tuning.lag)

    def _sweep_from(self, at: float) -> None:
        self._sweep_at = at if self._sweep_at is None else min(self._sweep_at, at)
        self._asked_before = self._asked

    def _set_back(self, now: float) -> None:
        """Consul's history is another one than before."""
        self._seen = self._swept_to = 0
        if self.services and self._grace:
            self._settled_at = now + self._grace
        self.doubt()

    def _add(self, name: str, tags: tuple[str, ...]) -> Service:
        known = self.services[name] = Service(Bucket(self._tuning.service_rate, self._tuning.service_burst), tags)
        self._set_unsure(known, True)
        return known

    def _forget(self, name: str) -> None:
        known = self.services.pop(name)
        self._set_unsure(known, False)
        self.hidden.discard(name)
        self._place(name, known.instances or (), ())

    def _set_unsure(self, known: Service, unsure: bool) -> None:
        self._unsure += unsure - known.unsure
        known.unsure = unsure

    def _want(self, name: str) -> None:
        known = self.services.get(name)
        if known is None or known.later:
            return
        if known.asked:
            known.again = True
        else:
            self._reads[name] = None

    def _postpone(self, known: Service, name: str, at: float) -> None:
        known.later = True
        heapq.heappush(self._later, (at, name))

    def _ask(self, known: Service, name: str, index_only: bool = False) -> Task:
        self._asked += 1
        known.asked, known.again = self._asked, False
        return Task(name, self._asked, index_only)

    def _answered(self, task: Task) -> Service | None:
        """The service that the question was for; None if that is gone, though another of its name may have come."""
        known = self.services.get(task.name)
        if known is None or known.asked != task.number:
            return None
        known.asked = 0
        if known.again:
            self._want(task.name)
        return known

    def _settle(self, now: float) -> None:
        """Where the grace is over, everything is read, and what is not there then is gone."""
        if self._settled_at is not None and now >= self._settled_at:
            self._settled_at = None
            self.doubt()

    def _begin_sweep(self, now: float) -> None:
        if self._sweep_at is None or self._probing or now < max(self._sweep_at, self._rest_until):
            return
        self._sweep_at, self._swept_to = None, self._seen
        for name, known in self.services.items():
            if not known.asked:
                self._probes[name] = None
            elif self._lags or known.asked <= self._asked_before:
                known.again = True  # the answer may be from before the change
        self.sweeps += 1
        self._probing, self._sweep_begun = len(self._probes), now

    def _probed(self, now: float) -> None:
        """One question of a sweep is done with."""
        self._probing -= 1
        if not self._probing:
            share = self._tuning.sweep_share
            self._rest_until = now + (now - self._sweep_begun) * (1.0 - share) / share

    def _place(self, name: str, before: Iterable[Instance], after: Iterable[Instance]) -> None:
        """Note on which nodes the service has instances."""
        nodes = {instance.node for instance in after}
        for node in nodes:
            self._names_on.setdefault(node, set()).add(name)
        for node in {instance.node for instance in before} - nodes:
            names = self._names_on[node]
            names.discard(name)
            if not names:
                del self._names_on[node]
