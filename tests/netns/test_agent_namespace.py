"""Network namespaces by descriptor, and the routing that enrolment brings and takes away again, on real ones."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent import routing
from agent.addresses import NetlinkAddressWatch
from agent.enrol import find_namespace
from agent.records import Record
from agent.routing import SYSCTLS, Before
from mesh.io.netns import Namespace
from tests.bpf.lab import PREFIX, run, sweep

pytestmark = pytest.mark.netns

OFF = tuple((switch, "0") for switch in SYSCTLS)


@pytest.fixture
def name() -> Iterator[str]:
    """A namespace with lo up and one veth pair, eth0 with 10.98.1.2 and fd98:1::2."""
    sweep()
    made = f"{PREFIX}{os.getpid()}-ns"
    run(f"ip netns add {made}")
    try:
        for command in (
            "link set lo up",
            "link add eth0 type veth peer name peer0",
            "link set eth0 up",
            "addr add 10.98.1.2/24 dev eth0",
            "addr add fd98:1::2/64 dev eth0 nodad",
        ):
            run(f"ip -n {made} {command}")
        yield made
    finally:
        with contextlib.suppress(AssertionError):
            run(f"ip netns del {made}")


@pytest.fixture
def namespace(name: str) -> Iterator[Namespace]:
    with Namespace.open(f"/run/netns/{name}") as opened:
        yield opened


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def state(name: str) -> list[str]:
    shown = [run(f"ip -n {name} {family} {what}") for family in ("-4", "-6") for what in ("rule show", "route show table all")]
    return [*shown, run(f"ip netns exec {name} sysctl {' '.join(switch.replace('/', '.') for switch in SYSCTLS)}")]


# Namespace


def test_run_goes_there_and_comes_back(namespace: Namespace) -> None:
    home = here()
    assert namespace.run(here) == namespace.inode != home
    assert here() == home


def test_run_comes_back_from_an_exception_and_nests(namespace: Namespace) -> None:
    home = here()
    with Namespace.current() as outside:

        def inner() -> tuple[int, int, int]:
            return here(), outside.run(here), here()

        assert namespace.run(inner) == (namespace.inode, home, namespace.inode)
        with pytest.raises(ZeroDivisionError):
            namespace.run(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            namespace.run(lambda: outside.run(lambda: 1 / 0))
    assert here() == home


def test_only_the_calling_thread_moves(namespace: Namespace) -> None:
    home, inside, out = here(), threading.Event(), threading.Event()

    def stay() -> None:
        inside.set()
        out.wait(5)

    thread = threading.Thread(target=lambda: namespace.run(stay))
    thread.start()
    assert inside.wait(5)
    assert here() == home
    out.set()
    thread.join()


def test_threads_that_end_leave_no_descriptor(namespace: Namespace) -> None:
    namespace.run(here)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        thread = threading.Thread(target=namespace.run, args=(here,))
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) == before


def test_cookies_tell_namespaces_apart(name: str, namespace: Namespace) -> None:
    with Namespace.open(f"/run/netns/{name}") as again, Namespace.current() as other:
        assert namespace.cookie == again.cookie != other.cookie
        assert namespace.inode == again.inode != other.inode


def test_what_is_no_namespace(tmp_path: Path, namespace: Namespace) -> None:
    with Namespace(os.open(tmp_path, os.O_RDONLY)) as wrong, pytest.raises(OSError, match="setns") as raised:
        wrong.run(here)
    assert raised.value.errno == errno.EINVAL
    os.mkfifo(tmp_path / "fifo")
    with Namespace.open(str(tmp_path / "fifo")) as fifo, pytest.raises(OSError, match="setns"):
        _ = fifo.cookie
    closed = Namespace.current()
    closed.close()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        closed.run(here)


def test_a_namespace_is_found_again_by_path_or_by_a_process_in_it(name: str, namespace: Namespace) -> None:
    record = Record(namespace.cookie, "u1", f"/run/netns/{name}", namespace.inode, Before(OFF))
    with contextlib.ExitStack() as stack:
        found = find_namespace(record)
        assert found is not None
        stack.callback(found.close)
        assert found.cookie == namespace.cookie
        # Another namespace has its path now.
        run(f"ip netns del {name}")
        run(f"ip netns add {name}")
        sleeper = namespace.run(lambda: __import__("subprocess").Popen(["sleep", "60"]))
        stack.callback(sleeper.wait)
        stack.callback(sleeper.kill)
        by_process = find_namespace(record)
        assert by_process is not None
        stack.callback(by_process.close)
        assert by_process.cookie == namespace.cookie
    assert find_namespace(record) is None


# Routing


def test_install_and_restore_are_exact_inverses_and_idempotent(name: str, namespace: Namespace) -> None:
    before = state(name)
    noted = routing.survey(namespace)
    assert noted == Before(OFF)
    routing.install(namespace)
    after = state(name)
    routing.install(namespace)
    assert state(name) == after
    assert after[0].splitlines()[1] == "32764:\tfrom all fwmark 0x111/0xfff lookup 100"
    assert "local default dev lo table 100 proto static scope host" in after[1]
    assert after[2].splitlines()[1] == "32764:\tfrom all fwmark 0x111/0xfff lookup 100"
    assert "local default dev lo table 100" in after[3]
    assert after[4].endswith("= 1\n")
    for _ in range(2):
        routing.restore(namespace, noted)
        assert state(name) == before


def test_what_was_there_before_stays(name: str, namespace: Namespace) -> None:
    """Istio's agent may have been here, or somebody who likes the same numbers."""
    run(f"ip -n {name} rule add fwmark 0x111/0xfff priority 32764 lookup 100")
    run(f"ip -n {name} -6 route add local default dev lo table 100")
    run(f"ip netns exec {name} sysctl -w net.ipv4.tcp_fwmark_accept=1")
    before = state(name)
    noted = routing.survey(namespace)
    assert noted == Before((("net/ipv4/tcp_fwmark_accept", "1"), *OFF[1:]), rules=(4,), routes=(6,))
    routing.install(namespace)
    assert state(name) != before
    routing.restore(namespace, noted)
    assert state(name) == before


