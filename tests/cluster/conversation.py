"""Small things that the tests of the harness share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from tests.cluster.api import Api, ApiError, Object

T = TypeVar("T")
GONE = 410


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def maps_in(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def assert_expired(api: Api, path: str, version: str) -> None:
    """The server says so by status, or by the first event, as it likes."""
    try:
        told = [(event["type"], event["object"].get("code")) for event in api.watch(path, version, seconds=2)]
    except ApiError as failure:
        told = [("ERROR", failure.status)]
    assert told == [("ERROR", GONE)]


@contextlib.contextmanager
def in_background(work: Callable[[], T]) -> Iterator[Callable[..., T]]:
    """`work` on a thread; the callable gives its result, TimeoutError if there is none after so many seconds."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()

    def outcome(seconds: float = 10.0) -> T:
        thread.join(seconds)
        if not results:
            raise TimeoutError
        return results[0]

    yield outcome
    thread.join(10)
    assert not thread.is_alive()
