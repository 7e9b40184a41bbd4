"""What a node tunnel talks to, in memory and with state: a control plane with its CA, and a node agent. And the tunnel as a process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from control.ca.authority import Authority
from control.ca.make import Lives, self_made
from control.ca.material import check
from control.ca.state import State
from mesh.model.codec.proto import address_to, authorization_to, resource_name
from mesh.model.identity import parse_spiffe
from mesh.model.policy import Authorization
from mesh.model.workload import Service, Workload
from mesh.pb import ca_pb2, trust_pb2
from mesh.wire.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.wire.zds import Add, AgentSession, Connected, Delete, WorkloadInfo, encode_request
from ztunnel.ca import TRUST

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


def until(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class ControlPlane:
    """Delta ADS and the CA on one plaintext port of loopback. `set` and `remove` push at once, and so does `change` of the CA.

    `announces`: False for a CA that is Istio's, and has no service to follow it.
    """

    def __init__(self, *, announces: bool = True) -> None:
        self.state = State("cluster.local", self_made("cluster.local", datetime.now(UTC), Lives()), longest=86400)
        self.issued: list[str] = []
        self.errors: list[str] = []  # NACKs
        self.first: list[discovery_pb2.DeltaDiscoveryRequest] = []  # the first request of each type and stream
        self.refuse_certificates = False
        self.reports: list[trust_pb2.Held] = []
        self.answer_from: State | None = None  # of a replica that is behind
        self._followers: list[queue.Queue[str | None]] = []
        self._resources: dict[str, dict[str, tuple[str, bytes]]] = {ADDRESS_TYPE: {}, AUTHORIZATION_TYPE: {}}
        self._streams: list[queue.Queue[discovery_pb2.DeltaDiscoveryResponse | None]] = []
        self._lock = threading.Lock()
        self._nonce = 0
        self._server = grpc.server(ThreadPoolExecutor(16))
        ads = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        ca = "istio.v1.auth.IstioCertificateService"
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    ads,
                    {
                        "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
                            self._serve,
                            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
                            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    ca,
                    {
                        "CreateCertificate": grpc.unary_unary_rpc_method_handler(
                            self._certify,
                            request_deserializer=ca_pb2.IstioCertificateRequest.FromString,
                            response_serializer=ca_pb2.IstioCertificateResponse.SerializeToString,
                        )
                    },
                ),
            )
        )
        if announces:
            follow = grpc.stream_stream_rpc_method_handler(
                self._follow,
                request_deserializer=trust_pb2.Held.FromString,
                response_serializer=trust_pb2.Announcement.SerializeToString,
            )
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("culvert.ca.v1.Trust", {"Follow": follow}),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def set(self, *objects: Workload | Service | Authorization) -> None:
        changed: dict[str, dict[str, bytes]] = {}
        for each in objects:
            if isinstance(each, Authorization):
                changed.setdefault(AUTHORIZATION_TYPE, {})[each.key] = authorization_to(each).SerializeToString()
            else:
                changed.setdefault(ADDRESS_TYPE, {})[resource_name(each)] = address_to(each).SerializeToString()
        for type_url, bodies in changed.items():
            self.set_raw(type_url, bodies)

    def set_raw(self, type_url: str, bodies: dict[str, bytes]) -> None:
        with self._lock:
            for name, body in bodies.items():
                version = f"{int(self._resources[type_url].get(name, ('0', b''))[0]) + 1}"
                self._resources[type_url][name] = (version, body)
            self._push(self._response(type_url, list(bodies)))

    def remove(self, type_url: str, name: str) -> None:
        with self._lock:
            self._resources[type_url].pop(name, None)
            self._push(self._response(type_url, [], [name]))

    def change(self, state: State) -> None:
        """Another state of the CA, and an announcement of it."""
        with self._lock:
            self.state = state
            for follower in self._followers:
                follower.put(state.token)

    def disconnect(self) -> None:
        """End all streams; clients come back."""
        with self._lock:
            for stream in self._streams:
                stream.put(None)
            for follower in self._followers:
                follower.put(None)

    def close(self) -> None:
        self.disconnect()
        self._server.stop(0).wait()

    def _push(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        for stream in self._streams:
            stream.put(response)

    def _response(self, type_url: str, names: list[str], removed: list[str] | None = None) -> discovery_pb2.DeltaDiscoveryResponse:
        self._nonce += 1
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce=str(self._nonce), removed_resources=removed or [])
        for name in names:
            version, body = self._resources[type_url][name]
            resource = response.resources.add(name=name, version=version)
            resource.resource.type_url = type_url
            resource.resource.value = body
        return response

    def _serve(self, requests: Iterator[discovery_pb2.DeltaDiscoveryRequest], context: grpc.ServicerContext) -> Iterator[Any]:
        stream: queue.Queue[discovery_pb2.DeltaDiscoveryResponse | None] = queue.Queue()

        def read() -> None:
            with contextlib.suppress(Exception):
                for request in requests:
                    if request.response_nonce:
                        if request.error_detail.message:
                            self.errors.append(request.error_detail.message)
                        continue
                    self.first.append(request)
                    with self._lock:
                        held = dict(request.initial_resource_versions)
                        known = self._resources[request.type_url]
                        names = [name for name, (version, _) in known.items() if held.get(name) != version]
                        stream.put(self._response(request.type_url, names, [name for name in held if name not in known]))
            stream.put(None)

        with self._lock:
            self._streams.append(stream)
        threading.Thread(target=read, daemon=True).start()
        try:
            while (response := stream.get()) is not None:
                yield response
        finally:
            with self._lock:
                self._streams.remove(stream)

    def _certify(self, request: ca_pb2.IstioCertificateRequest, context: grpc.ServicerContext) -> ca_pb2.IstioCertificateResponse:
        wanted = str(request.metadata["ImpersonatedIdentity"])
        identity = parse_spiffe(wanted)
        if self.refuse_certificates or identity is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
        self.issued.append(wanted)
        state = self.answer_from or self.state
        authority = Authority(check(state.current, datetime.now(UTC), "the double"), state.current.chain, state.bundle, state.token)
        issued = authority.sign(request.csr, identity, int(request.validity_duration), 86400)
        context.set_trailing_metadata(((TRUST, authority.token),))
        return ca_pb2.IstioCertificateResponse(cert_chain=issued.chain)

    def _follow(self, reports: Iterator[trust_pb2.Held], context: grpc.ServicerContext) -> Iterator[trust_pb2.Announcement]:
        follower: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            with contextlib.suppress(Exception):
                self.reports += reports
            follower.put(None)

        with self._lock:
            self._followers.append(follower)
            follower.put(self.state.token)
        threading.Thread(target=read, daemon=True).start()
        try:
            while (token := follower.get()) is not None:
                yield trust_pb2.Announcement(token=token)
        finally:
            with self._lock:
                self._followers.remove(follower)


class Agent:
    """The node agent's end of ZDS. Serves one tunnel after another, and several at a time; keeps what was added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.acks: list[str] = []
        self.sessions = 0
        self._pods: dict[str, tuple[Add, int]] = {}
        self._lock = threading.Lock()
        self._connections: list[_AgentConnection] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def add(self, uid: str, name: str, namespace: str, account: str, fd: int) -> None:
        add = Add(uid, WorkloadInfo(name, namespace, account))
        with self._lock:
            self._pods[uid] = (add, fd)
            for connection in self._connections:
                connection.submit(add)

    def delete(self, uid: str) -> None:
        with self._lock:
            self._pods.pop(uid, None)
            for connection in self._connections:
                connection.submit(Delete(uid))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = _AgentConnection(self, sock)
            threading.Thread(target=connection.serve, daemon=True).start()


