"""Where everything of one playground is called and kept. Pure: names and paths, no I/O.

Ownership is by prefix: all that belongs to playground `shop` is called `shop-…`. A playground's own name holds no hyphen, so that
`shop` never owns what belongs to `shop2` or to a name that merely begins alike.

State directory (default /run/culvert/<name>, mode 0700):

    playground.json         what `up` was asked for
    applied/                the user's objects, one YAML file each; written by the CLI only
    objects/                what the control plane reads: applied objects with addresses filled in, and one Pod object per running pod
    refused/ refused.json   policies that were refused (the control plane reads them too: they deny), and why anything was
    pods/                   the supervisor's record of each pod: uid, node, addresses, processes with their start times
    hosts/ resolv.conf      /etc/hosts per pod; /etc/resolv.conf of all
    nodes/<node>/           pods/ redirection/ run/ of the agent on that node
    tokens/ ca/             what proves nodes to the control plane, and its root
    logs/ pids/             per process: one bounded log; pid, start time and restarts
    labels.json             labels set on running pods
    addresses.json          which service has which address
    names.json              names that the control plane told last, which are no Service's
    network.json            inodes of the wire's and the nodes' namespaces, once they are whole
    status.json             what the supervisor last saw; the CLI shows it
    supervisor.pid          pid and start time
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

STATE_ROOT = Path("/run/culvert")
NETNS_ROOT = Path("/run/netns")
DEFAULT_NAME = "culvert"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9]{0,14}")
NAME_ACCEPTED = "a lower-case letter, then up to 14 lower-case letters or digits"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and paths of one playground."""

    name: str
    state: Path

    @property
    def prefix(self) -> str:
        return f"{self.name}-"

    @property
    def options(self) -> str:
        """What a command needs to mean this playground, whatever its environment says."""
        state = "" if self.state == STATE_ROOT / self.name else f" --state {shlex.quote(str(self.state))}"
        return f"--name {self.name}{state}"

    # Network namespaces

    @property
    def wire(self) -> str:
        return f"{self.name}-wire"

    @property
    def control(self) -> str:
        return f"{self.name}-control"

    def node(self, node: str) -> str:
        return f"{self.name}-{node}"

    def pod(self, node: str, namespace: str, pod: str) -> str:
        return f"{self.name}-{node}-{pod}.{namespace}"

    def instance(self, node: str) -> str:
        """The name under which the agent of a node pins its kernel objects: unique among all nodes on this machine."""
        return f"{self.name}-{node}"

    # Files

    @property
    def spec(self) -> Path:
        return self.state / "playground.json"

    @property
    def applied(self) -> Path:
        return self.state / "applied"

    @property
    def objects(self) -> Path:
        return self.state / "objects"

    @property
    def pods(self) -> Path:
        return self.state / "pods"

    @property
    def hosts(self) -> Path:
        return self.state / "hosts"

    @property
    def resolver(self) -> Path:
        return self.state / "resolv.conf"

    @property
    def tokens(self) -> Path:
        return self.state / "tokens"

    @property
    def ca(self) -> Path:
        return self.state / "ca"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    @property
    def network(self) -> Path:
        return self.state / "network.json"

    @property
    def overlays(self) -> Path:
        return self.state / "labels.json"

    @property
    def lock(self) -> Path:
        """Beside the state directory, not inside: `down` removes that while others may wait."""
        return self.state.with_name(f".{self.state.name}.lock")

    @property
    def deletions(self) -> Path:
        """Keys of pods that are to go though their owner may want others; removed by the supervisor when it has taken them up."""
        return self.state / "delete.json"

    @property
    def generation(self) -> Path:
        return self.applied / "generation"

    @property
    def status(self) -> Path:
        return self.state / "status.json"

    @property
    def refused(self) -> Path:
        return self.state / "refused.json"

    @property
    def refused_objects(self) -> Path:
        return self.state / "refused"

    @property
    def addresses(self) -> Path:
        return self.state / "addresses.json"

    @property
    def names(self) -> Path:
        return self.state / "names.json"

    @property
    def supervisor_pid(self) -> Path:
        return self.state / "supervisor.pid"

    @property
    def supervisor_log(self) -> Path:
        return self.logs / "supervisor.log"

    def node_dir(self, node: str) -> Path:
        return self.state / "nodes" / node

    def agent_pods(self, node: str) -> Path:
        return self.node_dir(node) / "pods"

    def redirection(self, node: str) -> Path:
        return self.node_dir(node) / "redirection"

    def run_dir(self, node: str) -> Path:
        return self.node_dir(node) / "run"

    def directories(self, nodes: tuple[str, ...]) -> list[Path]:
        """Every directory that must exist before the first process starts, parents first."""
        top = [
            self.state,
            self.applied,
            self.objects,
            self.refused_objects,
            self.pods,
            self.hosts,
            self.tokens,
            self.ca,
            self.logs,
            self.pids,
        ]
        return top + [path for node in nodes for path in (self.agent_pods(node), self.redirection(node), self.run_dir(node))]


def netns_path(namespace: str) -> Path:
    return NETNS_ROOT / namespace


def node_names(count: int) -> tuple[str, ...]:
    return tuple(f"node-{number}" for number in range(1, count + 1))
