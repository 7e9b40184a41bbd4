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
from agent.routing import SYSCTLS
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
        until(f"{uid} gone", lambda: self.redirection(uid) == "" and f'"uid": "{uid}"' not in self.get("/pods")[1])


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


def new_pods(lab: Lab, count: int) -> list[Pod]:
    """Pods whose link-local addresses are in use, so that routes change by nobody's doing but ours."""
    pods = [lab.node.pod() for _ in range(count)]
    for pod in pods:
        until("a link-local address", lambda pod=pod: run(f"ip -n {pod.name} -6 addr show scope link -tentative") != "")  # type: ignore[misc]
    return pods


def namespace_state(pod: Pod) -> dict[str, str]:
    """All that enrolment may change in a namespace."""
    kept = {
        f"{family} {what}": run(f"ip -n {pod.name} {family} {what} show{more}")
        for family in ("-4", "-6")
        for what, more in (("rule", ""), ("route", " table all"))
    }
    return kept | {name: pod.netns.run(Path("/proc/sys", name).read_text) for name in SYSCTLS}


def kernel_state(lab: Lab) -> dict[str, object]:
    from agent.bpf import Programs

    with closing(Programs.load_or_adopt(lab.node.instance, node_cookie=lab.node.netns.cookie)) as programs:
        pods = sorted(cookie.value for cookie, _ in programs._pods.items())
        addresses = sorted(str(address.ip) for address, _ in programs._addresses.items())
        return {"enrolled": programs.enrolled(), "pods": pods, "addresses": addresses, "steered": programs._pins.steered()}


@pytest.mark.parametrize("mark_before_listen", [True, False], ids=["ours", "istio"])
def test_a_pod_enters_and_leaves_and_nothing_is_left(lab: Lab, mark_before_listen: bool) -> None:
    inside, outside = new_pods(lab, 2)
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


class Load:
    """Conversations one after the other, from a thread, until it is stopped. `failed` are the errors of those that did not go well."""

    def __init__(self, client: Pod, host: str) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._client, self._host = client, host
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                greet(self._client.connect(self._host, 7100))
            except (OSError, AssertionError) as error:
                self.failed.append(f"{time.monotonic():.3f} {error!r}")
            self.done += 1
            time.sleep(0.001)

    def more(self, count: int = 20) -> None:
        goal = self.done + count
        until("more conversations", lambda: self.done >= goal)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)


@contextlib.contextmanager
def two_apps(lab: Lab) -> Iterator[tuple[Pod, Pod]]:
    one, other = new_pods(lab, 2)
    with closing(App(one)), closing(App(other)):
        yield one, other


def test_labels_come_and_go_under_traffic(lab: Lab) -> None:
    """A running pod enters, and leaves, without one failed conversation: what is short enough ends before the tunnel lets go."""
    lab.start()
    with two_apps(lab) as (inside, outside), closing(NodeTunnel(lab)):
        lab.announce("u1", inside, labels={})
        until("u1 known", lambda: lab.get("/readyz")[0] == 200)
        with closing(Load(inside, "10.98.0.3")) as out, closing(Load(outside, "10.98.0.2")) as into:
            for _ in range(3):
                out.more(), into.more()
                lab.announce("u1", inside)
                lab.enrolled("u1")
                out.more(), into.more()
                lab.announce("u1", inside, labels={})
                lab.left("u1")
                out.more(), into.more()
                assert (out.failed, into.failed) == ([], [])


def test_kill_and_restart_under_traffic(lab: Lab) -> None:
    """No conversation fails while the agent is killed, away, and back; the next agent adopts what it finds."""
    lab.start()
    with two_apps(lab) as (inside, outside), closing(NodeTunnel(lab)) as tunnel:
        before = namespace_state(inside)
        lab.announce("u1", inside)
        lab.enrolled("u1")
        mark, captured = lab.mark, len(tunnel.tunnels["u1"].outbound)
        with closing(Load(inside, "10.98.0.3")) as out, closing(Load(outside, "10.98.0.2")) as into:
            for number in (signal.SIGKILL, signal.SIGTERM):
                lab.end(number)
                out.more(), into.more()
                assert lab.redirection("u1") == "enabled"
                lab.start()
                assert lab.redirection("u1") == "enabled"
                out.more(), into.more()
            assert (out.failed, into.failed) == ([], [])
        assert lab.mark == mark
        assert len(tunnel.tunnels["u1"].outbound) == captured + out.done
        until("tunnel is back", lambda: tunnel.client.snapshots == 3)
        # What the first agent noted of the namespace still leads back to how it was.
        lab.announce("u1", inside, labels={})
        lab.left("u1")
        assert namespace_state(inside) == before


