"""A Consul in this process: its catalogue, indexes, blocking queries and access rules, over loopback. And one that breaks on request.

async with FakeConsul() as consul:
    consul.register("web", "10.0.0.1", 80)
    consul.set_health("web", "critical")
    consul.faults["/v1/health/service/web"] = [Fault(b"HTTP/1.1 500 Oops\\r\\n...")]
    await consul.lose_everything()
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

NODE = "node-1"
Json = Any


@dataclass(frozen=True)
class Fault:
    """What is sent instead of an answer; then the connection is closed, unless it is `kept`."""

    data: bytes
    kept: bool = False


def plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> Fault:
    body = text.encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return Fault("\r\n".join([*lines, "", ""]).encode() + body, kept=True)


CUT = Fault(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Consul-Index: 7\r\n\r\n[{")
NO_HTTP = Fault(b"\x15\x03\x01\x00\x02\x02\x46")
HANG_UP = Fault(b"")
NO_JSON = plain(200, "<html>a proxy's page</html>", {"X-Consul-Index": "7"})
NO_INDEX = plain(200, "{}")
WRONG_SHAPE = plain(200, '[{"Node": 7, "Service": []}]', {"X-Consul-Index": "7"})
NO_LEADER = plain(500, "No cluster leader", {"X-Consul-Index": "1", "X-Consul-Knownleader": "false"})


@dataclass
class Registration:
    node: str
    service: dict[str, Json]
    status: str = "passing"


@dataclass
class Indexes:
    """By table, and by service. `extinct`: when a service last went."""

    last: int = 10
    tables: Counter[str] = field(default_factory=lambda: Counter(services=10, checks=10, nodes=10))
    services: dict[str, int] = field(default_factory=dict)
    extinct: int = 10


class FakeConsul:
    """`context`: TLS. Its own service, `consul`, is in its catalogue."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.instances: dict[str, Registration] = {}
        self.nodes: dict[str, str] = {}
        self.node_checks: dict[tuple[str, str], str] = {}
        self.indexes = Indexes()
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        """By beginning of the path: what the next questions get."""
        self.asked: Counter[str] = Counter()
        """By path; reads of an index alone are under the path with "#"."""
        self.tokens: list[str] = []
        self.token: str | None = None
        """The only one that is accepted, where there is one."""
        self.hidden: set[str] = set()
        """Names that access rules keep out of lists."""
        self.hidden_instances: set[str] = set()
        """Names whose instances they hide."""
        self.leader = True
        self.stale_leader = True
        """What X-Consul-KnownLeader says."""
        self.port = 0
        self.connections = 0
        self.most_connections = 0
        self._changed = asyncio.Condition()
        self._was_asked = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    # Its life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.instances.setdefault("consul", Registration("server", {"ID": "consul", "Service": "consul", "Port": 8300, "Tags": []}))
        sock = socket.create_server(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=sock, ssl=self.context)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def lose_everything(self) -> None:
        """Restarted with nothing on disk."""
        await self.stop()
        self.instances.clear()
        self.nodes.clear()
        self.node_checks.clear()
        self.indexes = Indexes(5, Counter(services=5, checks=5, nodes=5), {}, 5)
        await self.start()

    async def until_asked(self, path: str, times: int = 1) -> None:
        """Until this was asked for, from now on, so many times."""
        wanted = self.asked[path] + times
        async with asyncio.timeout(10):
            while self.asked[path] < wanted:
                self._was_asked.clear()
                await self._was_asked.wait()

    # What agents and operators do

    def register(
        self, name: str, address: str, port: int, *, id: str = "", node: str = NODE, status: str = "passing", **more: Json
    ) -> None:
        """`more` are fields of the service, by Consul's names."""
        id = id or name
        service = {"ID": id, "Service": name, "Address": address, "Port": port, "Tags": [], "Meta": {}, **more}
        service.setdefault("Weights", {"Passing": 1, "Warning": 1})
        before = self.instances.get(id)
        self.instances[id] = Registration(node, service, status)
        tables = {"services"}
        if node not in self.nodes:
            self.nodes[node] = "10.255.0.1"
            tables.add("nodes")
        if before is None or before.status != status:
            tables.add("checks")
        self._bump(tables, name)

    def deregister(self, id: str) -> None:
        gone = self.instances.pop(id)
        name = gone.service["Service"]
        self._bump({"services", "checks"}, name)
        if name not in self.names():
            self.indexes.extinct = self.indexes.last
            del self.indexes.services[name]

    def set_health(self, id: str, status: str) -> None:
        instance = self.instances[id]
        if instance.status != status:
            instance.status = status
            self._bump({"checks"}, instance.service["Service"])

    def set_node(self, node: str, address: str) -> None:
        self.nodes[node] = address
        self._bump({"nodes"}, *self._names_on(node))

    def set_node_health(self, node: str, status: str, check: str = "serfHealth") -> None:
        self.node_checks[node, check] = status
        self._bump({"checks"}, *self._names_on(node))

    def touch(self) -> None:
        """An index rises, and nothing is different: an idempotent write."""
        self._bump({"services", "checks", "nodes"})

    def names(self) -> set[str]:
        return {instance.service["Service"] for instance in self.instances.values()}

    def _names_on(self, node: str) -> set[str]:
        return {instance.service["Service"] for instance in self.instances.values() if instance.node == node}

    def _bump(self, tables: set[str], *names: str) -> None:
        self.indexes.last += 1
        self.indexes.tables.update(dict.fromkeys(tables, 0))
        for table in tables:
            self.indexes.tables[table] = self.indexes.last
        for name in names:
            self.indexes.services[name] = self.indexes.last
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # Answering

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fault = await self._answer(head)
                writer.write(fault.data)
                if not fault.kept:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, head: str) -> Fault:
        lines = head.split("\r\n")
        target = urlsplit(lines[0].split(" ")[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        query = {name: values[0] for name, values in parse_qs(target.query, keep_blank_values=True).items()}
        path = target.path + ("#" if "Service.ID" in query.get("filter", "") else "")
        self.asked[path] += 1
        self._was_asked.set()
        for beginning, faults in self.faults.items():
            if target.path.startswith(beginning) and faults:
                return faults.pop(0)
        if not self.leader:
            return NO_LEADER
        self.tokens.append(headers.get("x-consul-token", ""))
        if self.token is not None and self.tokens[-1] != self.token:
            return plain(403, "ACL not found")
        look = self._route(target.path, query)
        wanted = int(query.get("index", "0"))
        index, body, filtered = look()
        if wanted:
            try:
                async with asyncio.timeout(float(query["wait"].removesuffix("ms")) / 1000), self._changed:
                    while (found := look())[0] <= wanted:
                        await self._changed.wait()
                index, body, filtered = found
            except TimeoutError:
                pass
        return self._good(index, body, filtered)

    def _good(self, index: int, body: Json, filtered: bool) -> Fault:
        headers = {"X-Consul-Index": str(index), "X-Consul-Knownleader": str(self.stale_leader).lower(), "Content-Type": "application/json"}
        if filtered:
            headers["X-Consul-Results-Filtered-By-Acls"] = "true"
        return plain(200, json.dumps(body), headers)

    def _route(self, path: str, query: Mapping[str, str]) -> Callable[[], tuple[int, Json, bool]]:
        tables = self.indexes.tables
        if path == "/v1/catalog/services":
            return lambda: (self.indexes.tables["services"], self._services(), bool(self.hidden & self.names()))
        if path == "/v1/health/state/any":
            assert query["filter"] == "Status != passing"
            return lambda: (self.indexes.tables["checks"], self._failing(), False)
        if path == "/v1/catalog/nodes":
            return lambda: (self.indexes.tables["nodes"], [], False)
        assert path.startswith("/v1/health/service/"), (path, tables)
        name = unquote(path.removeprefix("/v1/health/service/"))
        return lambda: self._instances(name, "filter" in query)

    def _services(self) -> Json:
        found: dict[str, set[str]] = {}
        for instance in self.instances.values():
            if instance.service["Service"] not in self.hidden:
                found.setdefault(instance.service["Service"], set()).update(instance.service["Tags"])
        return {name: sorted(tags) for name, tags in found.items()}

    def _failing(self) -> Json:
        return [check for registration in self.instances.values() for check in self._checks(registration) if check["Status"] != "passing"]

    def _checks(self, registration: Registration) -> list[Json]:
        service = registration.service
        own = {"ServiceID": service["ID"], "ServiceName": service["Service"]}
        found = [{"Node": registration.node, "CheckID": f"service:{service['ID']}", "Status": registration.status, "Output": "…", **own}]
        for (node, check), status in self.node_checks.items():
            if node == registration.node:
                found.append({"Node": node, "CheckID": check, "Status": status, "ServiceID": "", "ServiceName": ""})
        return found

    def _instances(self, name: str, empty: bool) -> tuple[int, Json, bool]:
        index = self.indexes.services.get(name, self.indexes.extinct)
        found = [registration for registration in self.instances.values() if registration.service["Service"] == name]
        if name in self.hidden_instances | self.hidden:
            return index, [], bool(found)
        entries = [
            {
                "Node": {"Node": one.node, "Address": self.nodes[one.node], "Datacenter": "dc1"},
                "Service": one.service,
                "Checks": self._checks(one),
            }
            for one in found
        ]
        return index, [] if empty else entries, False
