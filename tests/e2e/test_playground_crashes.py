"""Killed anywhere, a playground is repaired by `up` and taken away by `down`, and nothing of anybody else's is touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from culvert.playground.files import read_json, write_json
from culvert.playground.processes import identify
from tests.e2e.playgrounds import MANIFESTS, Playground, wait

pytestmark = pytest.mark.e2e

UP = ("up", "--no-mesh", "-f", str(MANIFESTS))


@pytest.fixture
def ground() -> Iterator[Playground]:
    it = Playground(f"pgc{os.getpid()}")
    yield it
    it.run("down")
    assert it.remains() == []


def test_pods_outlive_their_supervisor_and_are_taken_over(ground: Playground) -> None:
    ground.run(*UP)
    before = ground.pids()
    os.kill(ground.supervisor(), signal.SIGKILL)
    victim = ground.pod("client")["containers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    assert ground.fetch("shop/alone", "http://web/")
    assert json.loads(ground.run("status", "--json", code=1))["troubles"][0] == "the supervisor is not running"
    command = ground.command("apply", "-f", str(MANIFESTS))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, f"start it again with: culvert up --name {ground.name} " in done.stderr) == (1, True), done.stderr
    ground.run(*UP)
    after = ground.pids()
    assert {name for name in before if before[name] != after[name]} == {"client/client"}
    assert ground.pod("client")["restarts"] == 1
    # The new supervisor is in charge: it restarts what ends from now on, although it did not start it.
    os.kill(ground.pod("alone")["containers"][0]["pid"], signal.SIGKILL)
    wait("a restart", lambda: ground.pod("alone")["restarts"] == 1 and ground.pod("alone")["ready"])


@pytest.mark.parametrize("delay", [0.2, 0.35, 0.5, 0.7, 0.9])
def test_up_and_supervisor_killed_in_the_middle_then_up(ground: Playground, delay: float) -> None:
    kill_in_the_middle(ground, delay)
    ground.run(*UP)
    assert all(pod["ready"] for pod in ground.status["pods"])
    assert len(ground.status["pods"]) == 5
    assert len(ground.fetch("default/client", "http://web.shop/", times=5)) == 5


@pytest.mark.parametrize("delay", [0.1, 0.4, 0.6, 0.8])
def test_up_and_supervisor_killed_in_the_middle_then_down(ground: Playground, delay: float) -> None:
    kill_in_the_middle(ground, delay)
    ground.run("down")
    assert ground.remains() == []


def kill_in_the_middle(ground: Playground, delay: float) -> None:
    command = ground.start(*UP)
    time.sleep(delay)
    command.kill()
    command.wait()
    for pid in supervisors(ground):
        os.kill(pid, signal.SIGKILL)


def supervisors(ground: Playground) -> list[int]:
    done = subprocess.run(["pgrep", "-f", f"culvert.playground.supervisor {ground.name} "], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_up_killed_alone_goes_on_in_the_background(ground: Playground, number: signal.Signals, code: int) -> None:
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would what they start
    try:
        command = ground.start(*UP)
    finally:
        signal.signal(signal.SIGINT, ignored)
    wait("the supervisor", lambda: ground.layout.supervisor_pid.exists())
    command.send_signal(number)
    assert command.wait() == code
    wait("all pods", lambda: ground.layout.status.exists() and sum(pod["ready"] for pod in ground.status["pods"]) == 5)


def test_down_finds_everything_without_the_state_directory(ground: Playground) -> None:
    ground.run(*UP)
    os.kill(ground.supervisor(), signal.SIGKILL)
    shutil.rmtree(ground.layout.state)
    ground.run("down")
    assert ground.remains() == []


def test_a_recycled_pid_is_nobodys(ground: Playground) -> None:
    """A pid file that names a stranger's process: neither a new supervisor nor `down` touches it."""
    ground.run(*UP)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            os.kill(ground.supervisor(), signal.SIGKILL)
            victim = next(Path(ground.layout.pids).glob("pod.default.client.*"))
            raw = read_json(victim)
            mine = identify(stranger.pid)
            assert mine is not None
            write_json(victim, {**raw, "pid": stranger.pid, "start": mine.start - 1})
            write_json(ground.layout.pids / "gone.json", {"pid": stranger.pid, "start": mine.start + 1, "restarts": 0})
            ground.run(*UP)
            ground.run("down")
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert ground.remains() == []


def test_a_namespace_removed_by_hand_is_made_again(ground: Playground) -> None:
    ground.run(*UP)
    pod = ground.pod("client")
    os.kill(ground.supervisor(), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", ground.layout.node("node-1")], check=True)
    ground.run(*UP)
    assert ground.pod("client")["ips"] == pod["ips"]
    assert len(ground.fetch("default/client", "http://web.shop/", times=10)) == 10


def test_down_twice_and_down_of_nothing(ground: Playground) -> None:
    ground.run("down")
    ground.run("down")


def test_two_ups_at_once_end_as_one(ground: Playground) -> None:
    first, second = ground.start(*UP), ground.start(*UP)
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert len(ground.status["pods"]) == 5
    assert len(supervisors(ground)) == 1
