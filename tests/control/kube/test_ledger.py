"""What an answer changes: tables for the rules, and histories made at random against a server that remembers everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control.sources.kubernetes.ledger import Change, History, Ledger, Verdict
from control.sources.kubernetes.read import Reading
from mesh.model.manifest import Parsed


def reading(origin: str, version: int, uid: str = "u", says: str = "", known: str = "") -> Reading:
    """An object that says something; `known` is what the ledger has of it."""
    digest = f"{uid}{says}".encode()
    return Reading(origin, version, uid, digest, b"", None if known and digest == known.encode() else Parsed(), None)


def events(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.event, change.origin) for change in changes]


def test_a_list_replaces() -> None:
    ledger = Ledger()
    ledger.begin_list(5)
    assert events(ledger.take([reading("a", 1), reading("b", 2)])) == [("add", "a"), ("add", "b")]
    assert ledger.finish_list(5) == []
    assert (ledger.version, ledger.complete) == (5, True)
    ledger.begin_list(7)
    assert ledger.holds("a", 1)
    assert not ledger.holds("a", 2)
    ledger.see(["a"])
    assert events(ledger.take([reading("c", 6)])) == [("add", "c")]
    assert events(ledger.finish_list(7)) == [("delete", "b")]
    assert sorted(ledger.objects) == ["a", "c"]


def test_a_list_that_does_not_end_deletes_nothing() -> None:
    ledger = Ledger()
    ledger.take([reading("a", 1), reading("b", 2)])
    ledger.begin_list(4)
    ledger.take([reading("b", 3, says="new")])
    ledger.drop_list()
    assert sorted(ledger.objects) == ["a", "b"]
    assert not ledger.complete
    ledger.begin_list(4)
    ledger.see(["a", "b"])
    assert ledger.finish_list(4) == []


def test_what_a_list_brought_before_it_broke_off_is_newer_than_the_events_before_it() -> None:
    ledger = Ledger()
    ledger.begin_list(10)
    ledger.take([reading("a", 5), reading("b", 6)])
    ledger.finish_list(10)
    ledger.begin_list(20)
    ledger.take([reading("a", 15)])
    ledger.drop_list()
    assert [ledger.is_new(version) and not ledger.outdated("a", version) for version in (10, 12, 15, 16)] == [False, False, False, True]
    assert [ledger.is_new(version) and not ledger.outdated("b", version) for version in (10, 12, 15, 16)] == [False, True, True, True]
    assert not ledger.outdated("c", 12)
    assert not ledger.outdated("a", 0), "without numbers, everything is news"
    assert History(60.0).judge(19, ledger.newest, 0.0) is Verdict.STALE, "a list from between would undo it, too"


def test_versions_that_say_the_same_are_no_update() -> None:
    ledger = Ledger()
    ledger.take([reading("a", 1, says="x")])
    assert events(ledger.take([reading("a", 2, says="x", known="ux")])) == [("updatesame", "a")]
    assert ledger.objects["a"].version == 2
    (change,) = ledger.take([reading("a", 3, says="y", known="ux")])
    assert (change.event, change.again) == ("update", False)


def test_another_uid_is_another_object() -> None:
    ledger = Ledger()
    ledger.take([reading("a", 1, uid="one")])
    (change,) = ledger.take([reading("a", 2, uid="two")])
    assert (change.event, change.again) == ("update", True)


def test_without_numbers_everything_is_news() -> None:
    ledger = Ledger(version=9)
    assert [ledger.is_new(version) for version in (0, 8, 9, 10)] == [True, False, False, True]
    assert Ledger().is_new(1)


def test_deleting_what_is_not_there_is_no_change() -> None:
    ledger = Ledger()
    ledger.take([reading("a", 1)])
    assert ledger.delete("a") == Change("a", "delete")
    assert ledger.delete("a") is None


def test_a_set_back_history_needs_time_and_repetition() -> None:
    history = History(patience=60.0)
    verdicts = [history.judge(5, 10, now) for now in (0.0, 10.0, 20.0, 30.0, 59.0, 60.0)]
    assert verdicts == [Verdict.STALE] * 5 + [Verdict.SET_BACK]
    history = History(patience=60.0)
    assert [history.judge(5, 10, now) for now in (0.0, 100.0, 200.0, 300.0)] == [Verdict.STALE] * 4
    assert history.judge(11, 10, 310.0) is Verdict.TAKE
    assert history.judge(5, 10, 1000.0) is Verdict.STALE, "an answer in between begins it anew"


def test_a_list_without_a_number_is_taken() -> None:
    assert History(60.0).judge(0, 10, 0.0) is Verdict.TAKE
    assert History(60.0).judge(10, 0, 0.0) is Verdict.TAKE


def test_after_a_set_back_no_old_version_counts() -> None:
    ledger = Ledger(version=100, newest=100)
    ledger.take([reading("a", 90), reading("b", 95)])
    ledger.begin_list(8, set_back=True)
    assert not ledger.holds("a", 90)
    assert events(ledger.take([reading("a", 7, says="old")])) == [("update", "a")]
    assert events(ledger.finish_list(8)) == [("delete", "b")]
    assert (ledger.version, ledger.newest) == (8, 8)


# A server's whole history: what each version made of which object (None: deleted).
histories = st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.sampled_from("xyz"))), min_size=1, max_size=40)


def state_at(history: list[tuple[str, str | None]], version: int) -> dict[str, tuple[int, str]]:
    state: dict[str, tuple[int, str]] = {}
    for number, (name, says) in enumerate(history[:version], 1):
        if says is None:
            state.pop(name, None)
        else:
            state[name] = (number, says)
    return state


@given(histories, st.lists(st.tuples(st.sampled_from(["list", "events"]), st.integers(0, 40), st.integers(0, 40)), max_size=15))
def test_whatever_order_answers_come_in_nothing_old_undoes_anything(
    history: list[tuple[str, str | None]], answers: list[tuple[str, int, int]]
) -> None:
    ledger, shown, newest = Ledger(), {}, 0

    def take(found: list[Change], says: dict[str, str]) -> None:
        for change in found:
            if change.event == "delete":
                del shown[change.origin]
            elif change.event in ("add", "update"):
                shown[change.origin] = says[change.origin]

    for kind, first, second in [*answers, ("list", len(history), 0)]:
        if kind == "list":
            version = min(first, len(history))
            if version and History(60.0).judge(version, ledger.newest, 0.0) is Verdict.TAKE:
                state = state_at(history, version)
                ledger.begin_list(version)
                ledger.see(origin for origin, (number, _) in state.items() if ledger.holds(origin, number))
                new = [
                    reading(origin, number, says=says, known=ledger.digest(origin).decode())
                    for origin, (number, says) in state.items()
                    if not ledger.holds(origin, number)
                ]
                take(ledger.take(new), {origin: says for origin, (_, says) in state.items()})
                take(ledger.finish_list(version), {})
                newest = version
        elif ledger.complete:
            # A watch from where we are, or a replay of some of what there was, possibly both.
            start = min(first, newest)
            for number in range(start + 1, min(max(second, newest), len(history)) + 1):
                name, says = history[number - 1]
                if not ledger.is_new(number):
                    continue
                ledger.advance(number)
                newest = number
                if says is None:
                    gone = ledger.delete(name)
                    take([gone] if gone else [], {})
                else:
                    take(ledger.take([reading(name, number, says=says, known=ledger.digest(name).decode())]), {name: says})
        assert shown == {origin: says for origin, (_, says) in state_at(history, newest).items()}
        assert ledger.version == newest
