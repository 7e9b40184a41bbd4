"""Statuses and events against a cluster in memory: written once, by the leader, and never for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from control.kube.conditions import Condition, Wanted
from control.kube.events import Announcer, Subject
from control.kube.status import StatusWriter
from control.pacing import Bucket
from control.sources.kubernetes import Kind, Live
from mesh.model.manifest import Key
from tests.control.kube.fake import Broken, FakeCluster, Object, Status
from tests.control.kube.rig import POLICY, eventually, policy

KEY = Key("AuthorizationPolicy", "shop", "deny")
RESOURCE = f"{POLICY}/status"
ACCEPTED = Condition("Accepted", "True", "Accepted")
REFUSED = Condition("Accepted", "False", "Invalid", "spec.action: NONSENSE")


@dataclass
class Leadership:
    leading: bool = True


class View:
    """What a watch would have brought, at once; or later, with `lag`."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.lag: dict[Key, Live] | None = None

    def kind(self, type_: str) -> Kind | None:
        return Kind("security.istio.io", "v1", "authorizationpolicies", type_, type_)

    def live(self, key: Key) -> Live | None:
        if self.lag is not None:
            return self.lag.get(key)
        try:
            value = self.cluster.get(*key)
        except StopIteration:
            return None
        metadata = value["metadata"]
        return Live(metadata["resourceVersion"], metadata["generation"], metadata["uid"], value.get("status", {}))


@dataclass
class Meter:
    counts: dict[tuple[str, ...], int] = field(default_factory=dict)

    def _count(self, *labels: str) -> None:
        self.counts[labels] = self.counts.get(labels, 0) + 1

    def wrote(self, kind: str) -> None:
        self._count("wrote", kind)

    def failed(self, kind: str, reason: str) -> None:
        self._count("failed", kind, reason)

    def waiting(self, objects: int) -> None: ...

    def said(self, reason: str) -> None:
        self._count("said", reason)

    def dropped(self, why: str) -> None:
        self._count("dropped", why)


