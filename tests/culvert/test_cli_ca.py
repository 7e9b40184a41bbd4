"""`culvert ca` as it is typed: what it refuses, and what it shows. The CA is real and takes commands on a socket of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control.ca.command import CommandSocket
from control.ca.departed import GRACE
from control.ca.holders import Holders
from culvert.cli.app import app
from culvert.cli.ca import _left
from culvert.cli.output import FailedError, UsageError
from culvert.rehearsal.client import Refused, Unreachable
from tests.control.ca.support import a_keeper


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A CA in a thread, with a node that never renews, and a pod that is gone."""
    monkeypatch.setattr("control.ca.holders.OBJECTION", 0.0)
    path, ready, loop = tmp_path / "command.sock", threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        stop = asyncio.Event()
        stops.append(stop)
        keeper = a_keeper(tmp_path / "ca", holders=holders)
        holders.issued("shop/cart-1", keeper.clock() + 80_000, 0.0)
        holders.look((), 0.0)
        there.clear()
        for _ in range(int(GRACE / 50) + 1):
            times[0] += 50
            holders.look((), 0.0)
        await keeper.start()
        commands = CommandSocket(keeper, path)
        await commands.start()
        ready.set()
        await stop.wait()
        await commands.close()

    times, there = [0.0], {"shop/cart-1"}
    holders = Holders(lambda: ["node-1"], lambda: lambda name: name in there, lambda: times[0])
    stops: list[asyncio.Event] = []
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield path
    loop.call_soon_threadsafe(stops[0].set)
    thread.join(10)
    loop.close()


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, ["ca", *words])


def test_it_shows_the_ca(socket: Path) -> None:
    shown = typed("show", "--socket", str(socket)).stdout
    assert "cluster.local: our own, in" in shown
    assert "steady" in shown
    assert ["node-1", "not", "renewed"] in [line.split()[:3] for line in shown.splitlines()]
    assert json.loads(typed("show", "--json", "--socket", str(socket)).stdout)["phase"] == "steady"


def test_it_says_who_is_not_waited_for(socket: Path) -> None:
    result = typed("root", "introduce", "--wait", "0", "--socket", str(socket))
    assert str(result.exception).startswith("not renewed after 0 s: node-1;")
    assert ["shop/cart-1", "not", "renewed", "-", "it", "is", "gone,"] in [line.split()[:7] for line in result.stdout.splitlines()]
    assert "not waited for: 1 who are gone" in result.stderr
    gate = json.loads(typed("show", "--json", "--socket", str(socket)).stdout)["gate"]
    assert (gate["waiting"], gate["forgotten"]) == (["node-1"], ["shop/cart-1"])


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (("renew", "root"), UsageError, "accepted: leaves, intermediate"),
        (("root", "destroy"), UsageError, "accepted: introduce, switch, retire, abandon"),
        (("root", "introduce", "--force"), UsageError, "switch and retire"),
        (("show", "--name", "shop"), UsageError, "leave out --name"),
        (("root", "switch"), Refused, "first step"),
        (("renew", "leaves", "--wait", "0"), FailedError, "not renewed after 0 s: node-1"),
    ],
)
def test_what_cannot_be_is_said(socket: Path, words: tuple[str, ...], error: type[Exception], says: str) -> None:
    result = typed(*words, "--socket", str(socket))
    assert isinstance(result.exception, error)
    assert says in str(result.exception)


def test_nobody_is_there(tmp_path: Path) -> None:
    assert isinstance(typed("show", "--socket", str(tmp_path / "none.sock")).exception, Unreachable)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "expired"), (90, "in 90 s"), (7200, "in 2 h"), (86400, "in 24 h"), (365 * 86400, "in 365 d")]
)
def test_how_long_something_lives(seconds: float, text: str) -> None:
    assert _left(seconds) == text
