"""Which of a namespace's addresses are believed to be the pod's."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent.enrol import EnrolError, vouched
from tests.agent.fakes import FakeNode
from tests.agent.virtual import run

OWN4, OWN6, LOCAL, OTHER = map(ip_address, ("10.244.1.5", "fd00::5", "fe80::5", "10.244.1.6"))
FOUND = (OTHER, OWN4, OWN6, LOCAL)


@pytest.mark.parametrize(
    ("ips", "believed"),
    [
        ((), FOUND),
        (("10.244.1.5", "fd00:0::5"), (OWN4, OWN6, LOCAL)),
        (("10.244.1.5",), (OWN4, LOCAL)),
        (("10.244.1.5", "fd00::99"), (OWN4, LOCAL)),
    ],
)
def test_only_what_the_record_lists_and_link_local(ips: tuple[str, ...], believed: tuple[object, ...]) -> None:
    assert vouched(FOUND, ips) == believed


@pytest.mark.parametrize(
    ("ips", "words"),
    [(("10.244.1.7",), r"does not have its address yet: 10\.244\.1\.7"), (("10.244.1.5", "x"), "'x' does not appear to be")],
)
def test_what_is_not_there(ips: tuple[str, ...], words: str) -> None:
    with pytest.raises(EnrolError, match=words):
        vouched(FOUND, ips)
    with pytest.raises(EnrolError, match="no address yet"):
        vouched((), ())


def test_a_pod_whose_address_is_taken_is_pending_until_it_is_free() -> None:
    async def main() -> None:
        node = FakeNode()
        node.pod("u1", 1)
        node.host.listening.add(1)
        why = "address 10.244.1.5 belongs to another pod's namespace"
        node.host.broken["prepare"] = EnrolError(why)
        node.tunnel()
        await node.reconciler.start()
        await node.settle()
        assert node.redirections.states == {"u1": f"pending: {why}"}
        assert not node.host.captures
        node.host.broken.clear()
        await node.settle(5)
        assert node.redirections.states == {"u1": "enabled"}
        await node.reconciler.stop()

    run(main())


def test_addresses_that_become_known_are_looked_at_at_once() -> None:
    async def main() -> None:
        node = FakeNode()
        node.pod("u1", 1)
        node.host.listening.add(1)
        node.tunnel()
        await node.reconciler.start()
        await node.settle()
        before = node.host.log.count("prepare 1")
        assert node.pods.pods is not None
        node.pods.pods["u1"] = replace(node.pods.pods["u1"], ips=("10.244.1.5",))
        node.reconciler.pods_changed()
        await node.settle()
        assert node.host.log.count("prepare 1") == before + 1
        await node.reconciler.stop()

    run(main())
