"""What outlives the agent: pins, and everything that they keep at work. And what does not outlive `uninstall`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from ctypes import c_uint32
from pathlib import Path

import pytest

from agent.bpf import AdoptionError, BusyError, Programs, abi, uninstall
from agent.bpf.links import Link
from agent.bpf.maps import Map
from agent.bpf.pins import DEFAULT_ROOT
from tests.bpf.lab import App, Mesh, Node, Pod, Tunnel, counted, greet, mesh, node, run, until

pytestmark = pytest.mark.netns

PORT = 7100


@pytest.fixture
def lab() -> Iterator[Mesh]:
    with mesh("adopt") as made:
        yield made


@pytest.fixture
def bare() -> Iterator[Node]:
    with node("bare") as made:
        try:
            yield made
        finally:
            uninstall(made.instance)


@contextlib.contextmanager
def loader(lab_node: Node, *pods: Pod) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    specs = [f"{pod.cookie}=/run/netns/{pod.name}={','.join(map(str, pod.addresses))}" for pod in pods]
    command = [sys.executable, "-m", "tests.bpf.loader", lab_node.instance, str(lab_node.netns.cookie), *specs]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


class Traffic:
    """Threads that hold one conversation after the other until the block ends. Raises the first failure then."""

    def __init__(self, *routes: tuple[Pod, str]) -> None:
        self._routes = routes
        self._stop = threading.Event()
        self.done = 0
        self._failures: list[BaseException] = []

    def _talk(self, pod: Pod, host: str) -> None:
        while not self._stop.is_set():
            try:
                greet(pod.connect(host, PORT))
                self.done += 1
            except BaseException as error:
                self._failures.append(error)
                return
            self._stop.wait(0.002)  # this machine is shared

    def __enter__(self) -> Traffic:
        self._threads = [threading.Thread(target=self._talk, args=route) for route in self._routes]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def wait_for(self, more: int) -> None:
        goal = self.done + more
        until(lambda: self.done >= goal or bool(self._failures), 30)


def pinned_programs(instance: str) -> dict[str, tuple[int, int]]:
    """Link id and program id of every pinned link."""
    found = {}
    for path in sorted(Path(DEFAULT_ROOT, instance).glob("*/*")):
        if path.parent.name != "maps":
            with Link.pinned(str(path)) as link:
                found[path.name] = (link.info().id, link.info().prog_id)
    return found


def test_killed_and_adopted_under_traffic_without_one_failed_connection(bare: Node) -> None:
    a, b, c = bare.pod(), bare.pod(), bare.pod()
    for pod in (a, b):
        bare.route_deliveries(pod)
    with contextlib.ExitStack() as stack:
        stack.enter_context(closing(App(b)))
        stack.enter_context(closing(App(c)))
        with loader(bare) as (first, said):
            mark = said["mark"]
            assert isinstance(mark, int)
            tunnels = [stack.enter_context(closing(Tunnel(pod, mark))) for pod in (a, b)]
            first.kill()
        with loader(bare, a, b) as (enroller, _):
            before = pinned_programs(bare.instance)
            assert set(before) >= {"cvt_connect4", "cvt_sockops", str(a.cookie), str(b.cookie)}
            with Traffic((a, "10.98.0.3"), (a, "fd98::3"), (c, "10.98.0.3"), (a, "10.98.0.4")) as traffic:
                traffic.wait_for(20)
                enroller.send_signal(signal.SIGKILL)
                enroller.wait()
                traffic.wait_for(20)  # nobody is there: the pins hold
                for _ in range(4):
                    with loader(bare) as (adopter, said):
                        assert said["mark"] == mark
                        assert said["enrolled"] == {str(pod.cookie): sorted(map(str, pod.addresses)) for pod in (a, b)}
                        traffic.wait_for(10)
                        adopter.send_signal(signal.SIGKILL)
                        adopter.wait()
                        traffic.wait_for(10)
        after = pinned_programs(bare.instance)
        assert {name: link for name, (link, _) in after.items()} == {name: link for name, (link, _) in before.items()}
        assert all(after[name][1] != before[name][1] for name in before)  # every program was exchanged
        # Every conversation went through: captured at a (but not at c, which is outside) and steered at b.
        with closing(Programs.load_or_adopt(bare.instance)) as programs:
            counters = programs.counters()
        assert counters["captured"] == len(tunnels[0].outbound)
        assert counters["steered"] == counters["delivered"] == len(tunnels[1].inbound)
        assert {word: count for word, count in counters.items() if word.startswith("kernel_") and count} == {}


def test_enrolling_and_leaving_under_traffic(bare: Node) -> None:
    """The tunnel listens before the pod is enrolled, and goes on while it leaves: no connection notices."""
    a, c = bare.pod(), bare.pod()
    bare.route_deliveries(a)
    with (
        closing(Programs.load_or_adopt(bare.instance)) as programs,
        closing(Tunnel(a, programs.mark)) as tunnel,
        closing(App(a)),
        closing(App(c)),
        Traffic((a, "10.98.0.3"), (c, "10.98.0.2"), (c, "fd98::2")) as traffic,
    ):
        for _ in range(8):
            assert programs.has_listener(a.cookie)  # before it is enrolled
            programs.prepare(a.cookie, a.addresses)
            programs.enrol(a.cookie, a.netns.fd, a.addresses)
            traffic.wait_for(15)
            programs.release(a.cookie)
            assert programs.enrolled() == {}
            traffic.wait_for(15)
            programs.unenrol(a.cookie)
            traffic.wait_for(5)
    assert tunnel.outbound
    assert tunnel.inbound


def test_a_connection_survives_its_pods_leaving(lab: Mesh) -> None:
    with closing(App(lab.c)):
        client = lab.a.connect("10.98.0.4", PORT)
        lab.programs.unenrol(lab.a.cookie)
        assert (client.getpeername(), client.getsockname()[0]) == (("10.98.0.4", PORT), "10.98.0.2")
        greet(client)


def test_two_agents_of_one_instance_are_refused(lab: Mesh) -> None:
    with pytest.raises(BusyError, match="is running"):
        Programs.load_or_adopt(lab.node.instance)
    with pytest.raises(BusyError, match="is running"):
        uninstall(lab.node.instance)


def test_two_nodes_on_one_kernel_ignore_each_other(lab: Mesh) -> None:
    """Both instances' programs run for every connect on this machine."""
    with node("other") as other, contextlib.ExitStack() as stack:
        stack.callback(uninstall, other.instance)
        theirs = stack.enter_context(closing(Programs.load_or_adopt(other.instance, node_cookie=other.netns.cookie)))
        x, y = other.pod(), other.pod()  # with the very addresses of the first node's pods
        tunnel = stack.enter_context(closing(Tunnel(x, theirs.mark)))
        stack.enter_context(closing(App(x)))
        stack.enter_context(closing(App(y)))
        stack.enter_context(closing(App(lab.b)))
        stack.enter_context(closing(App(lab.c)))
        other.route_deliveries(x)
        theirs.enrol(x.cookie, x.netns.fd, x.addresses)
        assert theirs.mark != lab.programs.mark
        with counted(theirs, captured=1, steered=1, delivered=1), lab.counted(captured=0, steered=0, delivered=0):
            greet(x.connect("10.98.0.3", PORT))
            greet(y.connect("10.98.0.2", PORT))
        with counted(theirs, captured=0, steered=0), lab.counted(captured=1, steered=1):
            greet(lab.a.connect("10.98.0.3", PORT))
        assert (len(tunnel.outbound), len(tunnel.inbound)) == (1, 1)
        # One node's probes, and one node's mark, mean nothing to the other.
        with counted(theirs, kernel_node_probe=1), lab.counted():
            greet(other.host.connect("10.98.0.2", PORT))
        with lab.counted(captured=1):
            greet(lab.a.connect("10.98.0.4", PORT, lambda s: s.setsockopt(1, 36, theirs.mark)))


