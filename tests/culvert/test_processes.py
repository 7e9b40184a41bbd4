"""Process identity: a pid alone is nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from culvert.playground.processes import ProcessId, alive, end_all, identify, in_session, open_pidfd, parse_stat, send


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        yield child
        child.kill()


def identity(child: subprocess.Popen[bytes]) -> ProcessId:
    found = identify(child.pid)
    assert found is not None
    return found


def test_a_name_with_spaces_and_parentheses_does_not_shift_the_fields() -> None:
    rest = " ".join(["S", *map(str, range(1, 19)), "4711", "0", "0"])
    assert parse_stat(f"12 (a) S (b c) {rest}") == ("S", 4711)
    assert parse_stat("12 (short) S 1 2") is None


def test_text_form_goes_there_and_back() -> None:
    assert ProcessId.parse(str(ProcessId(12, 3456))) == ProcessId(12, 3456)
    assert ProcessId.parse("12") is None
    assert ProcessId.parse("a@b") is None


def test_another_process_with_the_same_pid_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    mine = identity(sleeper)
    recycled = ProcessId(mine.pid, mine.start - 1)
    assert not alive(recycled)
    assert open_pidfd(recycled) is None
    assert not send(recycled, signal.SIGKILL)
    assert end_all([recycled], 0.1) == []
    assert sleeper.poll() is None


def test_a_zombie_is_gone_unless_asked_for(sleeper: subprocess.Popen[bytes]) -> None:
    mine = identity(sleeper)
    assert send(mine, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while alive(mine) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not alive(mine)
    assert identify(mine.pid, zombies=True) == mine


def test_end_all_escalates() -> None:
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done"], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        assert end_all([identity(stubborn)], 0.1) == []
        assert stubborn.wait(5) == -signal.SIGKILL


def test_a_session_is_its_members_without_the_leader() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        inode = os.stat("/proc/self/ns/net").st_ino
        assert [process.pid for process in in_session(leader.pid, inode)] == [child]
        assert in_session(leader.pid, inode + 1) == []
        os.killpg(leader.pid, signal.SIGKILL)
