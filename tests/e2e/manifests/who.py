"""A web server for the playground's tests: says who answers and who asked; its health can be switched by request.

GET / -> "<host name> <peer address>"; GET /ready and /live -> 200 or 503; GET /fail/ready, /mend/ready, /fail/live switch them.
"""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BROKEN: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _, _, rest = self.path.partition("/")
        verb, _, what = rest.partition("/")
        if verb == "fail":
            BROKEN.add(what)
        elif verb == "mend":
            BROKEN.discard(what)
        peer = self.client_address[0].removeprefix("::ffff:")
        body = f"{socket.gethostname()} {peer} {os.environ.get('VERSION', '')}\n".encode()
        self.send_response(503 if rest in BROKEN else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


print("serving", os.getcwd(), *sys.argv[1:], flush=True)
Server(("::", 8080), Handler).serve_forever()
