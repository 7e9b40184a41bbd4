"""Every directory of examples/, and what they are together: Envoy takes all of it from our control plane, in both variants of ADS.

Six Envoys stay connected while one set of manifests takes the place of another: beside a client, with and without tunnels of its own, and
as the waypoint. After each change they have in force exactly what the control plane has for them, and have refused nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from io import StringIO
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from control.analyze.world import World
from control.resolve import MeshSettings
from control.resolve.waypoints import GATEWAY_NAME
from control.sources import Sink, SourceState
from culvert.analysis.files import read
from mesh.model.l7.names import MESH_ROOTS, WORKLOAD_CERTIFICATE
from mesh.model.manifest import Gateway, Metadata, Namespace, Object, Parsed, Pod, PodSpec, Service, ServiceAccount
from mesh.model.manifest.pods import Condition, PodIP, PodStatus
from tests.interop import fed, isolated, plane

pytestmark = [pytest.mark.interop, pytest.mark.netns]

EXAMPLES = Path(__file__).parents[2] / "examples"
DIRECTORIES = sorted({path.relative_to(EXAMPLES).parts[0] for path in EXAMPLES.rglob("*.yaml")})
BASE = ("bookstore", "waypoint")
REST = tuple(name for name in DIRECTORIES if name not in BASE)
SETS = [
    *((name,) for name in DIRECTORIES),
    *(("bookstore", name) for name in DIRECTORIES if name != "bookstore"),
    *((*BASE, name) for name in REST),
    (*BASE, *REST),
]
SETTLE_SECONDS = 10.0  # less than Envoy's 15, after which it does without what it asked for
NODE, WAYPOINT_ADDRESS = "n1", IPv4Address("100.65.0.1")
READY = PodStatus(phase="Running", pod_ips=(PodIP(ip=WAYPOINT_ADDRESS),), conditions=(Condition(type="Ready", status="True"),))


def objects_of(names: Iterable[str]) -> list[Object]:
    """What a cluster would have once these directories are applied, one on top of the other: pods, addresses, and waypoints that run."""
    given, _ = read((EXAMPLES / name for name in names), StringIO())
    assert given.refusals == []
    found: list[Object] = []
    addresses = (IPv4Address("10.96.1.0") + number for number in range(200))
    for entry in World(given, MeshSettings()).mesh.catalog.objects.values():
        if isinstance(entry, Service) and not entry.spec.addresses and not entry.spec.headless:
            found.append(replace(entry, spec=replace(entry.spec, cluster_ip=next(addresses))))
        elif isinstance(entry, Pod):
            found.append(replace(entry, spec=replace(entry.spec, node_name=NODE)))
        else:
            found.append(entry)
        if isinstance(entry, Gateway) and entry.spec.waypoint:
            metadata = Metadata(name=f"{entry.name}-1", namespace=entry.namespace, labels={GATEWAY_NAME: entry.name})
            spec = PodSpec(containers=(), node_name=NODE, service_account_name=entry.name)
            found.append(Pod(where=entry.where, metadata=metadata, spec=spec, status=READY))
    return found


@dataclass
class Swapped:
    """A source that holds what a test puts there, all at once."""

    name: str = "test"
    state: SourceState = field(default_factory=lambda: SourceState(synced=True))
    objects: tuple[Object, ...] = ()
    sink: Sink | None = None

    async def run(self, sink: Sink) -> None:
        self.sink = sink
        self.put(self.objects)
        await asyncio.Event().wait()

    def put(self, objects: Iterable[Object]) -> None:
        assert self.sink is not None
        self.objects = tuple(objects)
        self.sink.put("examples", Parsed(self.objects))


@dataclass
class Mesh:
    running: plane.Running
    source: Swapped
    envoys: list[fed.Envoy] = field(default_factory=list)

    def hold(self, objects: Sequence[Object]) -> None:
        """These and no others."""
        if tuple(objects) != self.source.objects:
            self.running.published(lambda: self.source.put(objects))
        self.settle()

    def settle(self) -> None:
        """Until every Envoy has, and is known to have, all that there is for it, and nothing else."""
        deadline = time.monotonic() + SETTLE_SECONDS
        for one in self.envoys:
            while (unsettled := self._unsettled(one)) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert unsettled == {}, (one.id, one.log.read_text())
            one.check()
        assert self.running.plane.metrics.internal_errors._value.get() == 0
        for client in self.running.get("/debug/sync")["clients"]:
            assert {name: kind["nacks"] for name, kind in client["types"].items() if kind["nacks"]} == {}, client

    def _unsettled(self, one: fed.Envoy) -> dict[str, Any]:
        """What is still to come, by type: as the control plane knows it, or as Envoy has it in force and should have."""
        (client,) = [client for client in self.running.get("/debug/sync")["clients"] if client["id"] == one.id]
        unsynced: dict[str, Any] = {name: kind for name, kind in client["types"].items() if not kind["synced"]}
        has, wanted = one.in_force(), self._wanted(one)
        if waits := fed.warming(one.dump()):
            unsynced["warming"] = waits
        return unsynced | {kind: (sorted(has[kind]), sorted(wanted[kind])) for kind in wanted if has[kind] != wanted[kind]}

    def _wanted(self, one: fed.Envoy) -> dict[str, set[str]]:
        async def found() -> dict[str, set[str]]:
            (store,) = [client.view.store for client in self.running.plane.xds.clients.values() if client.id == one.id and client.view]
            return fed.wanted(store)

        wanted = self.running.call(found())
        return {**wanted, fed.SECRET: {WORKLOAD_CERTIFICATE, MESH_ROOTS} if "plain" not in one.id else set()}


def started(stack: ExitStack, directory: Path, names: Sequence[str]) -> Mesh:
    """A control plane that has these examples, and six Envoys that have them too."""
    source = Swapped(objects=tuple(objects_of(names)))
    mesh = Mesh(stack.enter_context(plane.running(directory / "plane", {}, [source])), source)
    for name, delta in itertools.product(("plain", "tunnels", "waypoint"), (True, False)):
        place = stack.enter_context(isolated.isolated())
        door = stack.enter_context(isolated.door(place, mesh.running.port))
        role, pod = ("waypoint", "waypoint-1") if name == "waypoint" else ("sidecar", "shopper")
        variant = "delta" if delta else "whole"
        node = f"{role}~{name}-{variant}~{pod}.bookstore~bookstore.svc.cluster.local"
        metadata = {"ENABLE_HBONE": "true"} if name == "tunnels" else {}
        control = fed.over_tls(mesh.running, door.port)
        one = fed.running(
            directory / f"{name}-{variant}", mesh.running, node=node, delta=delta, metadata=metadata, place=place, control=control
        )
        mesh.envoys.append(stack.enter_context(one))
    mesh.settle()
    return mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with ExitStack() as stack:
        yield started(stack, tmp_path_factory.mktemp("examples"), BASE)


@pytest.mark.parametrize("names", SETS, ids=" and ".join)
def test_what_takes_the_place_of_something_else_is_taken(mesh: Mesh, names: tuple[str, ...]) -> None:
    objects = objects_of(names)
    mesh.hold(objects)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_each_object_goes_and_comes_back_alone(mesh: Mesh, name: str) -> None:
    """What stays is not sent again for that, and Envoy is to take the change all the same."""
    objects = objects_of((*BASE, *REST))
    own = [entry for entry in objects if f"/{name}/" in entry.where and not isinstance(entry, (Namespace, Pod, ServiceAccount))]
    mesh.hold(objects)
    for entry in own:
        mesh.hold([one for one in objects if one is not entry])
        mesh.hold(objects)


def test_everything_together_is_taken_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started(stack, tmp_path, (*BASE, *REST))
