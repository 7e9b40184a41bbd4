"""The node agent as a process, on a node made of namespaces, with real programs and a small tunnel that speaks real ZDS."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest

from agent.bpf import uninstall
from mesh.io.netns import Namespace
from tests.agent.zdsclient import ZdsClient
from tests.bpf.lab import App, Node, Pod, Tunnel, greet, node, run

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
PATIENCE = 15.0


def until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)


@dataclass
class Lab:
    """One node with its agent. Pods are announced by files, as the playground does it."""

    node: Node
    state: Path
    agent: subprocess.Popen[bytes] | None = None
    logs: list[Path] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "CULVERT_INSTANCE": self.node.instance,
            "NODE_NAME": "node-1",
            "CULVERT_PODS_DIR": str(self.state / "pods"),
            "CULVERT_REDIRECTION_DIR": str(self.state / "redirection"),
            "CULVERT_RUN_DIR": str(self.state / "run"),
        }

    @property
    def socket(self) -> str:
        return str(self.state / "run" / "ztunnel.sock")

    @property
    def mark(self) -> int:
        return int((self.state / "run" / "tunnel-mark").read_text(), 16)

    def start(self) -> None:
        log = self.state / f"agent-{len(self.logs)}.log"
        self.logs.append(log)
        inside = ["nsenter", f"--net=/run/netns/{self.node.name}", sys.executable, "-m", "agent"]
        with log.open("wb") as out:
            self.agent = subprocess.Popen(inside, env=self.env, stdout=out, stderr=subprocess.STDOUT, cwd="/")
        agent = self.agent
        until("agent ready", lambda: agent.poll() is not None or self.get("/readyz")[0] == 200)
        assert agent.poll() is None

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.agent is not None
        self.agent.send_signal(number)
        code = self.agent.wait(PATIENCE)
        self.agent = None
        return code

    def uninstall(self) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", f"--net=/run/netns/{self.node.name}", sys.executable, "-m", "agent", "uninstall"]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    def get(self, path: str) -> tuple[int, str]:
        def ask() -> tuple[int, str]:
            with closing(HTTPConnection("127.0.0.1", 15030, timeout=5)) as connection:
                try:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    return answer.status, answer.read().decode()
                except OSError:
                    return 0, ""

        return self.node.netns.run(ask)

    def announce(self, uid: str, pod: Pod, **changes: object) -> None:
        record = {
            "uid": uid,
            "name": uid,
            "namespace": "shop",
            "serviceAccount": "default",
            "netns": f"/run/netns/{pod.name}",
            "labels": AMBIENT,
            "phase": "Running",
        } | changes
        path = self.state / "pods" / f"{uid}.json"
        path.with_suffix(".tmp").write_text(json.dumps(record))
        path.with_suffix(".tmp").rename(path)

    def forget(self, uid: str) -> None:
        (self.state / "pods" / f"{uid}.json").unlink()

    def redirection(self, uid: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.state / "redirection" / uid).read_text().strip()
        return ""

    def enrolled(self, uid: str) -> None:
        until(f"{uid} enabled", lambda: self.redirection(uid) == "enabled")

    def left(self, uid: str) -> None:
        until(f"{uid} gone", lambda: self.redirection(uid) == "")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    for name in ("pods", "redirection", "run"):
        (tmp_path / name).mkdir()
    with node("agent") as made, contextlib.ExitStack() as stack:
        stack.callback(uninstall, made.instance)
        found = Lab(made, tmp_path)
        try:
            yield found
        finally:
            if found.agent is not None:
                found.agent.kill()
                found.agent.wait()
            for log in found.logs:
                print(f"--- {log.name}\n{log.read_text()}")


class NodeTunnel:
    """What a tunnel does with ZDS: for each pod its listeners, with the node's mark."""

    def __init__(self, lab: Lab, mark_before_listen: bool = True) -> None:
        self.tunnels: dict[str, Tunnel] = {}
        self._lab = lab
        self._before = mark_before_listen
        self._lock = threading.Lock()
        self.client = ZdsClient(lab.socket, self._add, self._delete)

    def _add(self, uid: str, fd: int) -> str:
        with self._lock:
            if uid in self.tunnels:
                os.close(fd)
                return ""
            address = self._lab.node.host.v4  # not used by Tunnel
            self.tunnels[uid] = Tunnel(Pod(uid, Namespace(fd), address, address), self._lab.mark, mark_before_listen=self._before)
        return ""

    def _delete(self, uid: str) -> None:
        with self._lock, contextlib.suppress(KeyError):
            tunnel = self.tunnels.pop(uid)
            tunnel.close()
            tunnel.pod.netns.close()

    def close(self) -> None:
        self.client.close()
        for uid in list(self.tunnels):
            self._delete(uid)


