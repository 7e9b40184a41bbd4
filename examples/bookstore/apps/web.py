"""A JSON web server of a few lines for the bookstore's services: standard library, IPv4 and IPv6, one thread a connection."""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, object]
Route = Callable[[str], Answer]


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(port: int, routes: dict[tuple[str, str], Route]) -> None:
    """Serve for ever. `routes` maps (method, first part of the path) to a function of the rest of the path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            first, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
            route = routes.get((self.command, first))
            try:
                status, body = route(rest) if route else (404, {"error": f"nothing at {self.path}"})
            except OSError as error:  # what it depends on is not there: say so, stay up
                status, body = 503, {"error": f"{type(error).__name__}: {error}"}
            data = json.dumps(body).encode() + b"\n"
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            sys.stderr.write(f"{self.client_address[0]} {format % args}\n")

    Server(("::", port), Handler).serve_forever()


def call(url: str, method: str = "GET", timeout: float = 5.0) -> Answer:
    """Call another service: status and parsed body. Raises OSError if it cannot be reached."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=timeout) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
