"""A control plane in this process, with files in a temporary directory, and clients that speak to it over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from control.app import ControlPlane
from control.config import Config
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.pb import ca_pb2

NAME = "istiod.istio-system.svc"
TOKENS = {"n1": "token-of-node-number-one", "n2": "token-of-node-number-two"}

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: {app}}}
  annotations: {{ambient.istio.io/redirection: enabled}}
spec:
  nodeName: {node}
  serviceAccountName: {account}
  containers: [{{name: main, image: x, ports: [{{name: http, containerPort: 8080}}]}}]
status:
  phase: Running
  podIPs: [{{ip: {ip}}}]
  conditions: [{{type: Ready, status: "True"}}]
"""


def pod(name: str, ip: str, *, namespace: str = "shop", node: str = "n1", account: str = "default", app: str = "cart") -> str:
    return POD.format(name=name, ip=ip, namespace=namespace, node=node, account=account, app=app)


class Plane:
    """`files` writes manifests as a careful writer does: whole, by a rename."""

    def __init__(self, directory: Path, more: tuple[Path, ...] = ()) -> None:
        self.directory = directory
        self.manifests = directory / "manifests"
        self.manifests.mkdir(exist_ok=True)
        tokens = directory / "tokens"
        tokens.mkdir(exist_ok=True)
        for node, token in TOKENS.items():
            (tokens / node).write_text(token + "\n")
            (tokens / node).chmod(0o600)
        config = Config(
            manifests=(self.manifests, *more),
            ca_dir=directory / "ca",
            node_tokens=tokens,
            xds_address="127.0.0.1:0",
            xds_plaintext="127.0.0.1:0",
            http_address="127.0.0.1:0",
        )
        self.plane = ControlPlane(config)

    def write(self, name: str, text: str, age: float = 10.0) -> None:
        """Seen at once, as if written `age` seconds ago: what settling means has tests of its own."""
        path = self.manifests / f".{name}"
        path.write_text(text)
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
        path.rename(self.manifests / name)

    def remove(self, name: str) -> None:
        (self.manifests / name).unlink()

    def channel(self, more: Sequence[tuple[str, int]] = ()) -> grpc.aio.Channel:
        roots = (self.directory / "ca" / "root-cert.pem").read_bytes()
        options = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1), *more]
        return grpc.aio.secure_channel(f"127.0.0.1:{self.plane.ports['xds']}", grpc.ssl_channel_credentials(roots), options=options)

    async def http(self, path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.plane.ports["http"])
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body.decode()


@contextlib.asynccontextmanager
async def running(directory: Path, files: dict[str, str]) -> AsyncIterator[Plane]:
    plane = Plane(directory)
    for name, text in files.items():
        plane.write(name, text)
    async with started(plane):
        yield plane


@contextlib.asynccontextmanager
async def started(plane: Plane) -> AsyncIterator[None]:
    await plane.plane.start()
    task = asyncio.create_task(plane.plane.run())
    try:
        yield
    finally:
        plane.plane.stop()
        await asyncio.wait_for(task, 5)
        await plane.plane.close()


class Stream:
    """One delta ADS stream, as a transcript."""

    def __init__(self, channel: grpc.aio.Channel, token: str = TOKENS["n1"]) -> None:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )
        self.pending: asyncio.Future[Any] | None = None
        self.call: Any = call(metadata=(("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes")))

    async def ask(self, type_url: str, **fields: Any) -> None:
        await self.call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, **fields))

    async def read(self, seconds: float = 5.0) -> Any:
        """The next response. A read that times out stays pending: cancelling it would end the call."""
        if self.pending is None:
            self.pending = asyncio.ensure_future(self.call.read())
        await asyncio.wait({self.pending}, timeout=seconds)
        if not self.pending.done():
            raise TimeoutError
        response, self.pending = self.pending.result(), None
        assert response is not grpc.aio.EOF
        return response

    async def quiet(self, seconds: float = 0.4) -> None:
        """Nothing comes."""
        with contextlib.suppress(TimeoutError):
            raise AssertionError(f"unexpected: {await self.read(seconds)}")

    async def ack(self, response: Any, error: str = "") -> None:
        detail = status_pb2.Status(code=3, message=error) if error else None
        await self.ask(response.type_url, response_nonce=response.nonce, error_detail=detail)

    async def start(self) -> dict[str, Any]:
        """Both types asked for, as a tunnel does, answered and acknowledged."""
        await self.ask(ADDRESS_TYPE)
        await self.ask(AUTHORIZATION_TYPE)
        first = {}
        for _ in range(2):
            response = await self.read()
            first[response.type_url] = response
            await self.ack(response)
        return first


def csr(key: ec.EllipticCurvePrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


async def certificate(channel: grpc.aio.Channel, identity: str | None, *, token: str = TOKENS["n1"], seconds: int = 3600) -> Any:
    call = channel.unary_unary(
        "/istio.v1.auth.IstioCertificateService/CreateCertificate",
        request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
        response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
    )
    request = ca_pb2.IstioCertificateRequest(csr=csr(ec.generate_private_key(ec.SECP256R1())), validity_duration=seconds)
    if identity is not None:
        request.metadata.update({"ImpersonatedIdentity": identity})
    return await call(request, metadata=(("authorization", f"Bearer {token}"),))
