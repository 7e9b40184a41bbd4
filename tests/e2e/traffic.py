"""A client that keeps talking while the mesh changes under it: the pod's side of tests/e2e/mesh.py.

`traffic.py SOCKET` takes the commands of conversations.py, and:

    begin key host workers held pause   new connections one after another in `workers` threads; `held` connections talk all the time
    look key                            what came of them so far
    end key                             the same, after the last of them
    crowd key host count                open `count` connections to the server that speaks first; they stay open, idle
    roll_call key                       use each of them, and close it
    paced host size seconds             send `size` bytes over about `seconds`, half-close, and have their hash confirmed

Times are of the monotonic clock, which is one for the whole machine, so that a test can compare them with its own.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import closing

import conversations
from conversations import BLOCK, CLIENT_FIRST, CLIENT_HALF_CLOSE, SERVER_FIRST, connect, talk_client_first

PATIENCE = 8.0  # seconds for one new connection and its answer
KEPT = 20  # failures that are told in full


class Traffic:
    def __init__(self, host: str, port: int, workers: int, held: int, pause: float) -> None:
        self.host, self.port, self.pause = host, port, pause
        self.good = 0
        self.rounds = 0
        self.failed: list[tuple[float, float, str]] = []  # begun, ended, why
        self.outages: list[tuple[float, float]] = []  # begin of the first that failed, end of the next that worked
        self.held_failed: list[tuple[float, str]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        sockets = [connect(host, port, PATIENCE) for _ in range(held)]
        self._threads = [threading.Thread(target=self._hold, args=(sock,)) for sock in sockets]
        self._threads += [threading.Thread(target=self._work) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        broken: float | None = None
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                with connect(self.host, self.port, PATIENCE) as sock:
                    if not talk_client_first(sock, self.host, 0)["ok"]:
                        raise EOFError("no answer")
            except (OSError, EOFError) as error:
                broken = broken or begun
                with self._lock:
                    self.failed.append((begun, time.monotonic(), repr(error)))
            else:
                with self._lock:
                    self.good += 1
                    if broken is not None:
                        self.outages.append((broken, time.monotonic()))
                broken = None
            self._stop.wait(self.pause)

    def _hold(self, sock: socket.socket) -> None:
        try:
            with sock:
                while not self._stop.wait(0.02):
                    if not talk_client_first(sock, self.host, 0)["ok"]:
                        raise EOFError("end of stream")
                    with self._lock:
                        self.rounds += 1
        except (OSError, EOFError) as error:
            with self._lock:
                self.held_failed.append((time.monotonic(), repr(error)))

    def look(self) -> dict[str, object]:
        with self._lock:
            return {
                "good": self.good,
                "rounds": self.rounds,
                "failures": len(self.failed),
                "failed": self.failed[:KEPT],
                "outages": self.outages[:],
                "held_failed": self.held_failed[:],
                "now": time.monotonic(),
            }

    def end(self) -> dict[str, object]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.look()


running: dict[str, Traffic] = {}
crowds: dict[str, list[socket.socket]] = {}


def begin(key: str, host: str, workers: int, held: int, pause: float) -> dict[str, object]:
    running[key] = Traffic(host, CLIENT_FIRST, workers, held, pause)
    return {"ok": True}


def look(key: str) -> dict[str, object]:
    return running[key].look()


def end(key: str) -> dict[str, object]:
    return running.pop(key).end()


def crowd(key: str, host: str, count: int) -> dict[str, object]:
    """Stops at the first that does not get its banner, and says why."""
    sockets = crowds.setdefault(key, [])
    for _ in range(count):
        sock = None
        try:
            sock = connect(host, SERVER_FIRST)
            if not sock.recv(4096).startswith(b"220 "):
                raise EOFError("no banner")
        except (OSError, EOFError) as error:
            if sock is not None:
                sock.close()
            return {"open": len(sockets), "error": repr(error)}
        sockets.append(sock)
    return {"open": len(sockets)}


def roll_call(key: str) -> dict[str, object]:
    good, failed = 0, []
    for sock in crowds.pop(key):
        with closing(sock):
            try:
                sock.sendall(b"present")
                if sock.recv(4096) != b"present":
                    raise EOFError("no answer")
                good += 1
            except (OSError, EOFError) as error:
                failed.append(repr(error))
    return {"good": good, "failed": failed[:KEPT]}


def paced(host: str, size: int, seconds: float) -> dict[str, object]:
    begun, sent = time.monotonic(), 0
    with connect(host, CLIENT_HALF_CLOSE, 30) as sock:
        while sent < size:
            sent += sock.send(BLOCK[: min(size - sent, len(BLOCK))])
            time.sleep(max(0.0, begun + seconds * sent / size - time.monotonic()))
        sock.shutdown(socket.SHUT_WR)
        answer = json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))
    return {"ok": answer["count"] == size, "begun": begun, "ended": time.monotonic(), "answer": answer}


if __name__ == "__main__":
    conversations.COMMANDS.update({"begin": begin, "look": look, "end": end, "crowd": crowd, "roll_call": roll_call, "paced": paced})
    conversations.drive(sys.argv[1])
