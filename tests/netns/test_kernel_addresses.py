"""An address belongs to one pod: what a pod that claims another's gets, and what becomes of the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.bpf import AddressTakenError, abi
from agent.bpf.maps import Map
from agent.bpf.programs import Programs
from agent.enrol import EnrolError, NodeHost
from agent.records import Records
from mesh.model.workload import IPAddress
from tests.bpf.lab import App, Mesh, Pod, Tunnel, greet, mesh, run

pytestmark = pytest.mark.netns

PORT = 7100
SHARED = ip_address("fe80::77")


@pytest.fixture
def lab() -> Iterator[Mesh]:
    with mesh("addresses") as made:
        yield made


@pytest.fixture
def host(lab: Mesh, tmp_path: Path) -> NodeHost:
    return NodeHost(lab.programs, Records(str(tmp_path / "records")), lab.node.netns.cookie)


def homes(programs: Programs) -> dict[IPAddress, int]:
    known = Map("cvt_addresses", programs.map_fd("cvt_addresses"), abi.Addr, abi.Home)
    return {address.ip: home.netns for address, home in known.items()}


def pretend(thief: Pod, *addresses: IPAddress) -> None:
    """Give a pod addresses in such a way that nobody on the wire notices: on an interface that is down."""
    run(f"ip -n {thief.name} link add thief type bridge")
    for ip in addresses:
        run(f"ip -n {thief.name} addr add {ip}/{ip.max_prefixlen} dev thief")


def assert_b_works(lab: Mesh) -> None:
    """From outside and from the mesh, both by the tunnel; nothing reaches the app in another way."""
    with closing(App(lab.b)) as app:
        for to in map(str, lab.b.addresses):
            with lab.counted(steered=1, delivered=1, self_call=0):
                greet(lab.c.connect(to, PORT))
            with lab.counted(captured=1, steered=1, delivered=1, self_call=0):
                greet(lab.a.connect(to, PORT))
        assert {mark for _, _, mark in app.seen} == {abi.MARK_DELIVERY}


def test_a_claim_of_anothers_address_is_refused_and_changes_nothing(lab: Mesh) -> None:
    before = homes(lab.programs)
    for claimed in lab.b.addresses:
        with pytest.raises(AddressTakenError, match=f"^address {claimed} belongs to another pod's namespace$"):
            lab.programs.enrol(lab.a.cookie, lab.a.netns.fd, [*lab.a.addresses, ip_address("10.98.0.77"), claimed])
        with pytest.raises(AddressTakenError):
            lab.programs.enrol(lab.c.cookie, lab.c.netns.fd, [claimed])
    with pytest.raises(AddressTakenError):  # the same key by another name
        lab.programs.prepare(lab.a.cookie, [*lab.a.addresses, ip_address("::ffff:10.98.0.3")])
    assert homes(lab.programs) == before
    assert set(lab.programs.enrolled()) == {lab.a.cookie, lab.b.cookie}
    lab.programs.unenrol(lab.c.cookie)  # the loser
    assert homes(lab.programs) == before
    assert_b_works(lab)


def test_an_address_on_a_hidden_interface_gives_nothing(lab: Mesh, host: NodeHost) -> None:
    pretend(lab.a, *lab.b.addresses, ip_address("10.98.0.78"))
    before, ips = homes(lab.programs), [str(ip) for ip in lab.a.addresses]
    host.prepare("a", f"/run/netns/{lab.a.name}", lab.a.netns, ips)
    host.capture(lab.a.netns, ips)
    assert {ip: cookie for ip, cookie in homes(lab.programs).items() if not ip.is_link_local} == before
    lab.node.ip("link del thief", inside=lab.a.name)  # with it, a's own kernel would take the connection
    assert_b_works(lab)


def test_whoever_has_no_list_of_addresses_cannot_take_one(lab: Mesh, host: NodeHost) -> None:
    pretend(lab.a, lab.b.v4)
    with pytest.raises(AddressTakenError, match=r"10\.98\.0\.3"):
        host.prepare("a", f"/run/netns/{lab.a.name}", lab.a.netns, ())
    lab.node.ip("link del thief", inside=lab.a.name)
    assert_b_works(lab)


def test_the_pods_address_must_be_there(lab: Mesh, host: NodeHost) -> None:
    with pytest.raises(EnrolError, match=r"does not have its address yet: 10\.98\.0\.99"):
        host.prepare("c", f"/run/netns/{lab.c.name}", lab.c.netns, ["10.98.0.99"])
    assert lab.c.cookie not in homes(lab.programs).values()


@pytest.mark.parametrize("gone", [True, False], ids=["unenrolled", "released"])
def test_the_address_of_a_pod_that_left_is_used_again(lab: Mesh, gone: bool) -> None:
    b, reborn = lab.b, lab.node.pod()
    with pytest.raises(AddressTakenError):
        lab.programs.prepare(reborn.cookie, b.addresses)
    (lab.programs.unenrol if gone else lab.programs.release)(b.cookie)
    lab.tunnel_b.close()
    lab.node.ip("link set eth0 down", inside=b.name)
    for ip, length in ((b.v4, 24), (b.v6, 64)):
        lab.node.ip(f"addr add {ip}/{length} dev eth0 {'nodad' if ip.version == 6 else ''}", inside=reborn.name)
    run(f"ip -n {lab.c.name} neigh flush all")
    run(f"ip -n {lab.a.name} neigh flush all")
    lab.b = Pod(reborn.name, reborn.netns, b.v4, b.v6)
    lab.node.route_deliveries(lab.b)
    with closing(Tunnel(lab.b, lab.programs.mark)):
        lab.programs.enrol(lab.b.cookie, lab.b.netns.fd, lab.b.addresses)
        assert_b_works(lab)
        if not gone:
            with pytest.raises(AddressTakenError):
                lab.programs.prepare(b.cookie, b.addresses)
        lab.programs.unenrol(b.cookie)  # the old one's end takes nothing from the new one
        assert {homes(lab.programs)[ip] for ip in lab.b.addresses} == {lab.b.cookie}
        assert_b_works(lab)


@pytest.mark.parametrize("adopted", [False, True])
def test_a_link_local_address_of_two_is_nobodys(lab: Mesh, adopted: bool) -> None:
    """Were it the first's, whatever the first sends there would pass in the second's namespace for a call to itself."""
    a, b = lab.a, lab.b
    lab.programs.enrol(a.cookie, a.netns.fd, [*a.addresses, SHARED])
    assert homes(lab.programs)[SHARED] == a.cookie
    if adopted:
        lab.programs.close()
        lab.programs = Programs.load_or_adopt(lab.node.instance, node_cookie=lab.node.netns.cookie)
    try:
        for _ in range(2):
            lab.programs.enrol(b.cookie, b.netns.fd, [*b.addresses, SHARED])
            assert SHARED not in homes(lab.programs)
            lab.programs.enrol(a.cookie, a.netns.fd, [*a.addresses, SHARED])
            assert SHARED not in homes(lab.programs)
        assert_b_works(lab)
        lab.programs.prepare(a.cookie, a.addresses)
        assert homes(lab.programs)[SHARED] == b.cookie
        lab.programs.prepare(a.cookie, [*a.addresses, SHARED])
        assert SHARED not in homes(lab.programs)
        lab.programs.unenrol(b.cookie)
        assert homes(lab.programs)[SHARED] == a.cookie
        lab.programs.unenrol(a.cookie)
        assert homes(lab.programs) == {}
    finally:
        if adopted:
            lab.programs.close()