class _AgentConnection:
    def __init__(self, agent: Agent, sock: socket.socket) -> None:
        self._agent = agent
        self._sock = sock
        self._session = AgentSession(time.monotonic())

    def serve(self) -> None:
        agent = self._agent
        with self._sock:
            while True:
                try:
                    data = self._sock.recv(2048)
                except OSError:
                    data = b""
                if not data:
                    break
                with agent._lock:
                    event = self._session.receive(data)
                    if isinstance(event, Connected):
                        agent.sessions += 1
                        agent._connections.append(self)
                        self._session.snapshot([add for add, _ in agent._pods.values()])
                    else:
                        agent.acks.append(event.error)
                    self._send_next()
        with agent._lock, contextlib.suppress(ValueError):
            agent._connections.remove(self)

    def submit(self, request: Add | Delete) -> None:
        self._session.submit(request)
        self._send_next()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _send_next(self) -> None:
        request = self._session.next_request(time.monotonic())
        if request is None:
            return
        fds = [self._agent._pods[request.uid][1]] if isinstance(request, Add) else []
        with contextlib.suppress(OSError):
            socket.send_fds(self._sock, [encode_request(request)], fds)


class TunnelProcess:
    """`python -m ztunnel`, with its log and access log in files."""

    def __init__(self, directory: Path, control: ControlPlane, agent: Agent, mark: int, **environment: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "ztunnel.log"
        self.access = directory / "access.log"
        self.admin, self.metrics_port, self.ready_port = free_ports(3)
        mark_file = directory / "tunnel-mark"
        mark_file.write_text(f"{mark:#010x}\n")
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "NODE_NAME": "node-1",
            "XDS_ADDRESS": f"http://127.0.0.1:{control.port}",
            "AUTH_TOKEN": "none",
            "INPOD_UDS": str(agent.path),
            "CULVERT_MARK_FILE": str(mark_file),
            "CULVERT_ACCESS_LOG": str(self.access),
            "LOG_LEVEL": "debug",
            "ADMIN_ADDR": f"127.0.0.1:{self.admin}",
            "STATS_ADDR": f"127.0.0.1:{self.metrics_port}",
            "READINESS_ADDR": f"127.0.0.1:{self.ready_port}",
        } | environment
        with self.log.open("wb") as out:
            command = [sys.executable, "-W", "error", "-m", "ztunnel"]
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, cwd="/")

    def get(self, path: str, port: int | None = None, method: str = "GET") -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", port or self.admin, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def ready(self) -> None:
        until("ready", lambda: self.process.poll() is not None or self.get("/healthz/ready", self.ready_port)[0] == 200)
        assert self.process.poll() is None, self.log.read_text()

    def dump(self) -> dict[str, Any]:
        return json.loads(self.get("/config_dump")[1])  # type: ignore[no-any-return]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples with these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        page = self.get("/metrics", self.metrics_port)[1]
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def lines(self, **fields: object) -> list[dict[str, Any]]:
        """The access log's lines with these fields."""
        found = [json.loads(line) for line in self.access.read_text().splitlines()]
        return [line for line in found if fields.items() <= line.items()]

    def wait_line(self, **fields: object) -> dict[str, Any]:
        until(f"an access log line with {fields}", lambda: self.lines(**fields), 10)
        return self.lines(**fields)[-1]

    def resident(self) -> int:
        """Bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


__all__ = ["Agent", "ControlPlane", "TunnelProcess", "until"]