def test_what_changed_while_the_agent_was_away(lab: Lab) -> None:
    """One pod lost its label, one was deleted, one's file is broken, one stays, one is new."""
    lab.start()
    pods = dict(zip(("unlabelled", "deleted", "broken", "stays", "new"), new_pods(lab, 5), strict=True))
    before = {uid: namespace_state(pod) for uid, pod in pods.items()}
    with closing(NodeTunnel(lab)) as tunnel:
        for uid in ("unlabelled", "deleted", "broken", "stays"):
            lab.announce(uid, pods[uid])
            lab.enrolled(uid)
        lab.end(signal.SIGKILL)
        lab.announce("unlabelled", pods["unlabelled"], labels={})
        lab.forget("deleted")
        (lab.state / "pods" / "broken.json").write_text("{")
        lab.announce("new", pods["new"])
        lab.start()
        lab.enrolled("new")
        for uid in ("unlabelled", "deleted"):
            lab.left(uid)
            until(f"{uid} gone from the tunnel", lambda uid=uid: uid not in tunnel.tunnels)  # type: ignore[misc]
            assert namespace_state(pods[uid]) == before[uid]
        assert "broken.json" in json.loads(lab.get("/pods")[1])["problems"]
    assert lab.end() == 0
    left = kernel_state(lab)["enrolled"]
    assert set(left) >= {pods["stays"].cookie, pods["new"].cookie}  # type: ignore[call-overload]
    assert pods["broken"].cookie in left, "a file that cannot be read is not a pod that is gone"  # type: ignore[operator]


def test_no_tunnel_means_closed_and_says_so(lab: Lab) -> None:
    """A labelled pod is not open for longer than the headstart, even when there is no tunnel; it opens up when one comes."""
    lab.start()
    with two_apps(lab) as (inside, outside):
        lab.announce("u1", inside)
        until("pending", lambda: lab.redirection("u1") == "pending: no tunnel is connected")
        for client, host in ((inside, "10.98.0.3"), (inside, "fd98::3"), (outside, "10.98.0.2"), (outside, "fd98::2")):
            with pytest.raises(ConnectionRefusedError):
                client.connect(host, 7100)
        metrics = lab.get("/metrics")[1]
        assert 'culvert_kernel_events_total{reason="kernel_no_listener"} 2.0' in metrics
        assert 'culvert_pods{state="pending"} 1.0' in metrics
        with closing(NodeTunnel(lab)):
            lab.enrolled("u1")
            greet(inside.connect("10.98.0.3", 7100))
            greet(outside.connect("fd98::2", 7100))


def test_addresses_that_come_later_are_registered(lab: Lab) -> None:
    lab.start()
    with two_apps(lab) as (inside, outside), closing(NodeTunnel(lab)) as tunnel:
        lab.announce("u1", inside)
        lab.enrolled("u1")
        lab.node.ip("addr add 10.98.0.77/24 dev eth0", inside=inside.name)

        def reachable() -> bool:
            with contextlib.suppress(OSError):
                greet(outside.connect("10.98.0.77", 7100))
                return True
            return False

        until("the new address is reachable", reachable)
        assert tunnel.tunnels["u1"].inbound[-1][1] == ("10.98.0.77", 7100)


def test_a_deleted_namespace_leaves_nothing(lab: Lab) -> None:
    lab.start()
    pod = lab.node.pod()
    with closing(NodeTunnel(lab)) as tunnel:
        lab.announce("u1", pod)
        lab.enrolled("u1")
        run(f"ip netns del {pod.name}")
        lab.forget("u1")
        lab.left("u1")
        assert "u1" not in tunnel.tunnels
    assert lab.end() == 0
    assert kernel_state(lab) == {"enrolled": {}, "pods": [], "addresses": [], "steered": []}