def test_a_namespace_that_went_away_is_forgotten(lab: Mesh) -> None:
    pod = lab.node.pod()
    cookie = pod.cookie
    lab.programs.enrol(cookie, pod.netns.fd, pod.addresses)
    lab.programs.close()
    pod.netns.close()
    run(f"ip netns del {pod.name}")
    until(lambda: steering_is_dead(lab, cookie))
    lab.programs = Programs.load_or_adopt(lab.node.instance)
    try:
        assert set(lab.programs.enrolled()) == {lab.a.cookie, lab.b.cookie}
        assert not Path(DEFAULT_ROOT, lab.node.instance, "steer", str(cookie)).exists()
    finally:
        lab.programs.close()


def steering_is_dead(lab: Mesh, cookie: int) -> bool:
    with Link.pinned(f"{DEFAULT_ROOT}/{lab.node.instance}/steer/{cookie}") as link:
        return link.info().target == 0


def test_what_a_dead_agent_left_half_done_is_finished_or_forgotten(lab: Mesh) -> None:
    """It died between writing the maps and attaching: the namespace is not in the mesh, and no trace may say so."""
    lab.programs.prepare(4711, [lab.c.v4])
    lab.programs.close()
    os.unlink(f"{DEFAULT_ROOT}/{lab.node.instance}/links/cvt_getsockname6")
    os.rename(f"{DEFAULT_ROOT}/{lab.node.instance}/links/cvt_getsockname4", f"{DEFAULT_ROOT}/{lab.node.instance}/links/cvt_of_the_past")
    lab.programs = Programs.load_or_adopt(lab.node.instance)
    try:
        known = Map("cvt_addresses", lab.programs.map_fd("cvt_addresses"), abi.Addr, abi.Home).items()
        assert {home.netns for _, home in known} == {lab.a.cookie, lab.b.cookie}
        links = pinned_programs(lab.node.instance)
        assert {"cvt_getsockname4", "cvt_getsockname6"} < set(links)
        assert "cvt_of_the_past" not in links
    finally:
        lab.programs.close()


