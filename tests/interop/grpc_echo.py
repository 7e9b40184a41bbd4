"""gRPC servers that say who they are, for clients of any make. Codecs are the identity: what goes over the wire are plain bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

SERVICE, METHOD = "echo.Echo", "Say"


@dataclass
class Echo:
    """Answers with its name; fails with UNAVAILABLE as often as it is told to. The header `x-slow` has it wait first, in seconds."""

    name: str
    port: int = 0
    calls: int = 0
    failures: int = 0
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self.lock:
            self.calls += 1
            self.metadata.append(dict(context.invocation_metadata()))
            failing, self.failures = self.failures > 0, max(self.failures - 1, 0)
        time.sleep(float(dict(context.invocation_metadata()).get("x-slow", 0)))
        if failing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return message(self.name)


def message(text: str) -> bytes:
    """A protocol buffer whose field 1 is this string, so that clients with a schema can read it too."""
    data = text.encode()
    return bytes((0x0A, len(data))) + data


def read(data: bytes) -> str:
    return data[2:].decode()


@contextmanager
def echo(name: str, host: str, port: int = 0) -> Iterator[Echo]:
    made = Echo(name)
    server = grpc.server(ThreadPoolExecutor(8))
    handler = grpc.unary_unary_rpc_method_handler(made.say)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    made.port = server.add_insecure_port(f"{host}:{port}")
    server.start()
    try:
        yield made
    finally:
        server.stop(0).wait(5)
