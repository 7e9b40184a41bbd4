"""Who takes all streams that it can takes nobody else's."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from control.auth import Caller
from control.auth.places import MAX_OF_CALLER, NoPlace, Places
from tests.control.plane import TOKENS, Plane, Stream
from tests.control.test_bad_clients import ended, metric, run

MOST, KEPT = 200, 100
POD = Caller(namespace="shop", account="a", pod="p")


def node(number: int) -> Caller:
    return Caller(node=f"n{number}", impersonates=True)


def test_a_caller_has_its_share_and_others_theirs() -> None:
    places = Places(MOST, KEPT)
    for _ in range(MAX_OF_CALLER):
        places.take(POD)
    with pytest.raises(NoPlace, match=f"more than {MAX_OF_CALLER} streams of shop/p"):
        places.take(POD)
    places.take(Caller(namespace="shop", account="a", pod="q"))
    places.give_back(POD)
    places.take(POD)


def test_places_of_tunnels_are_kept_from_all_others() -> None:
    places = Places(MOST, KEPT)
    others = [Caller(namespace="shop", account="a", pod=f"p{number}") for number in range(MOST - KEPT)]
    for caller in others:
        places.take(caller)
    with pytest.raises(NoPlace, match="of others than tunnels"):
        places.take(POD)
    for number in range(KEPT):
        places.take(node(number))
    with pytest.raises(NoPlace, match=f"more than {MOST} streams"):
        places.take(node(KEPT))
    places.give_back(others[0])
    places.take(node(KEPT))


def test_what_is_given_back_leaves_nothing() -> None:
    places = Places(MOST, KEPT)
    for caller in (POD, POD, node(1)):
        places.take(caller)
    assert (places.total, dict(places.taken)) == (3, {POD: 2, node(1): 1})
    for caller in (POD, POD, node(1)):
        places.give_back(caller)
    assert (places.total, dict(places.taken)) == (0, {})


def test_a_caller_is_told_and_counted_and_comes_in_again_when_it_has_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.auth.places.MAX_OF_CALLER", 2)

    async def main(plane: Plane, good: Stream) -> None:
        async with plane.channel() as channel:
            streams = [Stream(channel) for _ in range(2)]
            for stream in streams:
                await stream.start()
            code, why = await ended(Stream(channel).call)
            assert (code, why) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "more than 2 streams of node n1")
            assert await metric(plane, 'culvert_xds_cut_off_total{reason="caller_streams"}') == 1
            await Stream(channel, TOKENS["n2"]).start()
            for stream in streams:
                stream.call.cancel()
            while plane.plane.xds.places.total > 2:
                await plane.http("/debug/sync")
            await Stream(channel).start()

    run(tmp_path, main)
