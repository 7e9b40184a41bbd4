"""Servers for proxies to send requests to: they answer with what they were asked, and do as the path says.

/status/503          answers that
/flaky/<key>/2       503 twice, then 200
/slow/1.5            waits that long
/close               closes without an answer
/last                closes the connection after the answer
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Upstream:
    """`seen` are the requests that came: {path: how often}; `documents` what is answered instead of what was asked."""

    name: str
    port: int
    host: str
    seen: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    came: threading.Condition = field(default_factory=threading.Condition)
    stopping: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, path: str, seconds: float = 5) -> bool:
        with self.came:
            return self.came.wait_for(lambda: self.seen[path] > 0, seconds)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Proxies end connections as they like."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one write per answer: two would wait for each other
    upstream: Upstream

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]},{value}" if key in headers else value
        request = {
            "server": self.upstream.name,
            "method": self.command,
            "path": self.path,
            "headers": headers,
            "body": body.decode(),
        }
        with self.upstream.came:
            self.upstream.seen[self.path] += 1
            self.upstream.requests.append(request)
            self.upstream.came.notify_all()
        _, kind, *rest = self.path.partition("?")[0].split("/")
        status = 200
        if kind == "status":
            status = int(rest[0])
        elif kind == "flaky" and self.upstream.seen[self.path] <= int(rest[1]):
            status = 503
        elif kind == "slow":
            self.upstream.stopping.wait(float(rest[0]))
        elif kind == "close":
            self.close_connection = True
            return
        self.close_connection |= kind == "last"
        text = self.upstream.documents.get(self.path) or json.dumps(request).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.send_header("x-server", self.upstream.name)
        if self.close_connection:
            self.send_header("connection", "close")
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        if certificate:
            self.send_header("x-client", str(certificate["subjectAltName"][0][1]))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_HEAD = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def upstream(
    name: str, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None, listener: socket.socket | None = None
) -> Iterator[Upstream]:
    """`listener` is one that is there already, in whatever namespace."""
    listening = listener or socket.create_server((host, port), backlog=Server.request_queue_size)
    handler = type("NamedHandler", (Handler,), {})
    with Server(listening, handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        handler.upstream = made = Upstream(name, server.server_address[1], host)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.stopping.set()
            server.shutdown()
            thread.join(5)
