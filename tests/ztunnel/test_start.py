"""What holds keys forbids that its memory comes to lie on a disk, as its first deed. What that does to a crash: tests/io/test_dumps.py."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
LIMIT = resource.getrlimit(resource.RLIMIT_CORE)[1]


def may_dump(pid: int) -> bool:
    (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core file size")]
    return line.split()[4:6] != ["0", "0"]


@pytest.mark.skipif(LIMIT == 0, reason="nobody here may dump")
@pytest.mark.parametrize("module", ["ztunnel", "ztunnel.keysmith"])
def test_no_memory_of_what_holds_keys_is_dumped(tmp_path: Path, module: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "NODE_NAME": "node-1",
        "XDS_ADDRESS": "http://127.0.0.1:1",
        "AUTH_TOKEN": "none",
        "INPOD_UDS": str(tmp_path / "ztunnel.sock"),
        "CULVERT_MARK_FILE": str(tmp_path / "mark"),
        **dict.fromkeys(("ADMIN_ADDR", "STATS_ADDR", "READINESS_ADDR"), "127.0.0.1:0"),
    }

    def raise_limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (LIMIT, LIMIT))
        signal.signal(signal.SIGABRT, signal.SIG_DFL)

    child = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=raise_limit,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while may_dump(child.pid):
            assert child.poll() is None, child.stdout.read() if child.stdout else ""
            assert time.monotonic() < deadline, "it never forbade it"
            time.sleep(0.01)
        child.send_signal(signal.SIGABRT)
        _, status = os.waitpid(child.pid, 0)
        child.returncode = status
        assert not os.WCOREDUMP(status)
    finally:
        if child.returncode is None:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
