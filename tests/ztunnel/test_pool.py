"""The pool's decisions. A tunnel here is a number of streams; what the pool holds is asserted as its repr."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from mesh.model.workload import SocketAddress
from ztunnel.pool import Key, Pool, PoolLimits, Refuse, Use, Wait


@dataclass(eq=False)
class Tunnel:
    open_streams: int = 0
    can_open: bool = True


A, B = Identity("td", "ns", "a"), Identity("td", "ns", "b")
KEY = Key(A, "pod", frozenset([B]), SocketAddress(ip_address("10.0.0.2"), 15008))
OTHER = KEY._replace(pod="other")


class Lab:
    """A pool whose waiters are strings."""

    def __init__(self, **limits: int) -> None:
        self.released: list[Tunnel] = []
        self.pool: Pool[Tunnel, str] = Pool(PoolLimits(**limits), self.released.append)

    def dialled(self, key: Key = KEY, now: float = 0) -> Tunnel:
        """A dial comes through, and each waiter that it serves opens its stream."""
        tunnel = Tunnel()
        tunnel.open_streams = len(self.pool.dialled(key, tunnel, now))
        return tunnel

    def end_all(self, tunnel: Tunnel, now: float = 0) -> None:
        tunnel.open_streams = 0
        self.pool.stream_ended(tunnel, now)


def test_concurrent_misses_share_one_dial() -> None:
    lab = Lab()
    assert [lab.pool.check_out(KEY, name) for name in "abc"] == [Wait(1), Wait(0), Wait(0)]
    assert repr(lab.pool) == "<Pool pod→10.0.0.2:15008 [] +1 dialling 3 waiting>"
    assert lab.pool.dialled(KEY, Tunnel(3), 0) == ["a", "b", "c"]
    assert repr(lab.pool) == "<Pool pod→10.0.0.2:15008 [3]>"
    assert lab.pool.waiting == 0


def test_more_waiters_than_a_tunnel_carries_are_more_dials_at_once() -> None:
    lab = Lab(streams_per_tunnel=2)
    assert [lab.pool.check_out(KEY, name) for name in "abcde"] == [Wait(1), Wait(0), Wait(1), Wait(0), Wait(1)]
    assert lab.pool.dialled(KEY, Tunnel(2), 0) == ["a", "b"]
    assert lab.pool.dialled(KEY, Tunnel(2), 0) == ["c", "d"]
    assert repr(lab.pool) == "<Pool pod→10.0.0.2:15008 [2, 2] +1 dialling 1 waiting>"
    assert lab.pool.dialled(KEY, Tunnel(1), 0) == ["e"]


def test_nobody_waits_for_a_dial_that_the_bound_does_not_allow() -> None:
    lab = Lab(streams_per_tunnel=2, tunnels=1)
    assert [lab.pool.check_out(KEY, name) for name in "abc"] == [Wait(1), Wait(0), Wait(0)]
    assert lab.pool.dialled(KEY, Tunnel(3), 0) == ["a", "b", "c"], "c tries, and is refused by the tunnel or by the pool"
    assert lab.pool.waiting == 0


def test_a_failed_dial_fails_those_who_counted_on_it_and_nobody_else() -> None:
    lab = Lab(streams_per_tunnel=2)
    for name in "abcd":
        lab.pool.check_out(KEY, name)
    lab.pool.check_out(OTHER, "x")
    assert lab.pool.failed(KEY) == ["c", "d"]
    assert lab.pool.failed(KEY) == ["a", "b"]
    assert repr(lab.pool) == "<Pool other→10.0.0.2:15008 [] +1 dialling 1 waiting>"


def test_streams_are_put_on_the_first_tunnel_with_room() -> None:
    lab = Lab(streams_per_tunnel=2)
    lab.pool.check_out(KEY, "a")
    tunnel = lab.dialled()
    assert lab.pool.check_out(KEY, "b") == Use(tunnel)
    tunnel.open_streams = 2
    assert lab.pool.check_out(KEY, "c") == Wait(1)
    second = lab.dialled()
    assert lab.pool.check_out(KEY, "d") == Use(second)
    lab.end_all(tunnel)
    assert lab.pool.check_out(KEY, "e") == Use(tunnel)


def test_keys_share_nothing() -> None:
    lab = Lab()
    lab.pool.check_out(KEY, "a")
    lab.dialled()
    for other in (OTHER, KEY._replace(source=B), KEY._replace(accepted=frozenset([A, B])), KEY._replace(hop=KEY.hop._replace(port=1))):
        assert lab.pool.check_out(other, "x") == Wait(1)


def test_a_tunnel_that_cannot_open_is_passed_over() -> None:
    """Its peer said GOAWAY, or allows no more streams."""
    lab = Lab()
    lab.pool.check_out(KEY, "a")
    tunnel = lab.dialled()
    tunnel.can_open = False
    assert lab.pool.check_out(KEY, "b") == Wait(1)
    assert repr(lab.pool) == "<Pool pod→10.0.0.2:15008 [1!] +1 dialling 1 waiting>"
    lab.pool.lost(tunnel)
    assert repr(lab.pool) == "<Pool pod→10.0.0.2:15008 [] +1 dialling 1 waiting>"
    lab.pool.lost(tunnel)  # twice is harmless


def test_idle_tunnels_are_released_after_their_time() -> None:
    lab = Lab(idle=300)
    lab.pool.check_out(KEY, "a")
    tunnel = lab.dialled()
    assert lab.pool.next_deadline() is None
    lab.end_all(tunnel, now=10)
    assert lab.pool.next_deadline() == 310
    lab.pool.expire(309.9)
    assert lab.released == []
    assert lab.pool.check_out(KEY, "b") == Use(tunnel)  # used again: the time starts anew
    lab.pool.expire(400)
    assert lab.released == []
    lab.end_all(tunnel, now=400)
    lab.pool.expire(700)
    assert lab.released == [tunnel]
    assert repr(lab.pool) == "<Pool empty; leaving [0]>"
    lab.pool.lost(tunnel)
    assert repr(lab.pool) == "<Pool empty>"


def test_a_dial_that_nobody_waits_for_any_more_is_kept_idle() -> None:
    lab = Lab(idle=300)
    lab.pool.check_out(KEY, "a")
    assert lab.pool.cancelled(KEY, "a")
    assert not lab.pool.cancelled(KEY, "a")
    tunnel = lab.dialled(now=5)
    assert lab.pool.next_deadline() == 305
    assert lab.pool.check_out(KEY, "b") == Use(tunnel)


def test_the_bound_of_connections_evicts_the_longest_idle_and_then_refuses() -> None:
    lab = Lab(tunnels=2)
    lab.pool.check_out(KEY, "a")
    first = lab.dialled()
    lab.pool.check_out(OTHER, "b")
    second = lab.dialled(OTHER)
    third = KEY._replace(pod="third")
    assert lab.pool.check_out(third, "c") == Refuse(Reason.TOO_MANY_CONNECTIONS)
    assert repr(lab.pool) == "<Pool pod→10.0.0.2:15008 [1]; other→10.0.0.2:15008 [1]>"
    lab.end_all(second, now=1)
    lab.end_all(first, now=2)
    assert lab.pool.check_out(third, "c") == Wait(1)
    assert lab.released == [second]


def test_waiters_are_bounded() -> None:
    lab = Lab(waiters=2)
    assert [lab.pool.check_out(KEY, name) for name in "abc"] == [Wait(1), Wait(0), Refuse(Reason.TOO_MANY_CONNECTIONS)]


def test_a_removed_pod_gives_back_its_waiters_and_releases_its_tunnels() -> None:
    lab = Lab(streams_per_tunnel=1)
    lab.pool.check_out(KEY, "a")
    tunnel = lab.dialled()
    lab.pool.check_out(KEY, "b")
    lab.pool.check_out(OTHER, "x")
    assert lab.pool.forget(["pod"]) == ["b"]
    assert lab.released == [tunnel]
    assert lab.pool.failed(KEY) == []  # its dial ends later
    assert repr(lab.pool) == "<Pool other→10.0.0.2:15008 [] +1 dialling 1 waiting; leaving [1]>"


def test_a_renewed_certificate_retires_tunnels_without_ending_them() -> None:
    lab = Lab()
    lab.pool.check_out(KEY, "a")
    old = lab.dialled()
    lab.pool.retire(B)
    assert lab.pool.check_out(KEY, "b") == Use(old)
    lab.pool.retire(A)
    assert lab.released == [old]
    assert lab.pool.check_out(KEY, "c") == Wait(1)
    assert repr(lab.pool) == "<Pool pod→10.0.0.2:15008 [] +1 dialling 1 waiting; leaving [1]>"


@pytest.mark.parametrize("steps", ["use end lost end", "lost end", "use lost expire"])
def test_the_end_of_a_lost_tunnels_streams_is_harmless(steps: str) -> None:
    lab = Lab()
    lab.pool.check_out(KEY, "a")
    tunnel = lab.dialled()
    for step in steps.split():
        match step:
            case "use":
                lab.pool.check_out(KEY, "b")
            case "end":
                lab.end_all(tunnel)
            case "lost":
                lab.pool.lost(tunnel)
            case "expire":
                lab.pool.expire(10_000)
    assert repr(lab.pool) == "<Pool empty>"