def test_the_nodes_own_namespace_is_never_enrolled(lab: Lab) -> None:
    lab.start()
    good = lab.node.pod()
    with closing(NodeTunnel(lab)):
        lab.announce("node", Pod(lab.node.name, lab.node.netns, good.v4, good.v6))
        lab.announce("nowhere", good, netns="/run/netns/cvt-there-is-none")
        lab.announce("good", good)
        lab.enrolled("good")
        until("node refused", lambda: "the node's own" in lab.redirection("node"))
        until("nowhere refused", lambda: "No such file" in lab.redirection("nowhere"))
    assert lab.end() == 0
    assert list(kernel_state(lab)["enrolled"]) == [good.cookie]  # type: ignore[call-overload]


def test_uninstall_leaves_nothing_and_working_pods(lab: Lab) -> None:
    lab.start()
    with two_apps(lab) as (inside, outside), closing(NodeTunnel(lab)):
        before = namespace_state(inside)
        lab.announce("u1", inside)
        lab.enrolled("u1")
        refused = lab.uninstall()
        assert refused.returncode == 1
        assert "is running" in refused.stderr
        assert lab.end() == 0
        assert namespace_state(inside) != before
        for _ in range(2):
            done = lab.uninstall()
            assert (done.returncode, done.stderr) == (0, "")
        assert namespace_state(inside) == before
        greet(inside.connect("10.98.0.3", 7100))
        greet(outside.connect("10.98.0.2", 7100))
    assert not Path("/sys/fs/bpf/culvert", lab.node.instance).exists()
    assert list((lab.state / "run").iterdir()) == []
    assert list((lab.state / "redirection").iterdir()) == []


def test_what_the_kernel_lacks_is_said_in_a_sentence(lab: Lab) -> None:
    weak = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-m", "agent"]
    done = subprocess.run(weak, env=lab.env, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 2
    assert done.stderr == "The agent runs without CAP_SYS_ADMIN; run it as root with this capability.\n"


def test_nodes_on_one_kernel_ignore_each_other(lab: Lab, tmp_path: Path) -> None:
    """Two agents, one kernel, one cgroup root. Uninstalling one leaves the other's pods in the mesh."""
    state = tmp_path / "second"
    for part in ("pods", "redirection", "run"):
        (state / part).mkdir(parents=True)
    with node("agent2") as made, contextlib.ExitStack() as stack:
        stack.callback(uninstall, made.instance)
        second = Lab(made, state)
        stack.callback(lambda: second.agent and second.end(signal.SIGKILL))
        both = (lab, second)
        apps = []
        for one in both:
            one.start()
            apps.append(stack.enter_context(two_apps(one)))
            stack.enter_context(closing(NodeTunnel(one)))
            one.announce("u1", apps[-1][0])
        for one in both:
            one.enrolled("u1")
        assert lab.mark != second.mark
        for (inside, outside), one in zip(apps, both, strict=True):
            greet(inside.connect("10.98.0.3", 7100))
            greet(outside.connect("10.98.0.2", 7100))
            assert 'culvert_kernel_events_total{reason="captured"} 1.0' in one.get("/metrics")[1]
            assert 'culvert_kernel_events_total{reason="steered"} 1.0' in one.get("/metrics")[1]
        assert second.end() == 0
        assert second.uninstall().returncode == 0
        inside, outside = apps[0]
        greet(inside.connect("10.98.0.3", 7100))
        greet(outside.connect("10.98.0.2", 7100))
        assert 'culvert_kernel_events_total{reason="captured"} 2.0' in lab.get("/metrics")[1]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.008, 0.03])
def test_killed_in_the_middle_of_a_change(lab: Lab, delay: float) -> None:
    """Whatever the agent was doing when it died, the next one finishes it, and the way back is still known."""
    pods = new_pods(lab, 4)
    before = [namespace_state(pod) for pod in pods]
    lab.start()
    with closing(NodeTunnel(lab)):
        for wanted in (AMBIENT, {}, AMBIENT):
            for number, pod in enumerate(pods):
                lab.announce(f"u{number}", pod, labels=wanted)
            time.sleep(delay)
            lab.end(signal.SIGKILL)
            lab.start()
        for number in range(len(pods)):
            lab.enrolled(f"u{number}")
            lab.announce(f"u{number}", pods[number], labels={})
        for number in range(len(pods)):
            lab.left(f"u{number}")
        assert [namespace_state(pod) for pod in pods] == before
    assert lab.end() == 0
    assert kernel_state(lab) == {"enrolled": {}, "pods": [], "addresses": [], "steered": []}
