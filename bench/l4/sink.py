"""Takes uploads as fast as the kernel can drop them: `sink.py ADDRESS PORT`. One HTTP request with a Content-Length per connection.

MSG_TRUNC discards received TCP data without copying it, so that the far end of the pipe costs next to nothing.
"""

from __future__ import annotations

import socket
import sys
import threading

CHUNK = 1 << 20
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def take(sock: socket.socket) -> None:
    with sock:
        data = b""
        while b"\r\n\r\n" not in data and (piece := sock.recv(65536)):
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        left, buffer = length - len(rest), bytearray(CHUNK)
        while left > 0 and (count := sock.recv_into(buffer, min(left, CHUNK), socket.MSG_TRUNC)):
            left -= count
        if left == 0:
            sock.sendall(ANSWER)


if __name__ == "__main__":
    with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:
        while True:
            threading.Thread(target=take, args=(listener.accept()[0],), daemon=True).start()
