"""Node tokens: which are accepted, and how soon a change counts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from control.auth import Caller
from control.auth.tokens import AGAIN, FRESH, NodeTokens


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "tokens"
    found.mkdir()
    for node, token in (("node1", "a" * 32), ("node2", "b" * 32), ("short", "c"), ("long", "x" * 5000)):
        put(found / node, token)
    put(found / "open", "d" * 32)
    (found / "open").chmod(0o644)
    put(found / "twin1", "e" * 32)
    put(found / "twin2", "e" * 32)
    put(found / ".hidden", "f" * 32)
    os.mkfifo(found / "pipe", 0o600)
    return found


def put(path: Path, token: str) -> None:
    path.write_text(token + "\n")
    path.chmod(0o600)


@pytest.fixture
def tokens(directory: Path, clock: Clock) -> NodeTokens:
    return NodeTokens(directory, clock)


@pytest.mark.parametrize(
    ("offered", "node"),
    [
        ("Bearer " + "a" * 32, "node1"),
        ("bearer " + "b" * 32, "node2"),
        ("Bearer " + "a" * 31, None),
        ("Bearer c", None),
        ("Bearer " + "x" * 5000, None),
        ("Bearer " + "d" * 32, None),
        ("Bearer " + "e" * 32, None),
        ("Bearer " + "f" * 32, None),
        ("Basic " + "a" * 32, None),
        ("a" * 32, None),
        ("Bearer ", None),
    ],
    ids=[
        "one",
        "any case",
        "a part of it",
        "too short",
        "too long",
        "open to others",
        "of two nodes",
        "hidden",
        "not Bearer",
        "bare",
        "empty",
    ],
)
def test_what_is_accepted(tokens: NodeTokens, offered: str, node: str | None) -> None:
    metadata = [("clusterid", "x"), ("authorization", offered)]
    assert tokens.node_of(metadata) == node
    assert asyncio.run(tokens.authenticate(metadata)) == (None if node is None else Caller(node=node, impersonates=True))


@pytest.mark.parametrize("metadata", [None, [], [("authorization", b"\xff\xfe")]])
def test_nothing_is_nobody(tokens: NodeTokens, metadata: list[tuple[str, str | bytes]] | None) -> None:
    assert asyncio.run(tokens.authenticate(metadata)) is None


def test_a_change_counts_within_a_second(tokens: NodeTokens, directory: Path, clock: Clock) -> None:
    old, new = [("authorization", "Bearer " + "a" * 32)], [("authorization", "Bearer " + "n" * 32)]
    assert tokens.node_of(old) == "node1"
    put(directory / "node1", "n" * 32)
    assert tokens.node_of(new) is None  # it has just been looked
    clock.now += AGAIN * 1.1
    assert tokens.node_of(new) == "node1"
    assert tokens.node_of(old) is None
    (directory / "node1").unlink()
    clock.now += FRESH * 1.1
    assert tokens.node_of(new) is None


def test_a_missing_directory_refuses_everybody(tmp_path: Path) -> None:
    assert NodeTokens(tmp_path / "none").node_of([("authorization", "Bearer " + "a" * 32)]) is None
