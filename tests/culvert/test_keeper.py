"""Keeping a program running: policy, back-off, adoption. Real processes, in this namespace."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from culvert.playground import keeper as keeper_module
from culvert.playground.files import read_json, write_json
from culvert.playground.keeper import CANNOT_START, BackOff, Keeper, KeeperState, Restarting
from culvert.playground.launch import Program, Worker
from culvert.playground.processes import alive
from culvert.playground.statusfile import succeeded

QUICK = BackOff(0.01, 0.02, 60)


class Here(Worker):
    """Starts programs where we are, instead of in a namespace."""

    async def start(self, program: Program) -> subprocess.Popen[bytes]:
        return subprocess.Popen(program.argv, start_new_session=True)


@pytest.fixture(autouse=True)
def one_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module.netns, "inode", lambda name: os.stat("/proc/self/ns/net").st_ino)


def make(tmp_path: Path, policy: str, *argv: str, changed: Callable[[], None] = lambda: None) -> Keeper:
    program = Program(argv, {}, "none", tmp_path / "log")
    return Keeper("it", Here(), tmp_path, lambda: program, Restarting(policy, QUICK), changed)


@pytest.mark.parametrize(("previous", "lived", "delay"), [(0, 0, 1), (1, 5, 2), (2, 5, 4), (16, 5, 30), (30, 5, 30), (30, 60, 1)])
def test_back_off_doubles_to_its_ceiling_and_forgives(previous: float, lived: float, delay: float) -> None:
    assert BackOff(1, 30, 60).next(previous, lived) == delay


@pytest.mark.parametrize(("policy", "script", "code"), [("Never", "exit 3", 3), ("OnFailure", "exit 0", 0), ("Never", "kill -9 $$", -9)])
def test_a_satisfied_policy_ends_it_for_good(tmp_path: Path, policy: str, script: str, code: int) -> None:
    async def run() -> None:
        it = make(tmp_path, policy, "sh", "-c", script)
        assert await it.run() == code
        assert (it.state, it.restarts) == (KeeperState.EXITED, 0)
        assert succeeded(it) == (code == 0)
        # A later supervisor does not run it again.
        again = make(tmp_path, policy, "sh", "-c", "exit 99")
        assert await again.run() == code

    asyncio.run(run())


def test_it_is_restarted_until_it_is_stopped(tmp_path: Path) -> None:
    async def run() -> None:
        enough = asyncio.Event()
        it = make(tmp_path, "Always", "sh", "-c", "exit 1", changed=lambda: enough.set() if it.restarts >= 3 else None)
        running = asyncio.create_task(it.run())
        await asyncio.wait_for(enough.wait(), 10)
        await it.stop(1)
        await running
        assert it.state is KeeperState.STOPPED
        assert it.restarts >= 3

    asyncio.run(run())


def test_what_does_not_exist_is_tried_again_and_said(tmp_path: Path) -> None:
    async def run() -> None:
        said = asyncio.Event()
        it = make(tmp_path, "Always", "/does/not/exist", changed=lambda: said.set() if it.state is KeeperState.BACK_OFF else None)
        running = asyncio.create_task(it.run())
        await asyncio.wait_for(said.wait(), 10)
        assert it.exit_code == CANNOT_START
        assert "cannot start /does/not/exist: No such file or directory" in it.detail
        await it.stop(1)
        await running

    asyncio.run(run())


def test_stop_escalates_and_takes_the_children_along(tmp_path: Path) -> None:
    async def run() -> None:
        up = asyncio.Event()
        script = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; while :; do sleep 0.05; done"
        it = make(tmp_path, "Always", "sh", "-c", script, changed=up.set)
        running = asyncio.create_task(it.run())
        await asyncio.wait_for(up.wait(), 10)
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            await asyncio.sleep(0.01)
        child = keeper_module.identify(int((tmp_path / "child").read_text()))
        assert child is not None
        await it.stop(0.1)
        await running
        assert it.process is None
        async with asyncio.timeout(5):
            while alive(child):
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_process_of_an_earlier_supervisor_is_taken_over(tmp_path: Path) -> None:
    async def run() -> None:
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
            process = keeper_module.identify(child.pid)
            assert process is not None
            write_json(tmp_path / "it.json", {"pid": process.pid, "start": process.start, "restarts": 2})
            adopted = asyncio.Event()
            it = make(tmp_path, "Always", "sh", "-c", "exit 99", changed=adopted.set)
            running = asyncio.create_task(it.run())
            await asyncio.wait_for(adopted.wait(), 10)
            assert (it.process, it.restarts, it.state) == (process, 2, KeeperState.RUNNING)
            await it.stop(5)
            await running
            assert it.exit_code is None

    asyncio.run(run())


def test_a_recycled_pid_is_not_taken_over(tmp_path: Path) -> None:
    async def run() -> None:
        me = keeper_module.identify(os.getpid())
        assert me is not None
        write_json(tmp_path / "it.json", {"pid": me.pid, "start": me.start - 1, "restarts": 0})
        it = make(tmp_path, "OnFailure", "sh", "-c", "exit 0")
        assert await it.run() == 0
        assert it.restarts == 1
        assert read_json(tmp_path / "it.json")["pid"] != me.pid

    asyncio.run(run())