def namespace_state(pod: Pod) -> dict[str, str]:
    """All that enrolment may change in a namespace."""
    kept = {
        f"{family} {what}": run(f"ip -n {pod.name} {family} {what} show{more}")
        for family in ("-4", "-6")
        for what, more in (("rule", ""), ("route", " table all"))
    }
    return kept | {"accept": pod.netns.run(lambda: Path("/proc/sys/net/ipv4/tcp_fwmark_accept").read_text())}


def kernel_state(lab: Lab) -> dict[str, object]:
    from agent.bpf import Programs

    with closing(Programs.load_or_adopt(lab.node.instance, node_cookie=lab.node.netns.cookie)) as programs:
        pods = sorted(cookie.value for cookie, _ in programs._pods.items())
        addresses = sorted(str(address.ip) for address, _ in programs._addresses.items())
        return {"enrolled": programs.enrolled(), "pods": pods, "addresses": addresses, "steered": programs._pins.steered()}


@pytest.mark.parametrize("mark_before_listen", [True, False], ids=["ours", "istio"])
def test_a_pod_enters_and_leaves_and_nothing_is_left(lab: Lab, mark_before_listen: bool) -> None:
    inside, outside = lab.node.pod(), lab.node.pod()
    before = namespace_state(inside)
    lab.start()
    with closing(NodeTunnel(lab, mark_before_listen)) as tunnel, closing(App(inside)) as app, closing(App(outside)):
        lab.announce("u1", inside, labels={})
        lab.announce("u2", outside, labels={})
        greet(inside.connect("10.98.0.3", 7100))
        assert namespace_state(inside) == before

        lab.announce("u1", inside)
        lab.enrolled("u1")
        for target in ("10.98.0.3", "fd98::3"):
            greet(inside.connect(target, 7100))
            assert tunnel.tunnels["u1"].outbound[-1] == (target, 7100)
        for target, client in (("10.98.0.2", "10.98.0.3"), ("fd98::2", "fd98::3")):
            greet(outside.connect(target, 7100))
            assert app.seen[-1][0][0] == client
        assert len(tunnel.tunnels["u1"].inbound) == 2
        assert namespace_state(inside) != before

        lab.announce("u1", inside, labels={})
        lab.left("u1")
        assert "u1" not in tunnel.tunnels
        greet(inside.connect("10.98.0.3", 7100))
        greet(outside.connect("10.98.0.2", 7100))
        assert namespace_state(inside) == before
        metrics = lab.get("/metrics")[1]
        assert 'culvert_kernel_events_total{reason="captured"} 2.0' in metrics
        assert 'nodeagent_reconcile_events_total{type="enrolled"} 1.0' in metrics
        assert "ztunnel_connected 1.0" in metrics
        assert 'culvert_pods{state="enabled"} 0.0' in metrics
    assert lab.end() == 0
    assert kernel_state(lab) == {"enrolled": {}, "pods": [], "addresses": [], "steered": []}
    assert list((lab.state / "run" / "pods").iterdir()) == []
