"""The set of pods: creates, replaces and deletes them until they are what the owners ask for."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from culvert.playground.addresses import AddressesExhausted, next_pod_host, pod_addresses
from culvert.playground.documents import ObjectKey
from culvert.playground.pod import Pod, PodDeps
from culvert.playground.records import PodRecord, load_records
from culvert.playground.rollout import Member, choose_node, next_step, pod_suffix
from culvert.playground.wanted import Owner


class PodSet:
    """All pods by (namespace, name), also those that are being deleted."""

    def __init__(self, deps: PodDeps, wake: Callable[[], None], last_hosts: dict[str, int]) -> None:
        """`last_hosts` is the last host number given out per node; it is changed in place, the caller keeps it."""
        self.pods: dict[tuple[str, str], Pod] = {}
        self.problems: dict[str, str] = {}
        self._deps = deps
        self._wake = wake
        self._last = last_hosts
        self._deletions: set[asyncio.Task[None]] = set()

    def adopt(self) -> None:
        """Take over what an earlier supervisor left: pods go on, deletions are finished."""
        for record in load_records(self._deps.layout.pods):
            pod = Pod(record, self._deps)
            self.pods[record.namespace, record.name] = pod
            pod.start()
            if record.deleting:
                self._delete(pod)

    def reconcile(self, owners: Mapping[ObjectKey, Owner]) -> None:
        """One step towards what the owners ask for. Called again after every change of a pod."""
        self.problems.clear()
        mine: dict[ObjectKey, list[Pod]] = {key: [] for key in owners}
        for pod in list(self.pods.values()):
            owner = pod.record.owner_key
            if pod.record.deleting:
                continue
            if owner in mine:
                mine[owner].append(pod)
            else:
                self._delete(pod)
        for key, wanted in owners.items():
            self._step(wanted, mine[key])

    def _step(self, owner: Owner, pods: Iterable[Pod]) -> None:
        by_name = {pod.record.name: pod for pod in pods}
        members = [Member(pod.record.name, pod.record.revision, pod.ready, pod.record.created) for pod in by_name.values()]
        step = next_step(owner.replicas, owner.revision, members, recreate=owner.recreate)
        for name in step.delete:
            self._delete(by_name[name])
        for pod in by_name.values():
            if owner.bare and pod.record.revision == owner.revision and pod.record.template != owner.template:
                pod.relabel(replace(pod.record, template=owner.template))
        if owner.bare and (owner.key.namespace, owner.key.name) in self.pods:
            return  # the old one of this name must be gone first
        for _ in range(step.create):
            self._create(owner)

    def _create(self, owner: Owner) -> None:
        deps = self._deps
        placed = [(pod.record.node, str(pod.record.owner_key)) for pod in self.pods.values()]
        node = choose_node(deps.nodes, placed, str(owner.key), owner.spec.node_name)
        if node is None:
            self.problems[str(owner.key)] = f"nodeName {owner.spec.node_name} does not exist; nodes are {', '.join(deps.nodes)}"
            return
        number = deps.nodes.index(node) + 1
        used = {int(pod.record.addresses[0].rpartition(".")[2]) for pod in self.pods.values() if pod.record.node == node}
        try:
            host = next_pod_host(used, self._last.get(node, 1))
        except AddressesExhausted as error:
            self.problems[str(owner.key)] = str(error)
            return
        self._last[node] = host
        namespace, name = owner.key.namespace, self._name(owner)
        record = PodRecord(
            uid=str(uuid.uuid4()),
            namespace=namespace,
            name=name,
            node=node,
            addresses=tuple(str(address) for address in pod_addresses(number, host)),
            netns=deps.layout.pod(node, namespace, name),
            owner=owner.reference,
            revision=owner.revision,
            source=owner.source,
            template=owner.template,
            created=time.time(),
        )
        record.save(deps.layout.pods)
        pod = Pod(record, deps)
        self.pods[namespace, name] = pod
        pod.start()

    def _name(self, owner: Owner) -> str:
        if owner.bare:
            return owner.key.name
        while True:
            name = f"{owner.key.name}-{owner.revision}-{pod_suffix(os.urandom(8))}"
            if (owner.key.namespace, name) not in self.pods:
                return name

    def delete(self, namespace: str, name: str) -> None:
        """Delete one pod; its owner makes another."""
        pod = self.pods.get((namespace, name))
        if pod is not None:
            self._delete(pod)

    def _delete(self, pod: Pod) -> None:
        async def run() -> None:
            await pod.delete()
            del self.pods[pod.record.namespace, pod.record.name]
            self._wake()

        if pod.deletion_begun:
            return
        pod.deletion_begun = True
        task = asyncio.create_task(run(), name=f"delete {pod.record.key}")
        self._deletions.add(task)
        task.add_done_callback(self._deletions.discard)
