"""Files that are made to cost much: each is refused whole, before much is made of it, and may have held any policy."""

from __future__ import annotations

import tracemalloc

import pytest

from mesh.model.manifest import load_directory
from mesh.model.manifest.tree import BULK

SHARE = 8 << 20  # bytes that may be made of one of them beside the text itself


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of what is allowed."""
    monkeypatch.setattr("mesh.model.manifest.tree.MAX_VALUES", 1000)
    monkeypatch.setattr("mesh.model.manifest.tree.MAX_LINES", 10_000)
    monkeypatch.setattr("mesh.model.manifest.load.MAX_DOCUMENTS", 1000)


HUGE = {
    "values": ("[" + "1," * BULK + "]", "more than 1000 values"),
    "keys": ("{" + ",".join(f"k{number}: 1" for number in range(BULK // 4)) + "}", "more than 1000 values"),
    "anchors": ("\n".join(f"- &a{number} x" for number in range(BULK // 32)), "more than 1000 values"),
    "aliases": ("a: &a x\nb: [" + "*a," * BULK + "]", "more than 1000 values"),
    "documents": ("---\nx\n" * 2000, "more than 1000 documents"),
    "lines": ("\n" * (2 * BULK), "more than 10000 lines"),
    "lines that only Python knows": ("\v" * (2 * BULK), "more than 10000 lines"),
    "depth": ("[" * (2 * BULK), "exceeded maximum nesting depth"),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_too_much_is_refused_before_it_is_made(name: str) -> None:
    text, why = HUGE[name]
    tracemalloc.start()
    try:
        loaded = load_directory([("f", text)])
        assert tracemalloc.get_traced_memory()[1] < SHARE
    finally:
        tracemalloc.stop()
    assert not loaded.objects
    (refused,) = loaded.refused
    assert refused.refusals[0].value == why
    assert refused.key is None


def test_of_a_file_that_is_too_much_nothing_is_known() -> None:
    """So it may hold policies, for any namespace."""
    (refused,) = load_directory([("f", "---\nx\n" * 2000)]).refused
    assert (refused.policy, refused.namespace) == (True, None)


def test_a_long_text_of_few_values_is_none_of_these() -> None:
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: a, annotations: {note: %s}}}" % ("x" * 200_000)
    assert len(load_directory([("f", f"# {'-' * BULK}\n{namespace}")]).objects) == 1
