"""A playground that runs the mesh, with what tests look at beside the command line: processes, tunnels, logs, the kernel's state.

with running(base, "name", objects) as mesh:
    mesh.run("client", do="talk", name="client_first", host=mesh.v4("server"), size=0)
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from culvert.playground.layout import STATE_ROOT, Layout
from mesh.io.netns import Namespace
from tests.e2e.conversations import CLIENT_FIRST
from tests.e2e.playground import CONVERSATIONS, Playground, eventually, pod

TRAFFIC = Path(__file__).with_name("traffic.py")
ADMIN, METRICS, READY, AGENT = 15000, 15020, 15021, 15030
LABEL = "istio.io/dataplane-mode"
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_PAIR = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

_ROUTES = ("route", "show", "table", "all")

Object = Mapping[str, Any]
Line = dict[str, Any]


class Mesh(Playground):
    """Names of pods are unique in these tests."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, directory)
        self.layout = Layout(name, STATE_ROOT / name)
        self._seen: dict[str, dict[str, Any]] = {}

    # What the supervisor last saw. The command prints the same; the file is there a second earlier.

    @property
    def now(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.layout.status.read_text())
        return found

    def status(self) -> dict[str, Any]:
        # It exits with 1 while something is not as it should be, which tests see to.
        found: dict[str, Any] = json.loads(self.culvert("status", "--json", check=False).stdout)
        return found

    def pod_now(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.now["pods"] if each["name"] == name)
        return found

    def where(self, name: str) -> dict[str, Any]:
        """A pod that stays as it is: its addresses, node, network namespace and uid."""
        if name not in self._seen:
            self._seen[name] = self.pod_now(name)
        return self._seen[name]

    def forget(self, name: str) -> None:
        self._seen.pop(name, None)

    def v4(self, name: str) -> str:
        return next(ip for ip in self.where(name)["ips"] if ":" not in ip)

    def v6(self, name: str) -> str:
        return next(ip for ip in self.where(name)["ips"] if ":" in ip)

    def enrolled(self, *names: str) -> bool:
        states = {each["name"]: each["mesh"] for each in self.now["pods"]}
        return all(states[name] == "enabled" for name in names)

    def left(self, *names: str) -> bool:
        """Whether the pods are out of the mesh, and their agents have put everything back."""
        pods = [self.pod_now(name) for name in names]
        return all(each["mesh"] == "" and each["uid"] not in self.http(each["node"], AGENT, "/pods")[1] for each in pods)

    # Processes

    def pid(self, process: str) -> int:
        """Of one of the mesh's own processes, as `culvert status` tells it: `control`, `node-1.agent`, `node-2.ztunnel`."""
        return int(next(each["pid"] for each in self.status()["processes"] if each["name"] == process))

    def kill(self, process: str, number: signal.Signals) -> int:
        """Signal a process of the mesh; its pid."""
        pid = self.pid(process)
        os.kill(pid, number)
        return pid

    def successor(self, process: str, pid: int, seconds: float = 20) -> int:
        """Wait until the supervisor has another one running, and it is ready; its pid."""

        def look() -> int:
            found = next(each for each in self.now["processes"] if each["name"] == process)
            return int(found["pid"] or 0) if found["pid"] != pid and found["ready"] else 0

        return int(eventually(f"{process} is restarted and ready", look, seconds))

    def ready_at(self, node: str) -> float:
        """Wait until the node's tunnel says that it is ready; when that was, in monotonic time."""
        eventually(f"the tunnel of {node} is ready", lambda: self.http(node, READY, "/healthz/ready")[0] == 200)
        return time.monotonic()

    # Traffic

    def run(self, pod: str, **command: Any) -> dict[str, Any]:
        return self.drive(pod, **command)

    def talk(self, client: str, host: str, conversation: str = "client_first") -> dict[str, Any]:
        """One conversation; `error` and `detail` where it failed."""
        return self.drive(client, do="talk", name=conversation, host=host, size=0)

    def may(self, client: str, host: str) -> bool:
        """Whether a new connection works. A refusal must be quick and must look like one."""
        answer = self.talk(client, host)
        if "error" not in answer:
            assert answer["ok"], answer
            return True
        assert answer["error"] in {"ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError"}, answer
        return False

    # Asking processes

    def http(self, node: str, port: int, path: str, method: str = "GET") -> tuple[int, str]:
        """A request inside the node's namespace. (0, why) where nobody answers."""
        try:
            with self.connect(self.layout.node(node), "127.0.0.1", port, timeout=5) as sock:
                request = http.client.HTTPConnection("127.0.0.1", port)
                request.sock = sock
                request.request(method, path, headers={"Connection": "close"})
                response = request.getresponse()
                return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)

    def connect(self, netns: str, host: str, port: int, timeout: float = 10) -> socket.socket:
        """A connection from a network namespace. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with Namespace.open(f"/run/netns/{netns}") as namespace:
            sock = namespace.run(lambda: socket.socket(family, socket.SOCK_STREAM))
        try:
            sock.settimeout(timeout)
            sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def dump(self, node: str) -> dict[str, Any]:
        """The tunnel's config dump."""
        status, body = self.http(node, ADMIN, "/config_dump")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def metric(self, node: str, name: str, *, port: int = METRICS, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        status, body = self.http(node, port, "/metrics")
        assert status == 200, body
        total = 0.0
        for line in body.splitlines():
            sample = _SAMPLE.fullmatch(line)
            if sample and sample[1] == name and labels.items() <= dict(_PAIR.findall(sample[2] or "")).items():
                total += float(sample[3])
        return total

    def kernel(self, node: str, counter: str) -> int:
        """A counter of the node's kernel programs."""
        return int(self.metric(node, "culvert_kernel_events_total", port=AGENT, reason=counter))

    # Logs

    def mark(self, process: str) -> int:
        """Where the process's log ends now."""
        return (self.layout.logs / f"{process}.log").stat().st_size

    def lines(self, process: str, since: int = 0, **fields: object) -> list[Line]:
        """The log's JSON lines after `since` that have these fields; a callable is asked, anything else compared."""
        with (self.layout.logs / f"{process}.log").open("rb") as file:
            # A log beyond its bound loses its older half: all of what is left is looked at then, which may be too much but not too little.
            if since <= os.fstat(file.fileno()).st_size:
                file.seek(since)
            text = file.read().decode(errors="replace")
        found = []
        for raw in text.splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(raw)
                if isinstance(line, dict) and all(_is(line.get(name), wanted) for name, wanted in fields.items()):
                    found.append(line)
        return found

    def line(self, node: str, since: int, **fields: object) -> Line:
        """Wait for an access-log line of the node's tunnel."""
        process = f"{node}.ztunnel"
        what = ", ".join(f"{name}={value}" for name, value in fields.items() if not callable(value))
        found: list[Line] = eventually(f"a line of {process} with {what}", lambda: self.lines(process, since, scope="access", **fields))
        return found[-1]

    # The kernel's state of one pod

    def in_pod(self, pod: str, *command: str) -> str:
        """Run a tool of the machine in the pod's network namespace."""
        words = ["ip", "netns", "exec", self.where(pod)["netns"], *command]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout

    def traces(self, pod: str) -> dict[str, Any]:
        """Everything that being in the mesh leaves in a pod's namespace and in its node's kernel maps."""
        found = self.where(pod)
        with Namespace.open(f"/run/netns/{found['netns']}") as namespace:
            cookie = namespace.cookie
        pins = Path("/sys/fs/bpf/culvert") / self.layout.instance(found["node"])
        needle = [f"0x{byte:02x}" for byte in cookie.to_bytes(8, "little")]
        ports = sorted(int(port) for port in re.findall(r":(\d+) ", self.in_pod(pod, "ss", "-Hltn")))
        return {
            "rules": self.in_pod(pod, "ip", "rule") + self.in_pod(pod, "ip", "-6", "rule"),
            "routes": self.in_pod(pod, "ip", *_ROUTES) + self.in_pod(pod, "ip", "-6", *_ROUTES),
            "sysctl": self.in_pod(pod, "sysctl", "-n", "net.ipv4.tcp_fwmark_accept").strip(),
            "listeners": ports,
            "steering": (pins / "steer" / str(cookie)).exists(),
            "maps": {path.name for path in (pins / "maps").iterdir() if _holds(path, needle)},
        }


def _is(value: object, wanted: object) -> bool:
    return bool(wanted(value)) if callable(wanted) else value == wanted


def _holds(path: Path, needle: list[str]) -> bool:
    """Whether a pinned hash map has an entry with these bytes in its key or value."""
    done = subprocess.run(["bpftool", "-j", "map", "dump", "pinned", str(path)], capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        return False  # storage of sockets and ring buffers cannot be dumped; they end with their sockets
    found = json.loads(done.stdout or "[]")
    if not isinstance(found, list):
        return False
    return any(_contains(entry.get(side), needle) for entry in found if isinstance(entry, dict) for side in ("key", "value"))


def _contains(raw: object, needle: list[str]) -> bool:
    return isinstance(raw, list) and any(raw[at : at + len(needle)] == needle for at in range(len(raw)))


def server(name: str, ns: str, node: str, **more: Any) -> dict[str, Any]:
    """A pod that serves all conversations."""
    return pod(name, ns, node, [sys.executable, str(CONVERSATIONS), "serve"], port=CLIENT_FIRST, **more)


def client(base: Path, name: str, ns: str, node: str, **more: Any) -> dict[str, Any]:
    """A pod that does what `Mesh.run` tells it."""
    return pod(name, ns, node, [sys.executable, str(TRAFFIC), str(base / f"{name}.sock")], **more)


@contextlib.contextmanager
def running(base: Path, name: str, objects: list[Object], *arguments: str) -> Iterator[Mesh]:
    """A playground of two nodes with these objects, everything in it ready. Its logs are kept in `base` when it has gone.

    It is called `name` and the number of this process, so that two runs of the same tests on one machine do not meet.
    """
    directory = base / "manifests"
    directory.mkdir()
    (directory / "all.yaml").write_text(yaml.safe_dump_all(objects))
    _sweep(name, directory)
    mesh = Mesh(f"{name}{os.getpid()}", directory)
    try:
        mesh.up(*arguments)
        names = {each["metadata"]["name"] for each in objects if each["kind"] == "Pod"}
        drivers = [each for each in names if any("traffic.py" in word for word in _command(objects, each))]
        eventually("the clients take commands", lambda: all(mesh.drive_socket(each).exists() for each in drivers))
        eventually("both tunnels know every pod", lambda: all(_knows(mesh, node, names) for node in ("node-1", "node-2")))
        yield mesh
    finally:
        with contextlib.suppress(OSError):
            shutil.copytree(mesh.layout.logs, base / "logs")
        mesh.down()


def _sweep(name: str, directory: Path) -> None:
    """Take down what runs that were killed have left."""
    for left in STATE_ROOT.glob(f"{name}[0-9]*"):
        number = left.name.removeprefix(name)
        if number.isdecimal() and not Path(f"/proc/{number}").exists():
            Mesh(left.name, directory).down()


def _command(objects: list[Object], name: str) -> list[str]:
    found = next(each for each in objects if each["kind"] == "Pod" and each["metadata"]["name"] == name)
    words: list[str] = found["spec"]["containers"][0]["command"]
    return words


def _knows(mesh: Mesh, node: str, names: set[str]) -> bool:
    """Whether the tunnel has heard of these pods, and how each is to be reached."""
    wanted = {each["name"]: "HBONE" if each["mesh"] == "enabled" else "TCP" for each in mesh.now["pods"] if each["name"] in names}
    return {each["name"]: each["protocol"] for each in mesh.dump(node)["workloads"] if each["name"] in names} == wanted


def known(mesh: Mesh, *names: str) -> None:
    """Wait until both tunnels know these pods as they are now."""
    eventually("both tunnels know the pods", lambda: all(_knows(mesh, node, set(names)) for node in ("node-1", "node-2")))


def pause_until(moment: float, question: Callable[[], bool]) -> None:
    """Wait for a moment of the monotonic clock, or for `question`."""
    while time.monotonic() < moment and not question():
        time.sleep(0.02)
