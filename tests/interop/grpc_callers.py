"""gRPC clients of several makes behind one interface: a process that keeps a channel and is told what to call, or one process per call."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from tests.interop.grpc_echo import METHOD, SERVICE, read

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 15
AT_ONCE = 4
OWN_CODES = 64
"""What grpcurl ends with up to this is about itself; beyond, it is the call's status."""
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Caller(Protocol):
    """An answer is the name of the server that gave it, or `CODE: text`. Names of headers have underscores here for their dashes."""

    def calls(self, count: int, *, together: bool = False, **metadata: str) -> Counter[str]: ...

    def call(self, **metadata: str) -> str: ...


class Channel:
    """A process that keeps one channel. It speaks as grpc_client.py does, in lines of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def calls(self, count: int, *, together: bool = False, **metadata: str) -> Counter[str]:
        wanted = {"method": f"/{SERVICE}/{METHOD}", "headers": _headers(metadata), "timeout": TIMEOUT_SECONDS, "wait": False}
        lines, each = (1, count) if together else (count, 1)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps({**wanted, 'count': each})}\n" * lines)
        self._process.stdin.flush()
        answers = [answer for _ in range(lines) for answer in json.loads(self._process.stdout.readline())]
        return Counter(read(text.encode()) if code == "OK" else f"{code}: {text}" for code, text in answers)

    def call(self, **metadata: str) -> str:
        (answer,) = self.calls(1, **metadata)
        return answer


@contextmanager
def channel(command: Sequence[str | Path], environment: Mapping[str, str]) -> Iterator[Channel]:
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as process:
        try:
            yield Channel(process)
        finally:
            process.kill()


@dataclass
class Grpcurl:
    """A new process, and so a new channel, for every call."""

    program: Path
    target: str
    environment: Mapping[str, str]

    def calls(self, count: int, *, together: bool = False, **metadata: str) -> Counter[str]:
        with ThreadPoolExecutor(count if together else AT_ONCE) as executor:
            return Counter(executor.map(lambda _: self.call(**metadata), range(count)))

    def call(self, **metadata: str) -> str:
        command = [self.program, "-plaintext", "-connect-timeout", "5", "-max-time", str(TIMEOUT_SECONDS), "-format-error"]
        command += ["-import-path", Path(__file__).parent, "-proto", "grpc_echo.proto"]
        for name, value in _headers(metadata).items():
            command += ["-H", f"{name}: {value}"]
        command += [self.target, f"{SERVICE}/{METHOD}"]
        done = subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return str(json.loads(done.stdout)["text"])
        if done.returncode <= OWN_CODES:
            return f"no connection: {done.stderr}"
        return f"{CODES[done.returncode - OWN_CODES]}: {json.loads(done.stderr)['message']}"


def _headers(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in metadata.items()}
