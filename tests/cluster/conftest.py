"""What tests of this tier share. A server that a test stops, compacts or floods is its own: `private_server`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import apiserver, consul, nodes
from tests.cluster.apiserver import ApiServer
from tests.cluster.consul import Consul
from tests.cluster.faultproxy import FaultProxy
from tests.cluster.nodes import Cluster


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One API server for all tests that leave it as it is, each in a `namespace` of its own."""
    with apiserver.running(tmp_path_factory.mktemp("apiserver")) as running:
        yield running


@pytest.fixture
def namespace(server: ApiServer) -> str:
    return server.make_namespace()


@pytest.fixture
def private_server(tmp_path: Path) -> Iterator[ApiServer]:
    with apiserver.running(tmp_path / "apiserver") as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes for all tests that leave them as they are."""
    with nodes.running() as running:
        yield running


@pytest.fixture
def fault_proxy(server: ApiServer) -> Iterator[FaultProxy]:
    """In front of the shared server, over TLS of the same CA."""
    with FaultProxy(server.url, server.ca, server.pki.server("proxy", ["127.0.0.1"])) as proxy:
        yield proxy


@pytest.fixture
def consul_agent(tmp_path: Path) -> Iterator[Consul]:
    """It keeps its catalog over restarts."""
    with consul.running(tmp_path / "consul") as running:
        yield running
