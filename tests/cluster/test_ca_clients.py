"""The certificate service, which reads its one message as a stream, asked by clients of other languages as what it is: a unary method."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mesh.pb import ca_pb2
from tests.cluster import tools
from tests.cluster.kubernetes import Background
from tests.control.ca.support import request
from tests.control.ca.test_service import CART, Desk, desk, names

pytestmark = pytest.mark.cluster
PROTOS = Path(__file__).parents[2] / "mesh" / "pb"
METHOD = "istio.v1.auth.IstioCertificateService/CreateCertificate"
SERVICE = """
syntax = "proto3";
package istio.v1.auth;
import "ca.proto";
service IstioCertificateService { rpc CreateCertificate(IstioCertificateRequest) returns (IstioCertificateResponse); }
"""
NODE = """
const grpc = require('@grpc/grpc-js');
const [address, token, message] = process.argv.slice(1);
const client = new grpc.Client(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set('authorization', `Bearer ${token}`);
const same = bytes => bytes;
client.makeUnaryRequest('/METHOD', same, same, Buffer.from(message, 'base64'), metadata, (error, answer) => {
    console.log(error ? JSON.stringify([error.code, error.details]) : JSON.stringify(answer.toString('base64')));
    process.exit(0);
});
"""


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Desk]:
    with Background() as background:
        stack = AsyncExitStack()
        yield background.run(stack.enter_async_context(desk(tmp_path)))
        background.run(stack.aclose())


def message(csr: str) -> ca_pb2.IstioCertificateRequest:
    made = ca_pb2.IstioCertificateRequest(csr=csr, validity_duration=3600)
    made.metadata["ImpersonatedIdentity"] = str(CART)
    return made


def grpcurl(at: Desk, directory: Path, token: str, csr: str) -> str:
    """Go."""
    (directory / "service.proto").write_text(SERVICE)
    asked = {"csr": csr, "validity_duration": 3600, "metadata": {"ImpersonatedIdentity": str(CART)}}
    protos = ["-import-path", PROTOS, "-import-path", directory, "-proto", "service.proto"]
    command = [tools.find("grpcurl"), "-plaintext", *protos, "-H", f"authorization: Bearer {token}"]
    return _run([*map(str, command), "-d", json.dumps(asked), f"127.0.0.1:{at.port}", METHOD])


def node(at: Desk, token: str, csr: str) -> str:
    """JavaScript."""
    encoded = base64.b64encode(message(csr).SerializeToString()).decode()
    script = NODE.replace("METHOD", METHOD)
    return _run([str(tools.find("node")), "-e", script, f"127.0.0.1:{at.port}", token, encoded], tools.find("grpc-js"))


def _run(command: list[str], directory: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, cwd=directory)
    return done.stdout + done.stderr


def test_go(at: Desk, tmp_path: Path) -> None:
    chain = json.loads(grpcurl(at, tmp_path, "node-1", request()))["certChain"]
    assert names(chain) == [str(CART)]
    refused = grpcurl(at, tmp_path, "nobody", request())
    assert "Code: Unauthenticated" in refused
    assert "request authenticate failure" in refused
    assert "Code: InvalidArgument" in grpcurl(at, tmp_path, "node-1", "nonsense")


def test_javascript(at: Desk) -> None:
    answer = base64.b64decode(json.loads(node(at, "node-1", request())))
    assert names(list(ca_pb2.IstioCertificateResponse.FromString(answer).cert_chain)) == [str(CART)]
    assert json.loads(node(at, "nobody", request())) == [16, "request authenticate failure"]
    assert json.loads(node(at, "node-1", "nonsense"))[0] == 3
