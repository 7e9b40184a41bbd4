"""New connections per second: each request opens a TCP connection of its own. `connections.py HOST PORT CLIENTS TOTAL SECONDS` prints JSON.

Bounded in count and in time; a connection that fails is counted, never repeated.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


def main(host: str, port: int, clients: int, total: int, seconds: float) -> dict[str, float]:
    poll = select.epoll()
    open_sockets: dict[int, list[object]] = {}  # fd -> [socket, bytes received]
    started = done = failed = 0

    def start() -> None:
        nonlocal started
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((host, port))
        open_sockets[sock.fileno()] = [sock, -1]
        poll.register(sock.fileno(), select.EPOLLOUT)
        started += 1

    begin = time.perf_counter()
    for _ in range(clients):
        start()
    while done + failed < total and time.perf_counter() - begin < seconds:
        for fd, events in poll.poll(1):
            entry = open_sockets[fd]
            sock, received = entry
            assert isinstance(sock, socket.socket)
            assert isinstance(received, int)
            try:
                if events & select.EPOLLOUT and received < 0:
                    sock.send(REQUEST)
                    entry[1] = 0
                    poll.modify(fd, select.EPOLLIN)
                    continue
                if data := sock.recv(65536):
                    entry[1] = received + len(data)
                    continue
                whole = received > 0
            except OSError:
                whole = False
            poll.unregister(fd)
            sock.close()
            del open_sockets[fd]
            done, failed = done + whole, failed + (not whole)
            if started < total:
                start()
    took = time.perf_counter() - begin
    return {"per_second": done / took, "done": done, "failed": failed, "seconds": took}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))))
