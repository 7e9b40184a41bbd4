"""gRPC without a proxy, `xds:///`, by its implementations in JavaScript and Go: the same promises as for Python's, with the same routes.

What each can do is in the README of npm's `@grpc/grpc-js-xds` and in doc/grpc_xds_features.md of gRPC. Both have what these promises need:
routing (A28), timeouts (A31), limits (A32), faults (A33), retries (A44), rings (A42), names that they look up (A37) and outliers (A50).
LEAST_REQUEST (A48) is listed for neither, nor for Python's, and is never asked of a client: it becomes round robin for all.

Where they are unlike:

    JavaScript   wants a `locality` in its bootstrap's node. Its limit counts calls that have begun, so that many in one turn of its loop
                 pass (grpc_client.js). A ring one of whose servers is also in another cluster of the same client, where its connection is
                 up already, keeps the first call to that server waiting until its deadline; that is its own (seen with 1.14.1), and no
                 configuration of ours helps.
    Go           is here as grpcurl: one channel per call, so that limits of calls at once cannot be seen, and where nothing is at all, it
                 waits for a connection as long as it was told to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.cluster import tools
from tests.interop import grpc_callers
from tests.interop.grpc_callers import Caller, Grpcurl, channel
from tests.interop.grpc_contract import Contract, Kept
from tests.interop.grpc_mesh import TARGET, Mesh

pytestmark = pytest.mark.cluster
SCRIPT = grpc_callers.ROOT / "tests" / "interop" / "grpc_client.js"


class TestJavaScript(Kept):
    def client(self, mesh: Mesh, target: str = TARGET) -> AbstractContextManager[Caller]:
        modules = {"NODE_PATH": str(tools.find("grpc-js") / "node_modules")}
        return channel([tools.find("node"), SCRIPT, target], mesh.environment() | modules)


class TestGo(Contract):
    many = 150
    waits = True

    @contextmanager
    def client(self, mesh: Mesh, target: str = TARGET) -> Iterator[Caller]:
        yield Grpcurl(tools.find("grpcurl"), target, mesh.environment())