class Clock:
    """Monotonic, and as quick as a test likes."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Rig:
    cluster: FakeCluster
    view: View
    writer: StatusWriter
    leadership: Leadership
    meter: Meter
    clock: Clock

    def status(self, name: str = "deny") -> Any:
        return self.cluster.get("AuthorizationPolicy", "shop", name).get("status", {})

    def writes(self) -> int:
        return len(self.cluster.seen("patch", RESOURCE))

    async def rests(self) -> None:
        """Nothing is done, for a while."""
        before = len(self.cluster.calls)
        await asyncio.sleep(0.03)
        assert len(self.cluster.calls) == before

    async def says(self, status: str, name: str = "deny") -> None:
        await eventually(lambda: [one["status"] for one in self.status(name).get("conditions", [])] == [status])


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.serve("security.istio.io", "v1", "AuthorizationPolicy", "authorizationpolicies")
    cluster.put(policy("deny"))
    return cluster


@contextlib.asynccontextmanager
async def writing(cluster: FakeCluster, tmp_path: Path, bucket: Bucket | None = None) -> AsyncIterator[Rig]:
    api = cluster.api(tmp_path)
    view, leadership, meter, clock = View(cluster), Leadership(), Meter(), Clock()
    writer = StatusWriter(api, view, leadership, meter, bucket=bucket or Bucket(1e6, 1000), now=clock)
    task = asyncio.create_task(writer.run())
    try:
        yield Rig(cluster, view, writer, leadership, meter, clock)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()


def test_a_status_is_written_once(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with writing(cluster, tmp_path) as rig:
            for _ in range(3):
                rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
                rig.writer.look(KEY)
            await rig.says("True")
            rig.clock.now += 10
            rig.writer.look(KEY)
            await rig.rests()
            assert rig.writes() == 1
            call = cluster.seen("patch", RESOURCE)[0]
            assert call.body["metadata"]["resourceVersion"] == "101"
            assert call.query["fieldManager"] == "culvert.dev/control"

    asyncio.run(test())


def test_only_the_leader_writes_and_a_new_one_only_what_is_missing(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        for number in range(20):
            cluster.put(policy(f"p{number}"))
        wanted = {Key("AuthorizationPolicy", "shop", f"p{number}"): Wanted(1, (ACCEPTED,)) for number in range(20)}
        async with writing(cluster, tmp_path) as one:
            one.writer.want_all(wanted)
            await eventually(lambda: one.meter.counts.get(("wrote", "AuthorizationPolicy")) == 20)
        async with writing(cluster, tmp_path) as two:
            two.leadership.leading = False
            two.writer.want_all({**wanted, KEY: Wanted(1, (ACCEPTED,))})
            await two.rests()
            two.leadership.leading = True
            two.writer.lead(True)
            await two.says("True")
            await two.rests()
            assert two.writes() == 21
            two.leadership.leading = False
            two.writer.lead(False)
            two.writer.want(KEY, Wanted(1, (REFUSED,)))
            await two.rests()

    asyncio.run(test())


def test_who_was_faster_is_not_overwritten(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with writing(cluster, tmp_path) as rig:
            old = rig.view.live(KEY)
            assert old is not None
            cluster.put({**policy("deny"), "status": {"conditions": [{"type": "Theirs", "status": "True"}]}})
            rig.view.lag = {KEY: old}
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await eventually(lambda: rig.writes() == 1)
            await rig.rests()
            assert [one["type"] for one in rig.status()["conditions"]] == ["Theirs"]
            rig.view.lag = None
            rig.clock.now += 10
            rig.writer.look(KEY)
            await eventually(lambda: [one["type"] for one in rig.status()["conditions"]] == ["Theirs", "Accepted"])

    asyncio.run(test())


def test_a_watch_that_lags_makes_no_second_write(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with writing(cluster, tmp_path) as rig:
            old = rig.view.live(KEY)
            assert old is not None
            rig.view.lag = {KEY: old}
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await rig.says("True")
            for _ in range(3):
                rig.clock.now += 10
                rig.writer.look(KEY)
                await rig.rests()
            rig.writer.want(KEY, Wanted(1, (REFUSED,)))
            rig.clock.now += 10
            rig.writer.look(KEY)
            await rig.says("False")
            assert rig.writes() == 2

    asyncio.run(test())


def test_a_schema_that_drops_something_is_written_to_once(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = cluster.put

    def prune(value: Object) -> Object:
        for one in value.get("status", {}).get("conditions", ()):
            one.pop("message", None)
        return put(value)

    async def test() -> None:
        monkeypatch.setattr(cluster, "put", prune)
        async with writing(cluster, tmp_path) as rig:
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await rig.says("True")
            for _ in range(3):
                rig.clock.now += 10
                rig.writer.look(KEY)
                await rig.rests()
            assert rig.writes() == 1

    asyncio.run(test())


def test_a_version_that_was_not_resolved_yet_is_left_alone(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with writing(cluster, tmp_path) as rig:
            cluster.put(policy("deny", "ALLOW"))
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await rig.rests()
            rig.writer.want(KEY, Wanted(2, (ACCEPTED,)))
            await rig.says("True")
            assert rig.writes() == 1

    asyncio.run(test())


def test_an_object_that_changes_all_the_time_is_written_to_now_and_then(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with writing(cluster, tmp_path) as rig:
            for number in range(2, 200):
                cluster.put(policy("deny", "ALLOW" if number % 2 else "DENY"))
                rig.writer.want(KEY, Wanted(rig.view.live(KEY).generation, (ACCEPTED,)))  # type: ignore[union-attr]
                await asyncio.sleep(0)
            await eventually(lambda: rig.writes() >= 1)
            assert rig.writes() <= 2
            rig.clock.now += 10
            rig.writer.look(KEY)
            await eventually(lambda: [one["observedGeneration"] for one in rig.status().get("conditions", [])] == [198])

    asyncio.run(test())


class Rival:
    """Another controller, to which the list is its own: it writes it whole when it looks."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.writes = 0

    def look(self) -> None:
        value = self.rig.cluster.get("AuthorizationPolicy", "shop", "deny")
        if [one["type"] for one in value.get("status", {}).get("conditions", [])] != ["Other"]:
            self.rig.cluster.put({**value, "status": {"conditions": [{"type": "Other", "status": "True"}]}})
            self.writes += 1
            self.rig.writer.look(KEY)


