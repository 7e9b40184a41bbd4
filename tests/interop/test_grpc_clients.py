"""gRPC without a proxy, `xds:///`, by the C core (Python's grpcio): it calls services of the mesh as our VirtualServices say.

Clients of other makes, which need `make tools`: tests/cluster/test_grpc_clients.py.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

import pytest

from tests.interop.grpc_callers import Caller, channel
from tests.interop.grpc_contract import BOTH, Kept
from tests.interop.grpc_mesh import TARGET, Mesh

pytestmark = pytest.mark.interop


class TestPython(Kept):
    def client(self, mesh: Mesh, target: str = TARGET) -> AbstractContextManager[Caller]:
        return channel([sys.executable, "-m", "tests.interop.grpc_client", target], mesh.environment())

    @pytest.mark.parametrize("host", ["reviews.shop", "reviews.shop.svc"])
    def test_longer_names_too(self, mesh: Mesh, host: str) -> None:
        with self.client(mesh, f"xds:///{host}:9080") as caller:
            assert caller.call() in BOTH
