"""Whole nodes on this machine: a real Kubernetes cluster, with containerd, kubelets and kube-proxies, and no Docker.

    with nodes.running() as cluster:
        cluster.load(images.image(cluster.directory / "mine.tar", "localhost/mine:1", …))
        cluster.server.apply(text)
        cluster.server.kubectl("exec", "web", "--", "id")
        cluster.nodes[0].run("nft", "list", "ruleset")

How it is laid out. A node is what it is in kind: a network, mount, PID and UTS namespace, a root file system and a cgroup of its own
(node.sh). The nodes hang on a bridge in one more network namespace, the *hub*, where etcd, API server, controllers and scheduler run. So
clusters do not meet: each has the same addresses, in namespaces that nobody else sees. One veth pair leads from the machine into the hub,
for the tests; it has a small network of its own per cluster.

    machine ── 198.18.x.y/30 ── hub 10.97.0.254 ──┬── node-1 10.97.0.1 fd00:97::1, pods 10.244.1.0/24 fd00:244:1::/64
                                                  └── node-2 10.97.0.2 fd00:97::2, pods 10.244.2.0/24 fd00:244:2::/64

Pods have addresses of both families, Services those that they ask for. From the machine only the hub is reached; a program that has to
reach nodes and pods is started with `inside_hub()`.

All nodes share one kernel: what is attached to the root cgroup, or pinned under one bpffs, is seen by all. PIDs are those of the node's own
namespace, machine-wide ones only BPF sees. Every node dies with the process that started it; `janitor` removes the rest after a killed run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.cluster import images, janitor, nodeconfig, tools, wiring
from tests.cluster.apiserver import ApiServer, ControllerManager, Place
from tests.cluster.etcd import Etcd
from tests.cluster.janitor import Record
from tests.cluster.processes import Program

READY_SECONDS = 60.0
NODE_SCRIPT = Path(__file__).with_name("node.sh")
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy")


@dataclass(frozen=True)
class Node:
    """`netns` is the name of its network namespace on the machine; `program` its first process."""

    name: str
    address: str
    address6: str
    netns: str
    directory: Path
    program: Program

    @property
    def init(self) -> int:
        """The machine-wide pid of the node's first process, through which its namespaces are entered."""
        pid = self.program.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def inside(self) -> list[str]:
        """The command prefix that runs a program on the node: its namespaces, its files."""
        return ["nsenter", f"--target={self.init}", "--net", "--mount", "--pid", "--uts", "--root", "--wd=/", "--"]

    def run(self, *command: str, check: bool = True) -> str:
        """Standard output of a program that runs on the node."""
        return wiring.run(*self.inside(), *command, check=check)

    def logs(self) -> str:
        """The ends of its daemons' logs."""
        ends = []
        for path in sorted((self.directory / "log").glob("*.log")):
            ends += [f"--- {self.name}: {path.name}", *path.read_text(errors="replace").splitlines()[-15:]]
        return "\n".join(ends)


@dataclass(frozen=True)
class Cluster:
    """`hub` is the name of the network namespace of the control plane. `directory` is seen by all nodes under the same path."""

    server: ApiServer
    nodes: list[Node]
    hub: str
    directory: Path

    def inside_hub(self) -> list[str]:
        """The command prefix for a program beside the API server: it reaches nodes and pods by address, but no Service."""
        return wiring.inside(self.hub)

    def load(self, archive: Path) -> None:
        """An image archive below `directory` onto every node."""
        for node in self.nodes:
            node.run(str(tools.find("ctr")), "-n", "k8s.io", "images", "import", str(archive))

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Until every node is Ready and pods can be made. A daemon that ended fails it at once, with its log's end."""
        try:
            for node in self.nodes:
                node.program.wait_until(f"{node.name} to be ready", partial(self._is_ready, node), seconds)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *(node.logs() for node in self.nodes)])) from None

    def _is_ready(self, node: Node) -> bool:
        for item in self.server.api.items("/api/v1/nodes"):
            conditions = {each["type"]: each["status"] for each in item.get("status", {}).get("conditions", [])}
            if item["metadata"]["name"] == node.name:
                return conditions.get("Ready") == "True" and not item["spec"].get("taints")
        return False


@contextmanager
def running(count: int = 2) -> Iterator[Cluster]:
    """A cluster of `count` nodes that are ready. Everything of it is gone afterwards.

    Without any node it is a control plane whose API server calls webhooks by their Services; one on loopback can only call them by URL.
    """
    assert os.geteuid() == 0, "nodes are made of namespaces: run this as root"
    for program in PROGRAMS:
        tools.find(program)
    janitor.sweep()
    record = Record()
    with ExitStack() as stack:
        stack.callback(record.clean)
        with ThreadPoolExecutor(1) as aside:
            archives = aside.submit(_make_images, record.directory / "images")
            place = wiring.make_hub(stack, record)
            server = _start_control_plane(stack, record, place)
            archives.result()
        made = [_start_node(stack, record, server, number, count) for number in range(1, count + 1)]
        cluster = Cluster(server, made, wiring.hub_of(record), record.directory)
        cluster.wait_ready()
        yield cluster


def _make_images(directory: Path) -> None:
    directory.mkdir()
    images.pause(directory)
    images.busybox(directory)


def _start_control_plane(stack: ExitStack, record: Record, place: Place) -> ApiServer:
    directory = record.directory / "control"
    etcd = Etcd(directory / "etcd", place.host, place.inside)
    stack.callback(etcd.close)
    etcd.start()
    server = ApiServer(directory, etcd, place)
    stack.callback(server.close)
    server.start()
    manager = ControllerManager(server, place.inside)
    stack.callback(manager.close)
    manager.program.start()
    scheduler = Program(
        "kube-scheduler",
        [*place.inside, tools.find("kube-scheduler"), f"--kubeconfig={server.kubeconfig}", "--leader-elect=false"],
        directory / "scheduler.log",
    )
    stack.callback(scheduler.stop)
    scheduler.start()
    for program in (etcd.program, server.program, manager.program, scheduler):
        record.process(program.identity)
    return server


def _start_node(stack: ExitStack, record: Record, server: ApiServer, number: int, count: int) -> Node:
    name, addresses = f"node-{number}", wiring.node_addresses(number)
    netns, cgroup = wiring.make_node(record, number, count), record.cgroup(f"cvt{record.id}-{name}")
    directory = record.directory / name
    directory.mkdir()
    nodeconfig.make_cgroup(cgroup)
    nodeconfig.write(directory, server, number, cgroup, record.directory)
    unshare = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--propagation", "private"]
    command = [*wiring.inside(netns), *unshare, "bash", str(NODE_SCRIPT), str(directory), name, ",".join(addresses)]
    path = f"{tools.directory()}:{os.environ['PATH']}:/usr/sbin:/sbin"
    program = Program(name, command, directory / "node.log", {"PATH": path})
    # No last wishes: a node ends as it would by a power cut, all at once.
    stack.callback(program.kill)
    program.start()
    record.process(program.identity)
    return Node(name, *addresses, netns, directory, program)
