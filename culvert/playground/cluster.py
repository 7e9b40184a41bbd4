"""The reconciler: applied objects in, running pods and published facts out. One pass at a time, again after every change.

A pass never waits for anything slow: pods, deletions and the mesh's processes are tasks that wake the next pass when something is new.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from culvert.playground.consul import FORWARD_PORT, target
from culvert.playground.containers import Surroundings
from culvert.playground.documents import Document, ObjectKey, dump
from culvert.playground.files import keep_only, read_json, write_atomic, write_in_place, write_json
from culvert.playground.forward import Forward
from culvert.playground.hosts import ServiceName, render_hosts
from culvert.playground.launch import Worker, in_netns
from culvert.playground.layout import Layout
from culvert.playground.meshprocess import MeshProcess
from culvert.playground.meshprograms import CONTROL_HTTP_PORT, LOCAL, ROOT_CERTIFICATE, mesh_programs
from culvert.playground.namewatch import NameWatch, in_namespace
from culvert.playground.nft import render_ruleset
from culvert.playground.pod import Pod, PodDeps
from culvert.playground.podset import PodSet
from culvert.playground.processes import ProcessId
from culvert.playground.publish import agent_file, agent_record, merged, pod_labels, pod_object, service_object
from culvert.playground.serviceaddresses import ServiceAddresses
from culvert.playground.services import Backend, ServicePortState, ServiceSpec, backends, cluster_addresses, port_states
from culvert.playground.spec import PlaygroundSpec
from culvert.playground.store import Store
from culvert.playground.wanted import Wanted, interpret
from mesh.model.enrolment import decide

SETTLED_SECONDS = 3.0
Overlay = Mapping[str, str | None]


class Cluster:
    def __init__(self, layout: Layout, spec: PlaygroundSpec, worker: Worker) -> None:
        self.layout = layout
        self.spec = spec
        self.wake = asyncio.Event()
        self.wanted = Wanted()
        self.observed = 0
        self.problems: dict[str, str] = {}
        self.service_addresses: dict[ObjectKey, tuple[str, ...]] = {}
        self.service_states: dict[ObjectKey, list[ServicePortState]] = {}
        self._worker = worker
        self._store = Store(layout.applied)
        self._documents: list[Document] = []
        memory = read_json(layout.addresses) or {}
        self._addresses = ServiceAddresses(memory.get("services", {}))
        self._last_hosts: dict[str, int] = memory.get("last", {})
        self.mesh = [MeshProcess(program, worker, layout.pids, self.wake.set) for program in mesh_programs(layout, spec)]
        deps = PodDeps(Surroundings(layout, spec.nodes, spec.path), worker, self.wake.set, self.mesh_processes, self.settled)
        self.podset = PodSet(deps, self.wake.set, self._last_hosts)
        self.names = NameWatch(in_namespace(layout.control), (LOCAL, CONTROL_HTTP_PORT), layout.names, self.wake.set)
        outside = target(spec.consul) if spec.mesh else None
        self._forward = Forward(outside, self.wake.set) if outside is not None else None
        self._tasks: list[asyncio.Task[None]] = []
        self._begun = self._ended = 0
        self._passed = asyncio.Condition()
        self._rulesets: dict[str, str] = {}
        self._hosts: dict[str, str] = {}

    def mesh_processes(self) -> list[ProcessId]:
        """Never swept with a pod: the node tunnel visits pods' namespaces."""
        return [process.keeper.process for process in self.mesh if process.keeper.process is not None]

    async def start(self) -> None:
        if self._forward is not None:
            await self._forward.start(self.layout.control, (LOCAL, FORWARD_PORT))
        if self.spec.mesh:
            self._tasks.append(asyncio.create_task(self.names.run(), name="names"))
        for node in self.spec.nodes:
            token = self.layout.tokens / node
            if not token.exists():
                write_atomic(token, secrets.token_urlsafe(32) + "\n")
        self.podset.adopt()

    async def settled(self) -> None:
        """Until a pass that began after this call has ended (a few seconds at most: passes may fail)."""
        wanted = self._begun + 1
        self.wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_SECONDS), self._passed:
                await self._passed.wait_for(lambda: self._ended >= wanted)

    async def sync(self) -> None:
        """One pass."""
        self._begun += 1
        mine = self._begun
        await self._pass()
        async with self._passed:
            self._ended = mine
            self._passed.notify_all()

    async def _pass(self) -> None:
        self.observed = int(read_json(self.layout.generation) or 0)
        documents = list(self._store.load().values())
        if documents != self._documents:
            self._documents, self.wanted = documents, interpret(documents)
        self._start_mesh()
        self._delete_asked()
        self.podset.reconcile(self.wanted.owners)
        self._allocate()
        write_json(self.layout.addresses, {"services": self._addresses.hosts, "last": self._last_hosts})
        overlays: dict[str, Overlay] = read_json(self.layout.overlays) or {}
        pods = list(self.podset.pods.values())
        self._read_redirection(pods)
        self._admit(pods, overlays)
        self._publish_objects(pods, overlays)
        self._publish_to_agents(pods, overlays)
        names, states = self._resolve(pods, overlays)
        self._write_hosts(pods, names)
        await self._write_rulesets(pods, states)

    # Steps of a pass

    def _start_mesh(self) -> None:
        rooted = (self.layout.ca / ROOT_CERTIFICATE).exists()
        for process in self.mesh:
            if not process.started and (rooted or not process.program.needs_root_ca):
                process.start()

    def _delete_asked(self) -> None:
        """`culvert delete pod`: a file per pod that is to go, though its owner may want another."""
        asked = read_json(self.layout.deletions)
        if asked:
            for key in asked:
                namespace, _, name = str(key).partition("/")
                self.podset.delete(namespace, name)
            self.layout.deletions.unlink()

    def _allocate(self) -> None:
        self.problems = dict(self.podset.problems)
        if self.names.problem:
            self.problems["Names"] = self.names.problem
        if self._forward is not None and self._forward.problem:
            self.problems["Consul"] = self._forward.problem
        self.service_addresses = {}
        self._addresses.keep(service.key for service in self.wanted.services.values())
        # Those that ask for an address come first, so that nobody else has it.
        for key, service in sorted(self.wanted.services.items(), key=lambda item: (not item[1].requested, item[0])):
            if service.headless or service.external_name:
                self.service_addresses[key] = ()
                continue
            host, problem = self._addresses.host_for(service)
            if problem:
                self.problems[str(key)] = problem
            self.service_addresses[key] = cluster_addresses(service, host) if host is not None else ()

    def _read_redirection(self, pods: list[Pod]) -> None:
        for pod in pods:
            try:
                pod.redirection = (self.layout.redirection(pod.record.node) / pod.record.uid).read_text().strip()
            except FileNotFoundError:
                pod.redirection = ""

    def _admit(self, pods: list[Pod], overlays: Mapping[str, Overlay]) -> None:
        for pod in pods:
            pod.mesh_wanted = self.spec.mesh and self._enrolment_wanted(pod, overlays.get(f"Pod {pod.record.key}", {}))
            if not pod.admitted:
                if not pod.mesh_wanted or pod.redirection == "enabled":
                    pod.problem = ""
                    pod.admit()
                else:
                    pod.problem = (
                        f"waiting to enter the mesh: {pod.redirection.removeprefix('pending: ') or 'the agent has not answered yet'}"
                    )

    def _enrolment_wanted(self, pod: Pod, overlay: Overlay) -> bool:
        return decide(
            namespace=pod.record.namespace,
            labels=merged(pod_labels(pod), overlay),
            annotations=pod.spec.annotations,
            namespace_labels=self.wanted.namespaces.get(pod.record.namespace, {}),
            host_network=False,
            phase=pod.phase,
        ).enrolled

    def _publish_objects(self, pods: list[Pod], overlays: Mapping[str, Overlay]) -> None:
        names: set[str] = set()

        def put(name: str, body: Mapping[str, object]) -> None:
            names.add(name)
            write_atomic(self.layout.objects / name, dump(body))

        for document in self.wanted.passed_on:
            put(document.key.file, document.body)
        bodies = {document.key: document.body for document in self._documents}
        for key, service in self.wanted.services.items():
            put(key.file, service_object(bodies[key], service, self.service_addresses.get(key, ())))
        for pod in pods:
            key = pod.record.pod_key
            put(key.file, pod_object(pod, self.spec.nodes, pod.redirection, overlays.get(f"Pod {pod.record.key}", {})))
        keep_only(self.layout.objects, names)

    def _publish_to_agents(self, pods: list[Pod], overlays: Mapping[str, Overlay]) -> None:
        for node in self.spec.nodes:
            names: set[str] = set()
            for pod in pods:
                if pod.record.node == node and pod.record.made and not pod.retired:
                    labels = self.wanted.namespaces.get(pod.record.namespace, {})
                    names.add(agent_file(pod.record))
                    record = agent_record(pod, labels, overlays.get(f"Pod {pod.record.key}", {}))
                    write_json(self.layout.agent_pods(node) / agent_file(pod.record), record)
            keep_only(self.layout.agent_pods(node), names)

    def _resolve(self, pods: list[Pod], overlays: Mapping[str, Overlay]) -> tuple[list[ServiceName], list[ServicePortState]]:
        running = [
            Backend(
                pod.record.namespace,
                pod.record.name,
                merged(pod_labels(pod), overlays.get(f"Pod {pod.record.key}", {})),
                pod.record.addresses,
                pod.spec,
                pod.ready,
            )
            for pod in pods
            if not pod.record.deleting
        ]
        self.service_states = {
            key: port_states(service, self.service_addresses.get(key, ()), running) for key, service in self.wanted.services.items()
        }
        names = [self._name(key, service, running) for key, service in self.wanted.services.items()]
        return names, [state for states in self.service_states.values() for state in states]

    def _name(self, key: ObjectKey, service: ServiceSpec, running: list[Backend]) -> ServiceName:
        addresses = self.service_addresses.get(key, ())
        if service.headless:
            wanted = tuple(str(family) for family in service.families)
            found = [address for pod in backends(service, running) for address in pod.addresses]
            addresses = tuple(address for address in found if ("6" if ":" in address else "4") in wanted)
        return ServiceName(service.namespace, service.name, addresses)

    def _write_hosts(self, pods: list[Pod], names: list[ServiceName]) -> None:
        for pod in pods:
            record = pod.record
            text = render_hosts(record.namespace, record.name, record.addresses, names, self.names.names)
            if self._hosts.get(record.uid) != text and not record.deleting:
                write_in_place(self.layout.hosts / record.uid, text)
                self._hosts[record.uid] = text
        for uid in self._hosts.keys() - {pod.record.uid for pod in pods}:
            del self._hosts[uid]

    async def _write_rulesets(self, pods: list[Pod], states: list[ServicePortState]) -> None:
        for node in self.spec.nodes:
            local = [address for pod in pods if pod.record.node == node for address in pod.record.addresses]
            text = render_ruleset(states, local)
            if self._rulesets.get(node) != text:
                problem = await self._worker.run(lambda node=node, text=text: in_netns(self.layout.node(node), lambda: _load(text)))  # type: ignore[misc]
                if problem:
                    self.problems[f"Node {node}"] = f"nft refused the services' rules: {problem}"
                else:
                    self._rulesets[node] = text


def _load(text: str) -> str:
    done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=10, check=False)
    return done.stderr.strip().splitlines()[0] if done.returncode and done.stderr.strip() else ("exit code" if done.returncode else "")
