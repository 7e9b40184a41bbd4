"""Codes as a whole: each is shown by a test, and the documentation has them all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.analyze import CODES
from control.analyze.codes.code import Code, Severity
from culvert.analysis.table import table
from tests.control.analyze import test_destinationrules, test_mesh, test_policy, test_reading, test_routes, test_virtualservices

SHOWING = (test_destinationrules, test_mesh, test_policy, test_reading, test_routes, test_virtualservices)
DOCUMENT = Path(__file__).parents[3] / "docs" / "analyze.md"


def _shown() -> Iterator[str]:
    for module in SHOWING:
        for _, expected in (*module.CASES.values(), *getattr(module, "IN_CLUSTER", {}).values()):
            yield from expected


def test_every_code_is_shown() -> None:
    assert {words.split()[0] for words in _shown()} == set(CODES)


def test_what_is_shown_has_the_severity_of_its_code() -> None:
    assert {tuple(words.split()[:2]) for words in _shown()} == {(name, code.severity.word) for name, code in CODES.items()}


def test_codes_are_well_formed() -> None:
    for name, code in CODES.items():
        assert re.fullmatch(r"CV[0-9]{4}", name)
        assert code.name == name
        assert not code.title.endswith(".")
        assert code.help.endswith(".")
        assert "|" not in code.title + code.help  # they are cells of a table


def test_a_code_is_given_once() -> None:
    with pytest.raises(ValueError, match="CV0001 is there already"):
        Code("CV0001", Severity.INFO, "", "")


def test_the_documentation_has_the_table_of_codes() -> None:
    _, marker, made = DOCUMENT.read_text().partition("<!-- made by culvert analyze --codes -->\n")
    assert marker, "docs/analyze.md has no mark where the table begins"
    assert made.strip() == table(), "run: culvert analyze --codes, and put it into docs/analyze.md"
