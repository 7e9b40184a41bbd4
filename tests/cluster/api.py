"""A small client of the API server for tests: JSON in and out, watches line by line, no cache, no retries, nothing hidden."""

from __future__ import annotations

import json
import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

Object = dict[str, Any]
Query = Mapping[str, str | int]
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
SECONDS = 30.0
READ = 65536


class ApiError(AssertionError):
    """The server's own word: `status` (HTTP), `reason` and message of its Status object, `headers` in lower case."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        try:
            answer = json.loads(body)
            self.reason, message = answer.get("reason", ""), answer.get("message", "")
        except (ValueError, AttributeError):
            self.reason, message = "", body[:500].decode(errors="replace")
        super().__init__(f"{status} {self.reason}: {message}")


class Api:
    """One URL, one CA, one credential."""

    def __init__(self, url: str, ca: Path, token: str = "") -> None:
        self.url = url
        self.token = token
        self._context = ssl.create_default_context(cafile=str(ca)) if url.startswith("https:") else None

    def get(self, path: str, **query: str | int) -> Object:
        return self.request("GET", path, query=query)

    def items(self, path: str, **query: str | int) -> list[Object]:
        listed: list[Object] = self.get(path, **query)["items"]
        return listed

    def post(self, path: str, body: Object) -> Object:
        return self.request("POST", path, body)

    def put(self, path: str, body: Object) -> Object:
        return self.request("PUT", path, body)

    def patch(self, path: str, body: Object) -> Object:
        """A merge patch."""
        return self.request("PATCH", path, body, content_type=MERGE_PATCH)

    def delete(self, path: str) -> Object:
        return self.request("DELETE", path)

    def request(self, method: str, path: str, body: Object | None = None, content_type: str = JSON, query: Query | None = None) -> Object:
        with self.open(method, path, body, content_type, query) as response:
            answer: Object = json.loads(_content(response))
        return answer

    def text(self, path: str) -> str:
        """/readyz, /metrics."""
        with self.open("GET", path) as response:
            return _content(response).decode()

    def watch(self, path: str, version: str = "", seconds: int = 10, **query: str | int) -> Generator[Object, None, None]:
        """Events until the server ends the watch, after `seconds` at the latest. `version`: resourceVersion to begin after."""
        watching: Query = {"watch": 1, "resourceVersion": version, "timeoutSeconds": seconds, **query}
        with self.open("GET", path, query=watching) as response:
            if response.status >= 300:
                _content(response)
            for line in _lines(response):
                yield json.loads(line)

    @contextmanager
    def open(
        self, method: str, path: str, body: Object | None = None, content_type: str = JSON, query: Query | None = None
    ) -> Iterator[HTTPResponse]:
        """The response as it begins. OSError and http.client.HTTPException where the connection fails."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        if self._context is None:
            connection = HTTPConnection(parts.hostname, parts.port, timeout=SECONDS)
        else:
            connection = HTTPSConnection(parts.hostname, parts.port, timeout=SECONDS, context=self._context)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            headers["Content-Type"] = content_type
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            connection.request(method, target, json.dumps(body) if body is not None else None, headers)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()


def _content(response: HTTPResponse) -> bytes:
    content = response.read()
    if response.status >= 300:
        raise ApiError(response.status, content, {name.lower(): value for name, value in response.getheaders()})
    return content


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    """Each as it comes; IncompleteRead where the connection ended before the answer did. Iterating the response itself would hide that."""
    rest = b""
    while data := response.read1(READ):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest
