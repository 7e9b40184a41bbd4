"""Who may send how much at a time."""

from __future__ import annotations

import asyncio

import pytest

from control.xds.budget import Budget


def test_who_wants_much_waits_for_its_turn() -> None:
    async def main() -> None:
        budget, order = Budget(10), []

        async def send(name: str, size: int) -> None:
            async with budget.take(size):
                order.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(send("a", 6), send("b", 6), send("more than there is", 100), send("c", 1))
        assert order == ["a", "b", "more than there is", "c"]
        assert budget.taken == 0

    asyncio.run(main())


@pytest.mark.parametrize("who", ["the one that sends", "the one that waits"])
def test_who_is_cancelled_leaves_nothing_taken(who: str) -> None:
    async def main() -> None:
        budget, go_on = Budget(10), asyncio.Event()

        async def send() -> None:
            async with budget.take(10):
                await go_on.wait()

        first, second = asyncio.ensure_future(send()), asyncio.ensure_future(send())
        await asyncio.sleep(0)
        (first if who == "the one that sends" else second).cancel()
        go_on.set()
        await asyncio.gather(first, second, return_exceptions=True)
        assert (first.cancelled(), second.cancelled()) == ((True, False) if who == "the one that sends" else (False, True))
        assert budget.taken == 0

    asyncio.run(main())


def test_who_is_slow_keeps_nobody_waiting_for_long() -> None:
    async def main() -> None:
        budget, go_on = Budget(10, lent=0.01), asyncio.Event()

        async def stuck() -> None:
            async with budget.take(10):
                await go_on.wait()

        slow = asyncio.ensure_future(stuck())
        await asyncio.sleep(0)
        async with asyncio.timeout(5), budget.take(10):
            assert not slow.done()
        go_on.set()
        await slow
        assert budget.taken == 0, "given back once"

    asyncio.run(main())
