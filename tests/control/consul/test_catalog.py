"""What is known and what is asked next: rules as transcripts, and that in the end everything is known, whatever the order of events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control.sources.consul.catalog import Catalog, Task, Told
from control.sources.consul.cursor import Cursor, News
from control.sources.consul.tuning import Tuning
from control.sources.consul.wire import Check, Health, Instance

TUNING = Tuning(service_burst=3, service_rate=0.5, sweep_share=0.2, lag=2.0)
GRACE = 30.0


def instance(number: int = 1, *, node: str = "n1", port: int = 80, health: Health = Health.PASSING) -> Instance:
    return Instance(node, f"i{number}", f"10.0.0.{number}", port, health)


def first(index: int = 10) -> Told:
    return Told(index, News.FIRST)


class Talk:
    """A catalog, and a clock."""

    def __init__(self, grace: float = GRACE, lags: bool = False) -> None:
        self.catalog = Catalog(TUNING, frozenset({"consul"}), grace, lags)
        self.now = 100.0

    def list(self, told: Told, **tags: tuple[str, ...]) -> list[str]:
        return self.catalog.take_list(tags, told, self.now)

    def nodes(self, told: Told) -> None:
        self.catalog.take_nodes(told, self.now)

    def failing(self, *checks: Check, told: Told | None = None) -> None:
        self.catalog.take_failing(frozenset(checks), told or Told(0), self.now)

    def tasks(self) -> list[Task]:
        """All that are to be asked now."""
        found = []
        while (task := self.catalog.next(self.now)) is not None:
            found.append(task)
        return found

    def asked(self) -> list[str]:
        return [task.name + ("#" if task.index_only else "") for task in self.tasks()]

    def known(self, index: int = 10, **services: Iterable[Instance]) -> None:
        """A catalog in which these were listed and read."""
        self.list(first(index), **dict.fromkeys(services, ()))
        for task in self.tasks():
            assert self.catalog.take(task, tuple(services[task.name]), Told(index))
        assert self.catalog.complete

    def answer(self, told: Told | None = None, **services: Iterable[Instance]) -> dict[str, bool]:
        """Every question now, with the same index as before where only that is asked; what `take` said of the others."""
        found = {}
        for task in self.tasks():
            if task.index_only:
                known = self.catalog.services.get(task.name)
                self.catalog.take_index(task, Told(known.index if known else 0), self.now)
            else:
                found[task.name] = self.catalog.take(task, tuple(services.get(task.name, ())), told or Told(11))
        return found


def test_nothing_is_asked_before_there_is_a_list_and_then_every_service_once() -> None:
    talk = Talk()
    talk.failing(told=first())
    talk.nodes(first())
    assert (talk.asked(), talk.catalog.due()) == ([], None)
    talk.list(first(), web=("v1",), db=(), consul=())
    assert talk.asked() == ["web", "db"]
    assert (talk.asked(), talk.catalog.due(), talk.catalog.complete) == ([], None, False)


def test_other_tags_are_a_reason_to_read_and_then_everybody_is_asked_for_the_index() -> None:
    talk = Talk()
    talk.known(web=[instance(1)], db=[instance(2)])
    talk.list(Told(12), web=("v2",), db=())
    assert talk.asked() == ["web", "db#"]


def test_one_change_of_several_tables_is_one_sweep() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    talk.list(Told(12), web=())
    tasks = talk.tasks()
    talk.nodes(Told(12))
    talk.catalog.take_index(tasks[0], Told(10), talk.now)
    talk.now += 100
    assert talk.asked() == []
    talk.nodes(Told(13))
    assert talk.asked() == ["web#"]


def test_who_has_another_index_is_read() -> None:
    talk = Talk()
    talk.known(web=[instance(1)], db=[instance(2)])
    talk.nodes(Told(12))
    web, db = talk.tasks()
    talk.catalog.take_index(web, Told(12), talk.now)
    talk.catalog.take_index(db, Told(10), talk.now)
    assert talk.answer(web=[instance(1, port=81)]) == {"web": True}


def test_a_sweep_rests_four_times_as_long_as_it_took() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    talk.nodes(Told(12))
    (task,) = talk.tasks()
    talk.nodes(Told(13))
    talk.now += 1.0
    talk.catalog.take_index(task, Told(10), talk.now)
    assert talk.asked() == []
    assert talk.catalog.due() == pytest.approx(talk.now + 4.0)
    talk.now += 4.01
    assert talk.asked() == ["web#"]


def test_a_check_is_a_reason_to_read_its_service_and_a_nodes_all_that_are_on_it() -> None:
    talk = Talk()
    talk.known(web=[instance(1), instance(2, node="n2")], db=[instance(3, node="n2")], log=[instance(4)])
    talk.failing(Check("n1", "c", "critical", "log"))
    assert talk.answer() == {"log": False}
    talk.failing(Check("n2", "serfHealth", "critical"))
    assert sorted(talk.asked()) == ["db", "log", "web"]  # the other check passes again


def test_a_check_that_fails_differently_is_a_reason_too_and_one_that_says_the_same_is_none() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    talk.failing(Check("n1", "c", "warning", "web"))
    assert talk.answer() == {"web": False}
    talk.failing(Check("n1", "c", "warning", "web"))
    assert talk.asked() == []
    talk.failing(Check("n1", "c", "critical", "web"))
    assert talk.asked() == ["web"]


def test_what_is_gone_from_the_list_is_gone() -> None:
    talk = Talk()
    talk.known(web=[instance(1)], db=[instance(2)])
    assert talk.list(Told(12), web=()) == ["db"]
    assert set(talk.catalog.services) == {"web"}


def test_a_service_without_instances_waits_for_the_list() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    talk.list(Told(12), web=("v2",))
    assert talk.answer() == {"web": False}
    assert talk.catalog.services["web"].instances == (instance(1),)


def test_one_that_changed_while_it_was_read_is_read_again() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    talk.failing(Check("n1", "c", "critical", "web"))
    (task,) = talk.tasks()
    talk.failing()
    assert talk.asked() == []
    assert talk.catalog.take(task, (instance(1, health=Health.CRITICAL),), Told(12))
    assert talk.asked() == ["web"]


def test_a_sweep_that_begins_while_a_service_is_read_has_it_read_again() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    talk.failing(Check("n1", "c", "critical", "web"))
    (task,) = talk.tasks()
    talk.nodes(Told(13))
    assert talk.asked() == []
    talk.catalog.take(task, (instance(1),), Told(12))
    assert talk.asked() == ["web"]


def test_an_answer_for_a_service_that_went_and_came_back_meanwhile_is_not_for_the_new_one() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    talk.failing(Check("n1", "c", "critical", "web"))
    (old,) = talk.tasks()
    assert talk.list(Told(12)) == ["web"]
    talk.list(Told(13), web=())
    (new,) = talk.tasks()
    assert talk.catalog.take(new, (instance(2),), Told(13))
    assert not talk.catalog.take(old, (instance(1),), Told(11))
    assert talk.catalog.services["web"].instances == (instance(2),)


def test_a_service_that_flaps_is_read_at_a_bounded_rate() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    read = 0
    for tick in range(1000):  # ten seconds
        talk.failing(*([Check("n1", "c", "critical", "web")] if tick % 2 else []))
        read += len(talk.answer(web=[instance(1, health=Health.CRITICAL if tick % 2 else Health.PASSING)]))
        talk.now += 0.01
    assert 6 <= read <= 8  # two that are left of the burst, and one every two seconds
    talk.failing()
    talk.now = talk.catalog.due() or 0.0
    assert talk.answer(web=[instance(1)]) is not None
    assert talk.catalog.services["web"].instances == (instance(1),)


def test_a_question_without_answer_is_asked_again_later_and_as_a_read() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    talk.nodes(Told(12))
    (task,) = talk.tasks()
    talk.catalog.give_back(task, talk.now + 5, talk.now)
    talk.failing(Check("n1", "c", "critical", "web"))
    assert (talk.asked(), talk.catalog.due()) == ([], talk.now + 5)
    talk.now += 5
    assert talk.asked() == ["web"]


def test_after_a_failure_everything_is_in_doubt_until_it_was_read() -> None:
    talk = Talk()
    talk.known(web=[instance(1)], db=[instance(2)])
    talk.list(first(), web=(), db=())
    assert not talk.catalog.complete
    web, db = (task for task in talk.tasks() if not task.index_only)
    talk.catalog.take(web, (instance(1),), Told(10))
    assert not talk.catalog.complete
    talk.catalog.give_back(db, talk.now + 1, talk.now, refused=True)
    assert talk.catalog.complete


# Consul's history goes backwards


def test_nothing_is_removed_while_agents_register_their_services_anew() -> None:
    talk = Talk()
    talk.known(1000, web=[instance(1), instance(2)], db=[instance(3)], gone=[instance(4)])
    assert talk.list(Told(5, News.BACKWARDS)) == []
    assert talk.catalog.settling
    assert talk.answer() == {"web": False, "db": False, "gone": False}
    assert talk.list(Told(6), web=()) == []
    assert talk.answer(web=[instance(2, port=81)]) == {"web": True}
    assert talk.catalog.services["web"].instances == (instance(1), instance(2, port=81))
    assert talk.list(Told(7), web=(), db=()) == []
    talk.answer(db=[instance(3)], web=[instance(2, port=81)])
    assert talk.catalog.services["db"].instances == (instance(3),)

    talk.now += GRACE
    changed = talk.answer(web=[instance(2, port=81)], db=[instance(3)])
    assert changed == {"web": True, "db": False, "gone": True}
    assert {name: known.instances for name, known in talk.catalog.services.items()} == {
        "web": (instance(2, port=81),),
        "db": (instance(3),),
    }
    assert not talk.catalog.settling


def test_without_grace_what_an_emptied_consul_says_is_believed() -> None:
    talk = Talk(grace=0)
    talk.known(1000, web=[instance(1)])
    assert talk.list(Told(5, News.BACKWARDS)) == ["web"]


def test_any_of_the_three_tables_tells_that_history_went_backwards() -> None:
    talk = Talk()
    talk.known(1000, web=[instance(1)])
    talk.nodes(Told(5, News.BACKWARDS))
    assert talk.list(Told(5, News.FIRST)) == []
    assert set(talk.catalog.services) == {"web"}


# Who may not be believed


def test_who_has_no_leader_adds_and_removes_nothing() -> None:
    talk = Talk()
    talk.known(web=[instance(1)])
    assert talk.list(Told(12, News.CHANGE, whole=False), db=()) == []
    assert talk.answer(Told(12, whole=False), db=[instance(2)])["db"]
    assert set(talk.catalog.services) == {"web", "db"}
    assert talk.list(Told(13), db=()) == ["web"]


def test_a_name_that_access_rules_may_hide_is_asked_for_and_kept_if_they_do() -> None:
    talk = Talk()
    talk.known(web=[instance(1)], db=[instance(2)], log=[instance(3)])
    assert talk.list(Told(12, filtered=True), log=()) == []
    web, db = (task for task in talk.tasks() if not task.index_only)
    assert not talk.catalog.take(web, (), Told(12, filtered=True))  # there is something, and it is hidden
    assert talk.catalog.take(db, (), Told(12))  # there is nothing
    assert set(talk.catalog.services) == {"web", "log"}
    assert talk.catalog.hidden == {"web"}
    assert talk.catalog.services["web"].instances == (instance(1),)


def test_where_everything_is_hidden_nothing_is_known() -> None:
    talk = Talk()
    talk.list(first(), web=())
    talk.answer(Told(10, filtered=True))
    assert not talk.catalog.complete
    talk.list(Told(11), web=(), db=())
    talk.answer(Told(11, filtered=True), db=[instance(1)])
    assert talk.catalog.complete


def test_where_any_server_answers_a_change_is_looked_at_once_more() -> None:
    talk = Talk(lags=True)
    talk.known(web=[instance(1)])
    talk.now += TUNING.lag
    talk.answer()
    talk.failing(Check("n1", "c", "critical", "web"), told=Told(12))
    assert talk.answer(web=[instance(1)]) == {"web": False}  # from a server that is behind
    assert talk.catalog.due() == pytest.approx(talk.now + TUNING.lag)
    talk.now += TUNING.lag
    assert talk.asked() == ["web#"]


# From before this process began


def test_what_was_kept_counts_until_the_list_says_otherwise() -> None:
    talk = Talk()
    talk.catalog.restore("web", (instance(1),))
    talk.catalog.restore("old", (instance(2),))
    talk.nodes(first())
    assert talk.asked() == []
    assert talk.list(first(), web=()) == ["old"]
    assert talk.answer(web=[instance(1)]) == {"web": False}
    assert talk.catalog.complete


def test_what_was_kept_survives_a_consul_that_lost_its_data_meanwhile() -> None:
    talk = Talk()
    talk.catalog.restore("web", (instance(1),))
    assert talk.list(Told(5, News.BACKWARDS)) == []
    assert talk.answer() == {"web": False}
    assert talk.catalog.services["web"].instances == (instance(1),)


# Whatever the order of events


class Consul(RuleBasedStateMachine):
    """A Consul of a few services, three blocking queries, and questions whose answers are made at one time and come at another."""

    NAMES = ("web", "db", "log")
    NODES = ("n1", "n2")

    @initialize()
    def begin(self) -> None:
        self.catalog = Catalog(TUNING, grace=GRACE)
        self.now = 0.0
        self.index = 20
        self.tables = {"services": 10, "checks": 10, "nodes": 10}
        self.names: dict[str, int] = {}
        self.instances: dict[int, tuple[str, Instance]] = {}
        self.ports = dict.fromkeys(self.NODES, 80)
        self.cursors = {table: Cursor() for table in self.tables}
        self.out: list[tuple[Task, tuple[Told, tuple[Instance, ...]] | None]] = []
        for number, name in enumerate((*self.NAMES, *self.NAMES)):
            self.register(number, name, self.NODES[number % 2])
        self.rest()

    # What happens there

    def bump(self, tables: Iterable[str], names: Iterable[str]) -> None:
        self.index += 1
        self.tables |= dict.fromkeys(tables, self.index)
        self.names |= dict.fromkeys(names, self.index)

    @rule(number=st.integers(0, 5), name=st.sampled_from(NAMES), node=st.sampled_from(NODES))
    def register(self, number: int, name: str, node: str) -> None:
        before = self.instances.get(number)
        self.instances[number] = (name, instance(number, node=node, port=self.ports[node]))
        self.bump(("services", "checks"), {name} | ({before[0]} if before else set()))

    @rule(number=st.integers(0, 5))
    def deregister(self, number: int) -> None:
        if number in self.instances:
            self.bump(("services", "checks"), [self.instances.pop(number)[0]])

    @rule(number=st.integers(0, 5), health=st.sampled_from([Health.PASSING, Health.CRITICAL]))
    def check(self, number: int, health: Health) -> None:
        if number in self.instances:
            name, found = self.instances[number]
            if found.health is not health:
                self.instances[number] = (name, replace(found, health=health))
                self.bump(["checks"], [name])

    @rule(node=st.sampled_from(NODES), port=st.integers(80, 90))
    def move(self, node: str, port: int) -> None:
        """A node has another address (here: port)."""
        self.ports[node] = port
        here = {number: each for number, each in self.instances.items() if each[1].node == node}
        for number, (name, found) in here.items():
            self.instances[number] = (name, replace(found, port=port))
        self.bump(["nodes"], {name for name, _ in here.values()})

    @rule()
    def lose_everything(self) -> None:
        """Agents register anew what they want to."""
        self.index = 5
        self.tables = dict.fromkeys(self.tables, 5)
        self.names.clear()
        self.instances.clear()
        for cursor in self.cursors.values():
            cursor.restart()
        for task, _ in self.out:
            self.catalog.give_back(task, self.now + 0.1, self.now)
        self.out.clear()

    # What we hear

    def of(self, name: str) -> tuple[Instance, ...]:
        return tuple(sorted((one for named, one in self.instances.values() if named == name), key=lambda one: one.key))

    @rule(table=st.sampled_from(["services", "checks", "nodes"]))
    def hear(self, table: str) -> None:
        cursor, index = self.cursors[table], self.tables[table]
        if 0 < index <= cursor.index:
            return  # it waits
        told = Told(index, cursor.take(index))
        if table == "services":
            listed = {name: () for name, _ in self.instances.values()}
            before = set(self.catalog.services)
            gone = self.catalog.take_list(listed, told, self.now)
            assert set(gone) == before - set(self.catalog.services)
            assert not (gone and self.catalog.settling)
        elif table == "checks":
            bad = {Check(one.node, one.id, "critical", name) for name, one in self.instances.values() if one.health is Health.CRITICAL}
            self.catalog.take_failing(frozenset(bad), told, self.now)
        else:
            self.catalog.take_nodes(told, self.now)

    @rule(table=st.sampled_from(["services", "checks", "nodes"]))
    def break_off(self, table: str) -> None:
        self.cursors[table].restart()

    @rule()
    def ask(self) -> None:
        while len(self.out) < 3 and not any(cursor._lost for cursor in self.cursors.values()):
            task = self.catalog.next(self.now)
            if task is None:
                break
            assert task.name not in {other.name for other, _ in self.out if self.waits(other)}
            self.out.append((task, None))

    def waits(self, task: Task) -> bool:
        known = self.catalog.services.get(task.name)
        return known is not None and known.asked == task.number

    @rule()
    def hear_all(self) -> None:
        for table in self.tables:
            self.hear(table)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 7))
    def make_answer(self, which: int) -> None:
        task, answer = self.out[which % len(self.out)]
        if answer is None:
            made = (Told(self.names.get(task.name, 1)), self.of(task.name))
            self.out[which % len(self.out)] = (task, made)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 7))
    def take_answer(self, which: int) -> None:
        self.make_answer(which)
        task, answer = self.out.pop(which % len(self.out))
        assert answer is not None
        known = self.catalog.services.get(task.name)
        before = known.instances or () if known is not None else ()
        if task.index_only:
            self.catalog.take_index(task, answer[0], self.now)
        else:
            self.catalog.take(task, answer[1], answer[0])
        if self.catalog.settling:
            after = self.catalog.services[task.name].instances or () if known is not None else ()
            assert {one.key for one in before} <= {one.key for one in after}

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 7))
    def lose_answer(self, which: int) -> None:
        task, _ = self.out.pop(which % len(self.out))
        self.catalog.give_back(task, self.now + 0.5, self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, GRACE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_count_of_what_is_unsure_is_right(self) -> None:
        unsure = [known for known in self.catalog.services.values() if known.unsure]
        assert self.catalog._unsure == len(unsure)

    @rule()
    def rest(self) -> None:
        """Nothing goes wrong, for a while: in the end all is known as it is."""
        for _ in range(300):
            self.hear_all()
            while self.out:
                self.take_answer(0)
            self.ask()
            if not self.out:
                due = self.catalog.due()
                if due is None:
                    break
                self.now = max(self.now, due)
        else:
            raise AssertionError("it never comes to rest")
        truth = {name: self.of(name) for name, _ in self.instances.values()}
        assert {name: known.instances for name, known in self.catalog.services.items()} == truth
        assert self.catalog.complete

    def teardown(self) -> None:
        if hasattr(self, "out"):
            self.rest()


TestWhateverTheOrder = Consul.TestCase
TestWhateverTheOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
