"""The control plane under measurement, in a process of its own. Commands come as JSON lines on standard input, answers go back likewise.

{"do": "start", "pods": 10000}      → ports and files; clients may connect
{"do": "load"}                      → when all objects were handed over, when they were published (seconds of the machine's clock)
{"do": "change", "pod": 7}          → when the change was handed over
{"do": "cost"}                      → CPU seconds so far, resident MB
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.control.mesh import NODES, Size, objects, origin, pod
from control.app import ControlPlane
from control.config import Config
from control.resolve import Changes
from control.sources import Sink, SourceState
from mesh.io.log import setup
from mesh.io.loop import run
from mesh.model.manifest import Parsed

TOKEN = "token-of-bench-node-"


class Synthetic:
    """A source that holds what it is told to."""

    name = "synthetic"

    def __init__(self) -> None:
        self.state = SourceState()
        self.sink: Sink | None = None
        self.running = asyncio.Event()

    async def run(self, sink: Sink) -> None:
        self.sink = sink
        self.running.set()
        await asyncio.Event().wait()


class Plane:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = Synthetic()
        self.published = asyncio.Event()
        self.size = Size(0)
        self.ready: dict[int, bool] = {}

    async def serve(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tokens = self.directory / "tokens"
        tokens.mkdir()
        for number in range(NODES):
            (tokens / f"node-{number}").write_text(f"{TOKEN}{number:05}\n")
            (tokens / f"node-{number}").chmod(0o600)
        config = Config(
            manifests=(),
            ca_dir=self.directory / "ca",
            node_tokens=tokens,
            xds_address="127.0.0.1:0",
            xds_plaintext="",
            http_address="127.0.0.1:0",
        )
        self.plane = ControlPlane(config, [self.source])
        self.plane.pipeline.published = self._published
        await self.plane.start()
        task = asyncio.create_task(self.plane.run())
        await self.source.running.wait()
        try:
            while line := await reader.readline():
                command = json.loads(line)
                answer = await getattr(self, f"do_{command.pop('do')}")(**command)
                print(json.dumps(answer), flush=True)
        finally:
            task.cancel()
            await self.plane.close()

    def _published(self, changes: Changes) -> None:
        self.published.set()

    async def do_start(self, pods: int) -> dict[str, Any]:
        self.size = Size(pods)
        return {"port": self.plane.ports["xds"], "root": str(self.directory / "ca" / "root-cert.pem")}

    async def do_load(self) -> dict[str, Any]:
        assert self.source.sink is not None
        for entry in objects(self.size):
            self.source.sink.put(origin(entry.key), Parsed((entry,)))
        gc.collect()
        handed = time.monotonic()
        self.source.state = SourceState(synced=True)
        self.source.sink.changed()
        await self.published.wait()
        return {"handed": handed, "published": time.monotonic()}

    async def do_change(self, pod_number: int) -> dict[str, Any]:
        assert self.source.sink is not None
        ready = self.ready[pod_number] = not self.ready.get(pod_number, True)
        entry = pod(self.size, pod_number, ready=ready)
        handed = time.monotonic()
        self.source.sink.put(origin(entry.key), Parsed((entry,)))
        return {"handed": handed}

    async def do_cost(self) -> dict[str, Any]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {"cpu": time.process_time(), "rss": pages * 4096 / 1e6, "computed": self.plane.mesh.engine.computed}


def main() -> None:
    setup("error", "text")
    with tempfile.TemporaryDirectory(prefix="culvert-bench-") as directory:
        run(Plane(Path(directory)).serve())


if __name__ == "__main__":
    main()
