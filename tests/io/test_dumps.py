"""No memory of a process that holds keys comes to lie on a disk. In processes of their own, since it cannot be taken back."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CRASH = """
import os, resource, signal, sys
from mesh.io.dumps import _libc, forbid_dumps
if sys.argv[1] == "forbid":
    forbid_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), "dumpable:", _libc.prctl(3, 0, 0, 0, 0), flush=True)  # PR_GET_DUMPABLE
open("/proc/self/smaps").close()
os.listdir("/proc/self/fd")
signal.signal(signal.SIGABRT, signal.SIG_DFL)  # whoever runs the tests may ignore it, which is inherited
os.kill(os.getpid(), signal.SIGABRT)
"""


def crash(how: str, directory: Path) -> tuple[int, str, bool]:
    """The signal that ended it, what it said, and whether the kernel made a dump."""
    script = directory / "crash.py"
    script.write_text(CRASH)
    command = [sys.executable, str(script), how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]

    def raise_limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))

    child = subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=raise_limit)
    assert child.stdout is not None
    said = child.stdout.read().strip()
    _, status = os.waitpid(child.pid, 0)
    child.returncode = -os.WTERMSIG(status)
    child.stdout.close()
    return os.WTERMSIG(status), said, os.WCOREDUMP(status)


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="nobody here may dump")
def test_without_it_there_is_a_dump(tmp_path: Path) -> None:
    number, _, dumped = crash("allow", tmp_path)
    assert number == signal.SIGABRT
    assert dumped, "then the other test cannot fail"


def test_a_crash_leaves_no_dump(tmp_path: Path) -> None:
    number, said, dumped = crash("forbid", tmp_path)
    assert number == signal.SIGABRT
    assert said == "(0, 0) dumpable: 0"
    assert not dumped
    assert [path.name for path in tmp_path.iterdir()] == ["crash.py"]
