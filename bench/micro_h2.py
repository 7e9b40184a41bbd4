"""What HTTP/2 framing costs per frame and per stream, one end at a time, no I/O: `python bench/micro_h2.py`.

Times are CPU of one core, the best of several rounds (the machine may be busy with other things). Not compared here: see the
benchmarks against peers for that; this one tells whether a change to `mesh/wire/h2` made a frame dearer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mesh.model.workload import SocketAddress
from mesh.wire.h2 import CLIENT_SETTINGS, SERVER_SETTINGS, DataReceived, H2Connection, Limits, RequestReceived
from mesh.wire.hbone import connect_headers, read_request, response_headers, traceparent

ROUNDS = 7
BAGGAGE = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart,service.version=v1"


def pair() -> tuple[H2Connection, H2Connection]:
    client, server = H2Connection(True, CLIENT_SETTINGS, Limits()), H2Connection(False, SERVER_SETTINGS, Limits())
    client.start(0.0)
    server.start(0.0)
    for _ in range(3):
        server.receive(memoryview(client.take_output()), 0.0)
        client.receive(memoryview(server.take_output()), 0.0)
    return client, server


def request(number: int) -> tuple[tuple[bytes, bytes], ...]:
    source = SocketAddress(ip_address("10.244.1.7"), 1024 + number % 60000)
    trace = traceparent(number.to_bytes(24, "big"))
    return connect_headers("10.244.2.9:8080", source=source, traceparent=trace, baggage=BAGGAGE, service_host="cart.shop.svc.cluster.local")


def best(run: Callable[[], int]) -> float:
    """Microseconds per unit; `run` returns how many units it did, its setup is in there too and small."""
    times = []
    for _ in range(ROUNDS):
        began = process_time()
        units = run()
        times.append((process_time() - began) / units * 1e6)
    return min(times)


def receive_data(size: int, frames: int) -> float:
    client, server = pair()
    stream = client.open_stream(request(1))
    server.receive(memoryview(client.take_output()), 0.0)
    server.respond(stream, response_headers(200))
    client.receive(memoryview(server.take_output()), 0.0)
    buffer = bytearray((9 + size) * frames)
    for number in range(frames):
        client.write_data_header(buffer, number * (9 + size), stream, size)
    view = memoryview(buffer)

    def run() -> int:
        for _ in range(200):
            for event in server.receive(view, 1.0):
                if type(event) is DataReceived:
                    server.consumed(stream, len(event.data))
            server.take_output()
        return 200 * frames

    return best(run)


def receive_only(size: int, frames: int) -> float:
    client, server = pair()
    stream = client.open_stream(request(1))
    server.receive(memoryview(client.take_output()), 0.0)
    buffer = bytearray((9 + size) * frames)
    for number in range(frames):
        client.write_data_header(buffer, number * (9 + size), stream, size)
    view = memoryview(buffer)

    def run() -> int:
        for _ in range(200):
            server.receive(view, 1.0)
            server.consumed(stream, size * frames)
            server.take_output()
        return 200 * frames

    return best(run)


def send_data(size: int) -> float:
    client, server = pair()
    stream = client.open_stream(request(1))
    server.receive(memoryview(client.take_output()), 0.0)
    header = bytearray(9)
    payload = bytes(size)
    server.respond(stream, response_headers(200))
    client.receive(memoryview(server.take_output()), 0.0)

    def run() -> int:
        count = 20_000
        for _ in range(count):
            if client.sendable(stream) < size:
                break
            client.write_data_header(header, 0, stream, size)
        return count

    def refill() -> None:
        # Outside the clock: the server takes what the client has sent, and credits the window.
        for _ in range(20_000):
            server.receive(memoryview(header), 1.0)
            server.receive(memoryview(payload), 1.0)
            server.consumed(stream, size)
        client.receive(memoryview(server.take_output()), 1.0)

    times = []
    for _ in range(ROUNDS):
        began = process_time()
        units = run()
        times.append((process_time() - began) / units * 1e6)
        refill()
    return min(times)


def streams() -> tuple[float, float, float]:
    """Open, answer and close a stream: microseconds at the client, at the server, and of the headers' making and reading."""
    client, server = pair()
    end, begin, parse = 0.0, 0.0, 0.0
    rounds: list[tuple[float, float, float]] = []
    answer = response_headers(200, BAGGAGE)
    count = 2000
    number = 0
    for _ in range(ROUNDS):
        end = begin = parse = 0.0
        for _ in range(count // 50):
            number += 50
            t0 = process_time()
            wanted = [request(number + i) for i in range(50)]
            t1 = process_time()
            ids = [client.open_stream(headers) for headers in wanted]
            out = memoryview(client.take_output())
            t2 = process_time()
            events = server.receive(out, 1.0)
            for stream in ids:
                server.respond(stream, answer)
                server.end_stream(stream)
            out = memoryview(server.take_output())
            t3 = process_time()
            client.receive(out, 1.0)
            for stream in ids:
                client.end_stream(stream)
            out = memoryview(client.take_output())
            t4 = process_time()
            server.receive(out, 1.0)
            server.take_output()
            t5 = process_time()
            for event in events:
                if type(event) is RequestReceived:
                    read_request(event.headers)
            t6 = process_time()
            end += (t2 - t1) + (t4 - t3)
            begin += (t3 - t2) + (t5 - t4)
            parse += (t1 - t0) + (t6 - t5)
        assert client.open_streams == server.open_streams == 0
        rounds.append((end / count * 1e6, begin / count * 1e6, parse / count * 1e6))
    return min(r[0] for r in rounds), min(r[1] for r in rounds), min(r[2] for r in rounds)


def main() -> None:
    print(f"receive, 64 B frames, 200 in a buffer        {receive_only(64, 200):6.2f} µs a frame")
    print(f"  and each reported to consumed()            {receive_data(64, 200):6.2f}")
    print(f"receive, 16 KiB frames, 16 in a buffer       {receive_only(16384, 16):6.2f}")
    print(f"sendable + write_data_header, 16 B           {send_data(16):6.2f}")
    client, server, parts = streams()
    print(f"open, answer, close a stream: client         {client:6.2f} µs a stream")
    print(f"                              server         {server:6.2f}")
    print(f"  hbone headers made and read, both ends     {parts:6.2f}")


if __name__ == "__main__":
    main()
