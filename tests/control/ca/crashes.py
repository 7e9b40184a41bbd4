"""Kills a save at every line that it runs, and looks what is there: `python -m tests.control.ca.crashes DIRECTORY`, from test_directory.

A process of its own, since it forks hundreds of times: in the tests' process there are threads of others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from control.ca import directory as module
from control.ca.directory import DirectoryStore
from control.ca.rotation import introduce
from control.ca.state import State
from tests.control.ca.support import a_state


def dies_at(line: int, work: Callable[[], object]) -> bool:
    """Do something in a process that is killed at the n-th line that it runs of the module; whether it came to that."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            count += 1
            if count == line:
                os._exit(9)  # no `finally` and no `except` runs
        return trace

    child = os.fork()
    if not child:
        try:
            sys.settrace(trace)
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def a_later_save(home: Path, one: State, introduced: State) -> int:
    """There is the old state or the new one, and whoever comes next finds it in order. The number of lines."""
    store = DirectoryStore(home)
    version = store.write(one, "")
    line, new = 1, []
    while dies_at(line, lambda: store.write(introduced, version)):  # noqa: B023 - called before the next turn
        found = store.read()
        assert found is not None
        assert found.state in (one, introduced), line
        new.append(found.state == introduced)
        version = store.write(one, found.version)
        assert {entry.name for entry in home.iterdir()} == {"current", "lock", version}, line
        line += 1
    assert not new[0]
    assert new[-1]
    assert new == sorted(new), "once the new one is there, it stays"
    return line


def the_first_save(home: Path, one: State) -> int:
    """There is all or nothing."""
    line = 0
    while True:
        line += 1
        store = DirectoryStore(home / str(line))
        died = dies_at(line, lambda: store.write(one, ""))  # noqa: B023 - called before the next turn
        found = store.read()
        assert found is None or found.state == one, line
        if found is None:
            store.write(one, "")
        if not died:
            return line


if __name__ == "__main__":
    os.fsync = lambda fd: None  # the machine goes on: what a process wrote is there
    first = a_state()
    lines = a_later_save(Path(sys.argv[1]) / "later", first, introduce(first, a_state().current, 0))
    print(lines, the_first_save(Path(sys.argv[1]), first))