def test_similar_rules_and_routes_are_not_ours(name: str, namespace: Namespace) -> None:
    run(f"ip -n {name} rule add fwmark 0x111 priority 32764 lookup 100")
    run(f"ip -n {name} route add local 10.5.0.0/16 dev lo table 100")
    before = state(name)
    noted = routing.survey(namespace)
    assert noted == Before(OFF)
    routing.install(namespace)
    routing.restore(namespace, noted)
    assert state(name) == before


def test_a_namespace_without_ipv6(name: str, namespace: Namespace) -> None:
    for scope in ("all", "lo"):
        run(f"ip netns exec {name} sysctl -w net.ipv6.conf.{scope}.disable_ipv6=1")
    before = state(name)
    noted = routing.survey(namespace)
    routing.install(namespace)
    assert "fwmark" not in state(name)[2]
    routing.restore(namespace, noted)
    assert state(name) == before


def test_what_cannot_be_done_is_an_oserror_with_the_command(name: str, namespace: Namespace) -> None:
    run(f"ip -n {name} link set lo down")
    with pytest.raises(OSError, match="ip route add table 100: Network is down") as raised:
        routing.install(namespace)
    assert raised.value.errno == errno.ENETDOWN


def test_addresses_are_all_but_los_and_link_local_ones_last(name: str, namespace: Namespace) -> None:
    run(f"ip -n {name} addr add 10.9.9.9/32 dev lo")
    run(f"ip -n {name} addr add 10.98.7.1 peer 10.98.7.2 dev eth0")
    run(f"ip -n {name} addr add 169.254.3.3/16 dev eth0")
    found = routing.addresses(namespace)
    assert set(found) >= {ip_address(text) for text in ("10.98.1.2", "fd98:1::2", "10.98.7.1", "169.254.3.3")}
    assert ip_address("10.9.9.9") not in found
    assert ip_address("10.98.7.2") not in found
    flags = [ip.is_link_local for ip in found]
    assert flags == sorted(flags)
    assert any(flags)


def test_changes_of_addresses_are_told(name: str, namespace: Namespace) -> None:
    async def main() -> None:
        changed = asyncio.Event()
        watch = NetlinkAddressWatch(namespace, changed.set)
        for command in ("addr add 10.98.1.77/24 dev eth0", "addr del 10.98.1.77/24 dev eth0", "-6 addr add fd98:1::77/64 dev eth0 nodad"):
            changed.clear()
            run(f"ip -n {name} {command}")
            async with asyncio.timeout(5):
                await changed.wait()
        watch.close()
        watch.close()
        run(f"ip -n {name} addr add 10.98.1.78/24 dev eth0")
        changed.clear()
        await asyncio.sleep(0.05)
        assert not changed.is_set()

    asyncio.run(main())


def test_a_socket_stays_where_it_was_made(namespace: Namespace) -> None:
    with namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as inside:
        inside.connect(("10.98.1.9", 9))
        assert inside.getsockname()[0] == "10.98.1.2"
