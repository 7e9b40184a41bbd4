"""Header changes that a proxy can take, whatever was written."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.model.l7.notes import Notes, Problem
from mesh.model.l7.routes import HeaderOps
from mesh.model.l7.translate.headers import Author, changes, formatted, literal
from mesh.model.manifest import Key
from mesh.model.manifest.istio.actions import HeaderChanges


def author() -> Author:
    return Author(Key("VirtualService", "shop", "one"), "headers.request", Notes())


@pytest.mark.parametrize(
    ("written", "value", "said"),
    [
        ("plain", "plain", False),
        ("", "", False),
        ("100%%", "100%%", False),
        ("%REQ(x-a?:path):7%-%PROTOCOL%", "%REQ(x-a?:path):7%-%PROTOCOL%", False),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", False),
        ("%START_TIME(%s)%", "%%START_TIME(%%s)%%", True),
        ("100%", "100%%", True),
        ("%NO_SUCH_THING%", "%%NO_SUCH_THING%%", True),
        ("%REQ(x-a)% is 5% more", "%%REQ(x-a)%% is 5%% more", True),
    ],
)
def test_operators(written: str, value: str, said: bool) -> None:
    found = author()
    assert formatted(written, found) == value
    assert bool(found.notes.done(None).notes) is said


def test_literal() -> None:
    assert literal("100% %REQ(a)%") == "100%% %%REQ(a)%%"


@pytest.mark.parametrize(
    ("written", "ops", "authority", "said"),
    [
        (
            {"set": {"b": "2", "a": "1"}, "add": {"c": "3"}, "remove": ("d",)},
            HeaderOps((("a", "1"), ("b", "2")), (("c", "3"),), ("d",)),
            "",
            0,
        ),
        ({"set": {"host": "x"}}, HeaderOps(), "x", 0),
        ({"set": {":authority": "x"}}, HeaderOps(), "x", 0),
        ({"set": {"host": "a\r\nb"}}, HeaderOps(), "", 1),
        ({"add": {"host": "x"}, "remove": ("host",)}, HeaderOps(), "", 2),
        ({"set": {"a": "1\r\nevil: 2", "b": "ok"}}, HeaderOps((("b", "ok"),)), "", 1),
    ],
)
def test_changes(written: dict[str, Any], ops: HeaderOps, authority: str, said: int) -> None:
    found = author()
    assert changes(HeaderChanges(**written), found) == (ops, authority)
    notes = found.notes.done(None).notes
    assert len(notes) == said
    assert {note.problem for note in notes} <= {Problem.UNSUPPORTED}
