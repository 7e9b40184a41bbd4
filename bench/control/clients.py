"""Node clients: so many delta streams over TLS that take everything and acknowledge it, in a process of their own.

Commands as for the plane: {"do": "connect", "port": …, "root": …, "clients": 200}, {"do": "wait", "responses": 2} → when each client had so
many responses in all; {"do": "sign", "requests": 2000, "parallel": 32} → certificates per second.

Of a response only the head is read, which stands before the resources; one client reads its first ones whole, to see that all is there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3 import discovery_pb2

from bench.control.plane import TOKEN
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.pb import ca_pb2

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
NAME = "istiod.istio-system.svc"


class Node:
    """One client. `times`: when each response had come."""

    def __init__(self, number: int, channel: grpc.aio.Channel, changed: asyncio.Event) -> None:
        self.number = number
        self.times: list[float] = []
        self.resources: dict[str, int] = {}
        self._changed = changed
        self._channel = channel

    async def run(self) -> None:
        call: Any = self._channel.stream_stream(METHOD)(metadata=(("authorization", f"Bearer {TOKEN}{self.number:05}"),))
        for type_url in (ADDRESS_TYPE, AUTHORIZATION_TYPE):
            await call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url).SerializeToString())
        while (data := await call.read()) is not grpc.aio.EOF:
            self.times.append(time.monotonic())
            type_url, nonce = head(data)
            if self.number == 0:
                whole = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
                self.resources[type_url] = self.resources.get(type_url, 0) + len(whole.resources)
            await call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce).SerializeToString())
            self._changed.set()


def head(data: bytes) -> tuple[str, str]:
    """Type and nonce of a response, from its fields before the resources (which have number 2)."""
    found: dict[int, str] = {}
    at = 0
    while at < len(data) and data[at] >> 3 != 2:
        field, length, shift = data[at] >> 3, 0, 0
        at += 1
        while True:
            byte = data[at]
            at += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        found[field] = data[at : at + length].decode()
        at += length
    return found[4], found[5]


class Fleet:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.changed = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.seen = 0

    async def serve(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            answer = await getattr(self, f"do_{command.pop('do')}")(**command)
            print(json.dumps(answer), flush=True)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def channel(self) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(Path(self.root).read_bytes())
        options = [
            ("grpc.ssl_target_name_override", NAME),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options)

    async def do_connect(self, port: int, root: str, clients: int) -> dict[str, Any]:
        self.port, self.root = port, root
        for number in range(clients):
            channel = self.channel()
            await channel.channel_ready()
            self.nodes.append(Node(number, channel, self.changed))
            self.tasks.append(asyncio.create_task(self.nodes[-1].run()))
        await asyncio.sleep(1)  # the streams' first requests arrive
        return {}

    async def do_wait(self, responses: int) -> dict[str, Any]:
        """`responses` more of each client. Each client's time of the last of them."""
        self.seen += responses
        async with asyncio.timeout(120):
            while not all(len(node.times) >= self.seen for node in self.nodes):
                self.changed.clear()
                await self.changed.wait()
        return {"times": [node.times[self.seen - 1] for node in self.nodes], "resources": self.nodes[0].resources}

    async def do_sign(self, requests: int, parallel: int, identities: list[str]) -> dict[str, Any]:
        """Certificates for a pod of each node in turn, over one connection; `identities` are by the node's number."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        channel = self.channel()
        call = channel.unary_unary(
            "/istio.v1.auth.IstioCertificateService/CreateCertificate",
            request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
        )
        left = iter(range(requests))

        async def worker() -> None:
            for number in left:
                request = ca_pb2.IstioCertificateRequest(csr=pem, validity_duration=3600)
                node = number % len(identities)
                request.metadata.update({"ImpersonatedIdentity": identities[node]})
                await call(request, metadata=(("authorization", f"Bearer {TOKEN}{node:05}"),))

        await channel.channel_ready()
        begun = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(parallel)))
        return {"per_second": requests / (time.monotonic() - begun)}


def main() -> None:
    asyncio.run(Fleet().serve())


if __name__ == "__main__":
    main()