def test_a_fight_is_fought_ever_more_rarely(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with writing(cluster, tmp_path) as rig:
            rival = Rival(rig)
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await rig.says("True")
            began, times = rig.clock.now, [rig.clock.now]
            while rig.clock.now < began + 2000:
                rival.look()
                before = rig.writes()
                rig.clock.now += 0.5
                rig.writer.look(KEY)
                for _ in range(20):
                    await asyncio.sleep(0)
                if rig.writes() > before:
                    times.append(rig.clock.now)
            pauses = [later - sooner for sooner, later in pairwise(times)]
            assert pauses[:9] == sorted(pauses[:9])
            assert pauses[0] <= 2.0
            assert pauses[-1] == pytest.approx(300.0, abs=1.0)
            assert rig.meter.counts["failed", "AuthorizationPolicy", "undone"] == len(pauses)

            # News is written at once all the same.
            rival.look()
            rig.clock.now += 1.5
            rig.writer.want(KEY, Wanted(1, (REFUSED,)))
            await eventually(lambda: rig.status()["conditions"][-1]["status"] == "False")

            # And who undoes it once in a while is no rival.
            rig.clock.now += 3600
            rival.look()
            await eventually(lambda: rig.status()["conditions"][-1]["type"] == "Accepted")
            rig.clock.now += 2.5
            rival.look()
            await eventually(lambda: rig.status()["conditions"][-1]["type"] == "Accepted")

    asyncio.run(test())


def test_a_kind_without_the_subresource_is_said_and_tried_rarely(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        rule = cluster.fail(Status(404, "NotFound", "the server could not find the requested resource"), "patch")
        async with writing(cluster, tmp_path) as rig:
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await eventually(lambda: rule.hits == 1)
            await rig.rests()
            assert not rig.meter.counts, "it may be gone, and the watch late"
            rig.clock.now += 11
            rig.writer.lead(True)
            await eventually(lambda: rig.meter.counts == {("failed", "AuthorizationPolicy", "missing"): 1})
            rig.clock.now += 299
            await rig.rests()
            assert rule.hits == 2
            rule.times = 0
            rig.clock.now += 2
            rig.writer.lead(True)
            await rig.says("True")

    asyncio.run(test())


def test_the_rate_is_bounded(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        keys = [Key("AuthorizationPolicy", "shop", f"p{number}") for number in range(20)]
        for key in keys:
            cluster.put(policy(key.name))
        async with writing(cluster, tmp_path, Bucket(1.0, 5)) as rig:
            rig.writer.want_all({key: Wanted(1, (ACCEPTED,)) for key in keys})
            await eventually(lambda: rig.writes() == 5)
            await asyncio.sleep(0.02)
            assert rig.writes() == 5

    asyncio.run(test())


@pytest.mark.parametrize("fault", [Broken(), Status(500), Status(429)])
def test_what_passes_is_tried_again(cluster: FakeCluster, tmp_path: Path, fault: Any) -> None:
    async def test() -> None:
        cluster.fail(fault, "patch", RESOURCE, times=2)
        async with writing(cluster, tmp_path) as rig:
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await rig.says("True")
            assert rig.writes() == 3

    asyncio.run(test())


def test_what_is_not_allowed_is_not_tried_again_and_again(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        rule = cluster.fail(Status(403, "Forbidden"), "patch", RESOURCE)
        async with writing(cluster, tmp_path) as rig:
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await eventually(lambda: rig.writes() == 1)
            await rig.rests()
            assert rig.meter.counts["failed", "AuthorizationPolicy", "forbidden"] == 1
            rule.times = 0
            rig.clock.now += 301
            rig.writer.look(KEY)
            await rig.says("True")

    asyncio.run(test())


def test_an_object_that_is_gone_is_forgotten(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with writing(cluster, tmp_path) as rig:
            old = rig.view.live(KEY)
            assert old is not None
            cluster.delete("AuthorizationPolicy", "shop", "deny")
            rig.view.lag = {KEY: old}
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await eventually(lambda: rig.writes() == 1)
            rig.view.lag = None
            rig.clock.now += 10
            rig.writer.look(KEY)
            await rig.rests()

    asyncio.run(test())


def test_an_object_made_anew_gets_its_own(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with writing(cluster, tmp_path) as rig:
            rig.writer.want(KEY, Wanted(1, (ACCEPTED,)))
            await rig.says("True")
            cluster.delete("AuthorizationPolicy", "shop", "deny")
            cluster.put(policy("deny"))
            rig.clock.now += 10
            rig.writer.look(KEY)
            await rig.says("True")
            assert rig.writes() == 2

    asyncio.run(test())


# Events

SUBJECT = Subject("security.istio.io/v1", "AuthorizationPolicy", "shop", "deny", "uid-1", "7")


@contextlib.asynccontextmanager
async def announcing(cluster: FakeCluster, tmp_path: Path, leading: bool = True) -> AsyncIterator[tuple[Announcer, Meter, Clock]]:
    api = cluster.api(tmp_path)
    meter, clock = Meter(), Clock()
    announcer = Announcer(api, Leadership(leading), "pod-1", meter, now=clock)
    task = asyncio.create_task(announcer.run())
    try:
        yield announcer, meter, clock
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()


def test_a_refusal_is_said_once_also_by_the_next_leader(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with announcing(cluster, tmp_path) as (announcer, meter, _):
            for _ in range(5):
                announcer.report(SUBJECT, "Refused", "spec.action: NONSENSE is not accepted", 1)
            await eventually(lambda: meter.counts.get(("said", "Refused")) == 1)
            announcer.report(SUBJECT, "Refused", "spec.action: NONSENSE is not accepted", 1)
        async with announcing(cluster, tmp_path) as (announcer, meter, _):
            announcer.report(SUBJECT, "Refused", "spec.action: NONSENSE is not accepted", 1)
            announcer.report(SUBJECT, "Refused", "another reason", 1)
            await eventually(lambda: len(cluster.all("Event")) == 2)
        first, second = cluster.all("Event")
        assert (first["type"], first["reason"], first["count"], first["source"]["component"]) == (
            "Warning",
            "Refused",
            1,
            "culvert.dev/control",
        )
        assert first["involvedObject"]["name"] == "deny"
        assert first["metadata"]["namespace"] == "shop"
        assert second["message"] == "another reason"

    asyncio.run(test())


def test_the_same_words_about_a_later_version_raise_the_count(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with announcing(cluster, tmp_path) as (announcer, _, _):
            for generation in (1, 2, 2, 3):
                announcer.report(SUBJECT, "Refused", "no", generation)
                await eventually(lambda generation=generation: [one["count"] for one in cluster.all("Event")] == [generation])
            # The API server forgets events.
            cluster.delete("Event", "shop", cluster.all("Event")[0]["metadata"]["name"])
            announcer.report(SUBJECT, "Refused", "no", 4)
            await eventually(lambda: [one["count"] for one in cluster.all("Event")] == [1])

    asyncio.run(test())


def test_who_applies_nonsense_in_a_loop_gets_few_events(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with announcing(cluster, tmp_path) as (announcer, meter, _):
            for number in range(100):
                announcer.report(SUBJECT, "Refused", f"reason {number}", number)
            await eventually(lambda: meter.counts.get(("dropped", "rate"), 0) == 75)
            assert len(cluster.all("Event")) == 25

    asyncio.run(test())


def test_who_ceases_to_lead_while_an_event_waits_does_not_say_it(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        api, leadership, looked = cluster.api(tmp_path), Leadership(), asyncio.Event()

        def now() -> float:
            """How long to wait is about to be known."""
            leadership.leading = False
            looked.set()
            return 0.0

        announcer = Announcer(api, leadership, "pod-1", Meter(), now=now)
        announcer.report(SUBJECT, "Refused", "no", 1)
        task = asyncio.create_task(announcer.run())
        await looked.wait()
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert cluster.all("Event") == []
        await api.close()

    asyncio.run(test())


def test_what_waits_is_bounded_and_followers_are_silent(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.kube.events.MOST_WAITING", 10)

    async def test() -> None:
        async with announcing(cluster, tmp_path) as (announcer, meter, _):
            for number in range(30):
                announcer.report(Subject("v1", "Service", "shop", f"s{number}", f"u{number}"), "Refused", "no", 1)
            assert meter.counts["dropped", "full"] == 20
            await eventually(lambda: len(cluster.all("Event")) == 10)
        async with announcing(cluster, tmp_path, leading=False) as (announcer, meter, _):
            announcer.report(SUBJECT, "Refused", "no", 1)
            await asyncio.sleep(0.02)
        assert len(cluster.all("Event")) == 10

    asyncio.run(test())


def test_an_event_about_an_object_of_no_namespace_is_in_default(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with announcing(cluster, tmp_path) as (announcer, _, _):
            announcer.report(Subject("gateway.networking.k8s.io/v1", "GatewayClass", "", "x" * 250, "u"), "Refused", "y" * 5000, 1)
            await eventually(lambda: len(cluster.all("Event")) == 1)
        (event,) = cluster.all("Event")
        assert event["metadata"]["namespace"] == "default"
        assert len(event["metadata"]["name"]) <= 253
        assert len(event["message"]) == 1024

    asyncio.run(test())


def test_an_event_that_cannot_be_written_is_dropped_or_tried_again(cluster: FakeCluster, tmp_path: Path) -> None:
    async def test() -> None:
        cluster.fail(Status(403, "Forbidden"), "create", "events", times=1)
        async with announcing(cluster, tmp_path) as (announcer, meter, _):
            announcer.report(SUBJECT, "Refused", "one", 1)
            await eventually(lambda: meter.counts.get(("dropped", "refused")) == 1)
            cluster.heal()
            cluster.fail(Broken(), "create", "events", times=1)
            announcer.report(SUBJECT, "Refused", "two", 1)
            await eventually(lambda: [one["message"] for one in cluster.all("Event")] == ["two"])

    asyncio.run(test())
