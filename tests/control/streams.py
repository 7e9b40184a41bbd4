"""A store that is told of whole states, and clients of it that apply what they are told. No network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from control.resolve import Changes
from control.xds.messages import Request, Response
from control.xds.store import Store
from control.xds.stream import Stream
from control.xds.tunnels import TUNNEL_RULES, TUNNEL_TYPES, tunnel_entries
from mesh.model.codec.proto import ADDRESS_TYPE
from mesh.model.policy import Authorization
from mesh.model.workload import Service, Workload
from tests.control.objects import ip

TYPES = TUNNEL_TYPES


@dataclass(frozen=True)
class State:
    """What a mesh consists of."""

    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()
    policies: tuple[Authorization, ...] = ()


NOTHING = State()


class World:
    """A store that is told of whole states, and the streams that look at it."""

    def __init__(self, **values: str) -> None:
        self.store = Store(TYPES)
        self.streams: list[Stream] = []
        self.state = NOTHING
        self.values: dict[str, Workload | Service | Authorization] = {}
        self.change(**values)

    def change(self, **values: str) -> None:
        """Workloads by uid with a value each."""
        found = tuple(Workload(name, name, "ns", (ip(f"10.0.0.{ord(name[0])}"),), node=value) for name, value in values.items())
        self.publish(replace(self.state, workloads=found))

    def publish(self, state: State) -> None:
        before, self.state = self.state, state
        changes = Changes()
        for kind, name in ((changes.workloads, "workloads"), (changes.services, "services"), (changes.policies, "policies")):
            named = {workload_name(value): value for value in getattr(state, name)}
            kind.update(dict.fromkeys(workload_name(value) for value in getattr(before, name)))  # type: ignore[arg-type]
            kind.update(named)  # type: ignore[arg-type]
            self.values |= named
        changed = self.store.apply(tunnel_entries(changes))
        for stream in self.streams:
            stream.note(changed, self.store.number)

    def stream(self) -> Stream:
        self.streams.append(Stream(self.store, TUNNEL_RULES))
        return self.streams[-1]

    def versions(self, type_url: str = ADDRESS_TYPE) -> dict[str, str]:
        return {name: entry.version for name, entry in self.store.types[type_url].entries.items()}


def workload_name(value: Workload | Service | Authorization) -> str:
    return value.uid if isinstance(value, Workload) else str(value.key)


class Client:
    """One stream that applies what it is told, as a tunnel does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stream = world.stream()
        self.holds: dict[str, str] = {}
        self.now = 0.0

    def ask(self, type_url: str = ADDRESS_TYPE, **fields: object) -> None:
        self.stream.receive(Request(type_url, **fields), self.now)  # type: ignore[arg-type]

    def told(self) -> Response | None:
        self.now += 1
        responses = self.stream.next_responses(self.now)
        assert len(responses) < 2
        return responses[0] if responses else None

    def ack(self, response: Response | None, error: str = "") -> None:
        assert response is not None
        for entry in response.bundle.entries:
            self.holds[entry.name] = entry.version
        for name in response.removed:
            self.holds.pop(name, None)
        self.ask(response.type_url, nonce=response.nonce, error=error)


def said(response: Response | None) -> tuple[list[str], list[str]] | None:
    """(names of resources, removed names)"""
    return None if response is None else (sorted(entry.name for entry in response.bundle.entries), sorted(response.removed))