def test_pins_of_another_abi_are_refused_and_go_on_working(lab: Mesh) -> None:
    mark = lab.programs.mark
    config = Map("cvt_config", lab.programs.map_fd("cvt_config"), c_uint32, abi.Config)
    config.put(c_uint32(0), abi.Config(abi_version=99, mark=mark))
    lab.programs.close()
    before = pinned_programs(lab.node.instance)
    with pytest.raises(AdoptionError, match=r"ABI version 99.*culvert uninstall"):
        Programs.load_or_adopt(lab.node.instance)
    assert pinned_programs(lab.node.instance) == before
    with closing(App(lab.b)):
        greet(lab.a.connect("10.98.0.3", PORT))
    assert len(lab.tunnel_a.outbound) == len(lab.tunnel_b.inbound) == 1


def test_a_map_of_another_layout_is_named(bare: Node) -> None:
    Programs.load_or_adopt(bare.instance).close()
    path = Path(DEFAULT_ROOT, bare.instance, "maps", "cvt_pods")
    path.unlink()
    run(f"bpftool map create {path} type hash key 8 value 44 entries 4096 name cvt_pods flags 1")
    with pytest.raises(AdoptionError, match=r"the maps cvt_pods pinned under"):
        Programs.load_or_adopt(bare.instance)


def test_uninstall_leaves_nothing(lab: Mesh) -> None:
    directory = Path(DEFAULT_ROOT, lab.node.instance)
    links = [link for link, _ in pinned_programs(lab.node.instance).values()]
    programs = [program for _, program in pinned_programs(lab.node.instance).values()]
    maps = [map_id(path) for path in (directory / "maps").iterdir()]
    assert len(links) == 10  # eight hooks and two pods
    assert len(maps) == 10
    lab.programs.close()
    assert uninstall(lab.node.instance) is True
    assert not directory.exists()
    until(lambda: not any(exists("link", link) for link in links))
    until(lambda: not any(exists("prog", program) for program in programs))
    until(lambda: not any(exists("map", each) for each in maps))
    assert uninstall(lab.node.instance) is False
    with closing(App(lab.a)), closing(App(lab.c)) as outside:
        greet(lab.a.connect("10.98.0.4", PORT))
        greet(lab.c.connect("10.98.0.2", PORT))
    assert outside.seen[-1][0][0] == "10.98.0.2"
    assert (lab.tunnel_a.outbound, lab.tunnel_a.inbound) == ([], [])


def exists(kind: str, number: int) -> bool:
    return subprocess.run(["bpftool", kind, "show", "id", str(number)], capture_output=True, check=False).returncode == 0


def map_id(path: Path) -> int:
    shown = json.loads(run(f"bpftool -j map show pinned {path}"))
    return int(shown["id"])


@pytest.mark.parametrize("instance", ["", "../x", "a/b", "-a", "a.", "ä", "x" * 300])
def test_instances_are_names(instance: str) -> None:
    with pytest.raises(ValueError, match="is not accepted"):
        Programs.load_or_adopt(instance)


def test_a_nodes_dotted_name_is_a_directory(bare: Node) -> None:
    instance = f"{bare.instance}.example.com"
    Programs.load_or_adopt(instance).close()
    try:
        assert Path(DEFAULT_ROOT, f"{bare.instance}_example_com").is_dir()
    finally:
        assert uninstall(instance)
