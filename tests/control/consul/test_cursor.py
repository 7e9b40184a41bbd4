"""The index of a blocking query: Consul's rules, as a table, and what holds for any sequence of answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.sources.consul.cursor import Cursor, News


@pytest.mark.parametrize(
    ("answers", "asked", "news"),
    [
        ([5], 5, News.FIRST),
        ([5, 5], 5, News.NOTHING),
        ([5, 9], 9, News.CHANGE),
        ([0], 1, News.FIRST),
        ([0, 0], 1, News.NOTHING),
        ([9, 5], 0, News.BACKWARDS),
        ([9, 5, 5], 5, News.NOTHING),
        ([9, 5, 6], 6, News.CHANGE),
        ([9, 5, 3], 0, News.BACKWARDS),
        ([9, None, 9], 9, News.FIRST),
        ([9, None, 12], 12, News.FIRST),
        ([9, None, 4], 0, News.BACKWARDS),
        ([9, None, 0], 0, News.BACKWARDS),
    ],
)
def test_what_is_asked_next_and_what_the_last_answer_was(answers: list[int | None], asked: int, news: News) -> None:
    """None is a failure."""
    cursor, last = Cursor(), None
    for answer in answers:
        if answer is None:
            cursor.restart()
            assert cursor.index == 0
        else:
            last = cursor.take(answer)
    assert (cursor.index, last) == (asked, news)


def test_an_index_from_an_earlier_process_shows_a_history_that_went_backwards() -> None:
    assert Cursor(seen=100).take(7) is News.BACKWARDS
    assert Cursor(seen=100).take(100) is News.FIRST


@settings(deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=20) | st.none(), max_size=30))
def test_it_never_waits_for_an_index_that_may_never_come_and_never_spins_on_zero(answers: list[int | None]) -> None:
    cursor = Cursor()
    last = None
    for answer in answers:
        if answer is None:
            cursor.restart()
            continue
        news = cursor.take(answer)
        assert cursor.index <= max(answer, 1)
        if news is not News.BACKWARDS:
            assert cursor.index >= 1
        last = answer
    if last is not None:
        assert cursor.seen == max(last, 1)
