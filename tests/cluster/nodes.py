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

    machine ── 198.18.x.y/30 ── hub 10.97.0.254 ──┬── node-1 10.97.0.1, pods 10.244.1.0/24
                                                  └── node-2 10.97.0.2, pods 10.244.2.0/24

All nodes share one kernel: what is attached to the root cgroup, or pinned under one bpffs, is seen by all. PIDs are those of the node's own
namespace, machine-wide ones only BPF sees. Every node dies with the process that started it; `janitor` removes the rest after a killed run.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from tests.cluster import images, janitor, ports, tools
from tests.cluster.apiserver import ApiServer, ControllerManager, Place
from tests.cluster.etcd import Etcd
from tests.cluster.janitor import CGROUPS, Record
from tests.cluster.processes import Program

HUB_ADDRESS = "10.97.0.254"
READY_SECONDS = 60.0
COMMAND_SECONDS = 60.0
SUBNETS = 2**14  # of four addresses each, in 198.18.0.0/16: a range that is set aside for tests (RFC 2544)
NODE_SCRIPT = Path(__file__).with_name("node.sh")
CNI_BINARIES = "/usr/lib/cni"  # Debian's containernetworking-plugins
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy")


@dataclass(frozen=True)
class Node:
    """`netns` is the name of its network namespace on the machine; `program` its first process."""

    name: str
    address: str
    pods: str
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
        return _run(*self.inside(), *command, check=check)

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
        return ["nsenter", f"--net={janitor.NETNS / self.hub}", "--"]

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
    """A cluster of `count` nodes that are ready. Everything of it is gone afterwards."""
    assert os.geteuid() == 0, "nodes are made of namespaces: run this as root"
    for program in PROGRAMS:
        tools.find(program)
    janitor.sweep()
    record = Record()
    with ExitStack() as stack:
        stack.callback(record.clean)
        with ThreadPoolExecutor(1) as aside:
            archives = aside.submit(_make_images, record.directory / "images")
            place = _make_hub(stack, record)
            server = _start_control_plane(stack, record, place)
            archives.result()
        made = [_start_node(stack, record, server, number, count) for number in range(1, count + 1)]
        cluster = Cluster(server, made, _hub(record), record.directory)
        cluster.wait_ready()
        yield cluster


def _make_images(directory: Path) -> None:
    directory.mkdir()
    images.pause(directory)
    images.busybox(directory)


# The control plane


def _hub(record: Record) -> str:
    return f"cvt{record.id}-hub"


def _make_hub(stack: ExitStack, record: Record) -> Place:
    hub, link = record.namespace(_hub(record)), record.link(f"cvt{record.id}")
    number, lock = next((number, lock) for number in range(SUBNETS) if (lock := ports.try_lock("subnets", number)) is not None)
    stack.callback(os.close, lock)
    network = f"198.18.{number // 64}.{number % 64 * 4}"
    here, there = (f"{network.rpartition('.')[0]}.{number % 64 * 4 + end}" for end in (1, 2))
    _run("ip", "netns", "add", hub)
    _run("ip", "link", "add", link, "type", "veth", "peer", "name", "machine", "netns", hub)
    _run("ip", "address", "add", f"{here}/30", "dev", link)
    _run("ip", "link", "set", link, "up")
    batch = ["link set lo up", f"address add {there}/30 dev machine", "link set machine up"]
    batch += ["link add nodes type bridge", f"address add {HUB_ADDRESS}/24 dev nodes", "link set nodes up"]
    _batch(hub, batch)
    _forward(hub)
    return Place(inside=("nsenter", f"--net={janitor.NETNS / hub}", "--"), host=there, advertise=HUB_ADDRESS)


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


# A node


def _start_node(stack: ExitStack, record: Record, server: ApiServer, number: int, count: int) -> Node:
    name, address, pods = f"node-{number}", f"10.97.0.{number}", f"10.244.{number}.0/24"
    netns, cgroup = record.namespace(f"cvt{record.id}-{name}"), record.cgroup(f"cvt{record.id}-{name}")
    directory = record.directory / name
    directory.mkdir()
    _run("ip", "netns", "add", netns)
    link = [f"link add {name} type veth peer name eth0 netns {netns}", f"link set {name} master nodes up"]
    _batch(_hub(record), [*link, f"route add {pods} via {address}"])
    others = [f"route add 10.244.{other}.0/24 via 10.97.0.{other}" for other in range(1, count + 1) if other != number]
    eth0 = [f"address add {address}/24 dev eth0", "link set eth0 up", f"route add default via {HUB_ADDRESS}"]
    _batch(netns, ["link set lo up", *eth0, *others])
    _forward(netns)
    _make_cgroup(cgroup)
    _write_configuration(directory, server, name, pods, cgroup, record.directory)
    command = ["nsenter", f"--net={janitor.NETNS / netns}", "--", "unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child"]
    command += ["--propagation", "private", "bash", str(NODE_SCRIPT), str(directory), name, address]
    path = f"{tools.directory()}:{os.environ['PATH']}:/usr/sbin:/sbin"
    program = Program(name, command, directory / "node.log", {"PATH": path})
    # No last wishes: a node ends as it would by a power cut, all at once.
    stack.callback(program.kill)
    program.start()
    record.process(program.identity)
    return Node(name, address, pods, netns, directory, program)


def _make_cgroup(name: str) -> None:
    """A root for the node's kubelet: two kubelets on one root would remove each other's pods."""
    if (CGROUPS / "cgroup.controllers").exists():
        with contextlib.suppress(OSError):  # a controller that the machine keeps from us is missed by kubelet, which says which
            (CGROUPS / "cgroup.subtree_control").write_text("+cpuset +cpu +memory +pids")
        (CGROUPS / name).mkdir()
        return
    for hierarchy in CGROUPS.iterdir():
        (hierarchy / name).mkdir()
    for file in ("cpuset.cpus", "cpuset.mems"):
        (CGROUPS / "cpuset" / name / file).write_text((CGROUPS / "cpuset" / file).read_text())


def _write_configuration(directory: Path, server: ApiServer, name: str, pods: str, cgroup: str, shared: Path) -> None:
    url = f"https://{HUB_ADDRESS}:{server.port}"
    server.pki.kubeconfig(directory / "kubelet.kubeconfig", url, certificate=server.pki.client(f"system:node:{name}", "system:nodes"))
    server.pki.kubeconfig(directory / "kube-proxy.kubeconfig", url, certificate=server.pki.client("system:kube-proxy"))
    (directory / "binds").write_text("".join(f"{path}\n" for path in (tools.directory(), shared)))
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
    ipam = {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [bridge | {"ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    (directory / "cni.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "bridge", "plugins": plugins}))
    (directory / "containerd.toml").write_text(CONTAINERD)
    (directory / "kubelet.yaml").write_text(yaml.safe_dump(KUBELET | {"cgroupRoot": f"/{cgroup}"} | _authentication(server.ca)))


# restrict_oom_score_adj: where root lacks CAP_SYS_RESOURCE, runc dies without it ("can't get final child's PID from pipe").
CONTAINERD = f"""
version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{images.PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/opt/cni/bin", "{CNI_BINARIES}"]
  conf_dir = "/etc/cni/net.d"
"""

KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "failCgroupV1": False,
    "cgroupDriver": "cgroupfs",
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "localStorageCapacityIsolation": False,
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "authorization": {"mode": "Webhook"},
    "resolvConf": "",
    # A nearly full disk is the machine's business; a node that evicts pods for it would fail tests at random.
    "evictionHard": {"memory.available": "50Mi"},
    "imageGCHighThresholdPercent": 100,
}


def _authentication(ca: Path) -> dict[str, object]:
    return {"authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(ca)}}}


# Commands


def _run(*command: str, check: bool = True, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def _batch(netns: str, lines: list[str]) -> None:
    _run("ip", "-netns", netns, "-batch", "-", stdin="\n".join(lines) + "\n")


def _forward(netns: str) -> None:
    _run("nsenter", f"--net={janitor.NETNS / netns}", "--", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
