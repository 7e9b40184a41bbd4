"""Which tunnel is told what, with several connected. Transcripts; no sockets, no time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.tunnels import Progress, Tunnels
from mesh.model.errors import BugError
from mesh.wire.zds import Add, Delete, Keep, Request, SnapshotSent, WorkloadInfo
from tests.agent.fakes import FakeNamespace, FakeTunnel

INFO = WorkloadInfo("a", "shop", "default")
OTHER = WorkloadInfo("a", "shop", "other")


def yes(request: Request) -> str:
    return ""


def no(request: Request) -> str:
    return "no room" if isinstance(request, Add) else ""


def silent(request: Request) -> None:
    return None


class Bench:
    """Tunnels, the uids whose state changed, and namespaces that are closed at the end."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.tunnels = Tunnels(self.changed.append)
        self.namespaces = [FakeNamespace(number) for number in range(3)]

    def announce(self, uid: str, number: int = 0, info: WorkloadInfo = INFO) -> None:
        self.tunnels.announce(uid, info, self.namespaces[number])

    def connect(self, answer: Callable[[Request], str | None] = yes) -> FakeTunnel:
        made = FakeTunnel(self.tunnels, answer)
        made.pump()
        return made

    def progress(self, uid: str) -> Progress:
        return self.tunnels.progress(uid)[0]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_snapshot_for_everyone_who_says_hello(bench: Bench) -> None:
    bench.announce("a")
    bench.tunnels.keep("k")
    bench.tunnels.announce("n", INFO, None)
    for _ in range(2):
        assert bench.connect().got == [Add("a", INFO), Keep("k"), Keep("n"), SnapshotSent()]
    assert bench.progress("a") is Progress.ACCEPTED
    assert bench.progress("n") is Progress.WAITING


def test_adds_to_the_newest_deletes_to_all(bench: Bench) -> None:
    old, new = bench.connect(), bench.connect()
    bench.announce("a")
    old.pump(), new.pump()
    assert (old.got, new.got) == ([SnapshotSent()], [SnapshotSent(), Add("a", INFO)])
    older = bench.connect()
    bench.tunnels.withdraw("a")
    for tunnel in (old, new, older):
        tunnel.pump()
    assert Delete("a") not in old.got, "it never had the pod"
    assert new.got[-1] == older.got[-1] == Delete("a")
    assert bench.tunnels.forgotten("a")


def test_when_the_newest_goes_the_other_gets_what_it_missed(bench: Bench) -> None:
    old, new = bench.connect(), bench.connect()
    bench.announce("a")
    new.pump()
    assert bench.progress("a") is Progress.ACCEPTED
    new.disconnect()
    assert bench.progress("a") is Progress.WAITING
    old.pump()
    assert old.got == [SnapshotSent(), Add("a", INFO)]
    assert bench.progress("a") is Progress.ACCEPTED
    old.disconnect()
    assert bench.progress("a") is Progress.NO_TUNNEL


def test_announcing_twice_says_it_once(bench: Bench) -> None:
    tunnel = bench.connect(silent)
    tunnel.ack()
    for _ in range(3):
        bench.announce("a")
        tunnel.pump()
    tunnel.ack()
    bench.announce("a")
    tunnel.pump()
    assert tunnel.got == [SnapshotSent(), Add("a", INFO)]


@pytest.mark.parametrize("change", ["namespace", "info"])
def test_a_pod_that_changes_while_its_add_is_in_flight(bench: Bench, change: str) -> None:
    """The answer to the old add says nothing about the new one."""
    tunnel = bench.connect(silent)
    tunnel.ack()
    bench.announce("a")
    tunnel.pump()
    bench.announce("a", 1 if change == "namespace" else 0, OTHER if change == "info" else INFO)
    tunnel.ack()
    assert bench.progress("a") is Progress.WAITING
    tunnel.ack()
    assert bench.progress("a") is Progress.ACCEPTED
    assert len(tunnel.got) == 3


def test_a_refusal_is_remembered_until_it_is_questioned(bench: Bench) -> None:
    tunnel = bench.connect(no)
    bench.announce("a")
    tunnel.pump()
    assert bench.tunnels.progress("a") == (Progress.REFUSED, "no room")
    bench.announce("a")
    tunnel.pump()
    assert tunnel.got.count(Add("a", INFO)) == 1
    tunnel.answer = yes
    bench.tunnels.retry("a")
    assert bench.progress("a") is Progress.WAITING
    tunnel.pump()
    assert bench.progress("a") is Progress.ACCEPTED
    bench.tunnels.retry("a")
    tunnel.pump()
    assert tunnel.got.count(Add("a", INFO)) == 2


def test_withdrawn_while_its_add_is_in_flight(bench: Bench) -> None:
    tunnel = bench.connect(silent)
    tunnel.ack()
    bench.announce("a")
    tunnel.pump()
    bench.tunnels.withdraw("a")
    tunnel.ack()
    assert not bench.tunnels.forgotten("a")
    tunnel.ack()
    assert bench.tunnels.forgotten("a")
    assert tunnel.got == [SnapshotSent(), Add("a", INFO), Delete("a")]


def test_withdrawn_before_its_add_was_sent(bench: Bench) -> None:
    """The descriptor is gone by then: only the delete goes out."""
    tunnel = bench.connect(silent)
    bench.announce("a")
    bench.tunnels.withdraw("a")
    bench.namespaces[0].close()
    tunnel.ack()
    tunnel.ack()
    assert tunnel.got == [SnapshotSent(), Delete("a")]


def test_a_tunnel_that_goes_has_forgotten(bench: Bench) -> None:
    bench.announce("a")
    tunnel = bench.connect()
    tunnel.answer = silent
    bench.tunnels.withdraw("a")
    tunnel.pump()
    assert not bench.tunnels.forgotten("a")
    bench.changed.clear()
    tunnel.disconnect()
    assert bench.tunnels.forgotten("a")
    assert bench.changed == ["a"]


def test_every_change_of_progress_is_told(bench: Bench) -> None:
    bench.announce("a")
    tunnel = bench.connect(silent)
    assert bench.changed == ["a"]
    tunnel.ack()
    assert bench.changed == ["a", "a"]
    tunnel.disconnect()
    assert bench.changed == ["a", "a", "a"]


def test_a_descriptor_that_is_not_held_is_our_own_bug(bench: Bench) -> None:
    with pytest.raises(BugError):
        bench.tunnels.descriptor(Add("a", INFO))
    assert bench.tunnels.descriptor(Delete("a")) is None
