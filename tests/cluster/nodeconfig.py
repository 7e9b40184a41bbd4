"""What a node's daemons are told, and the cgroups that they work in."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import yaml

from tests.cluster import images, tools
from tests.cluster.apiserver import ApiServer
from tests.cluster.janitor import CGROUPS
from tests.cluster.wiring import HUB_ADDRESS, pods_of

CNI_BINARIES = "/usr/lib/cni"  # Debian's containernetworking-plugins

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


def write(directory: Path, server: ApiServer, number: int, cgroup: str, shared: Path) -> None:
    """The files that node.sh reads. `shared` is a folder that the node sees as it is."""
    url = f"https://{HUB_ADDRESS}:{server.port}"
    kubelet = server.pki.client(f"system:node:node-{number}", "system:nodes")
    server.pki.kubeconfig(directory / "kubelet.kubeconfig", url, certificate=kubelet)
    server.pki.kubeconfig(directory / "kube-proxy.kubeconfig", url, certificate=server.pki.client("system:kube-proxy"))
    (directory / "binds").write_text("".join(f"{path}\n" for path in (tools.directory(), shared, *_elsewhere())))
    ranges = [[{"subnet": subnet}] for subnet in pods_of(number)]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    (directory / "cni.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "bridge", "plugins": plugins}))
    (directory / "containerd.toml").write_text(CONTAINERD)
    x509 = {"clientCAFile": str(server.ca)}
    authentication = {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": x509}
    (directory / "kubelet.yaml").write_text(yaml.safe_dump(KUBELET | {"cgroupRoot": f"/{cgroup}", "authentication": authentication}))


def _elsewhere() -> list[Path]:
    """This repository and its Python, where they are on another file system than the machine's root: a node sees that one only."""
    wanted = (Path(__file__).parents[2], Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())
    return [path for path in wanted if path.stat().st_dev != Path("/").stat().st_dev]


def make_cgroup(name: str) -> None:
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
