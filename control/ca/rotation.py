"""How a CA changes without breaking a connection. Pure: each step takes a state and returns the next.

The intermediate is replaced under the same root: chains of the old and of the new verify alike, and a leaf carries its own, so nobody has
to be told. A root is replaced in three steps, with everything renewed between them:

    introduce   peers learn to trust the new root beside the old one. Nothing is signed by it yet.
    switch      what is signed from now on leads to the new root. The old one stays trusted.
    retire      the old root is trusted no more.

A step may be taken when its gate is open: all who hold certificates have renewed them since the step before (they say so, see `follow`), or
the last certificate from before has expired. So a node that is away, or a peer that cannot be told (Istio's tunnel, which renews at half of
its certificate's life), makes a change slow, never unsafe. Who is known to be gone is not waited for (`departed`). Every step may be
repeated: done twice, it is done.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from control.ca.material import Material
from control.ca.state import DOUBT, MAX_HOLDERS, Phase, State
from mesh.model.errors import CulvertError

CROWD = f"more than {MAX_HOLDERS} others"
"""Stands for holders of which there are too many to be remembered."""


class NotYet(CulvertError):  # noqa: N818 - reads as what happened
    """A step whose gate is closed, or for which it is not the time. The text says what is awaited."""


@dataclass(frozen=True, slots=True)
class Gate:
    """waiting: who has not renewed. opens_at: when that does not matter any more. settled_at: not before this, whoever has renewed.
    forgotten: who has not renewed either, and is gone.

    Times in Unix seconds.
    """

    waiting: tuple[str, ...]
    opens_at: float
    settled_at: float
    forgotten: tuple[str, ...] = ()

    def is_open(self, now: float) -> bool:
        return now >= self.settled_at and (not self.waiting or now >= self.opens_at)

    def reason(self, now: float) -> str:
        """Why it is closed."""
        if now < self.settled_at:
            return f"the last step is {self.settled_at - now:.1f} s too young"
        shown = ", ".join(self.waiting[:10]) + (f" and {len(self.waiting) - 10} more" if len(self.waiting) > 10 else "")
        return f"not everybody has renewed: {shown}; their certificates from before expire in {self.opens_at - now:.0f} s"


def gate(state: State, holders: Iterable[str], settle: float, end: float = math.inf, gone: Collection[str] = ()) -> Gate:
    """`holders`: all who may hold a certificate, as this replica knows. `settle`: seconds until every replica has heard of a change. `end`:
    when what signs now expires, and with it all that it has signed. `gone`: who is not waited for.
    """
    behind = {name.removesuffix(DOUBT) for name in state.held}.union(holders) - state.confirmed
    opens_at = min(state.outlived, end) if state.phase is Phase.INTRODUCED else state.outlived
    return Gate(tuple(sorted(behind.difference(gone))), opens_at, state.since + settle, tuple(sorted(behind.intersection(gone))))


def introduce(state: State, material: Material, now: float) -> State:
    """The first step. Raises NotYet while an earlier change is not finished."""
    match state.phase:
        case Phase.INTRODUCED:
            return state
        case Phase.SWITCHED:
            raise NotYet("the root before this one has not been retired yet: finish that change first")
        case Phase.STEADY:
            return _moved(state, replace(state, next=material), now)


def switch(state: State, passage: Gate, now: float, *, force: bool = False) -> State:
    """The second step. Raises NotYet where nothing is introduced, or the gate is closed."""
    match state.phase:
        case Phase.SWITCHED:
            return state
        case Phase.STEADY:
            raise NotYet("no root has been introduced: that is the first step")
        case Phase.INTRODUCED:
            _pass(passage, now, force)
            assert state.next is not None  # so it is introduced
            left = dict.fromkeys((*state.retiring, *state.current.roots))
            retiring = tuple(root for root in left if root not in state.next.roots)
            return _moved(state, replace(state, current=state.next, next=None, retiring=retiring), now)


def retire(state: State, passage: Gate, now: float, *, force: bool = False) -> State:
    """The third step. Raises NotYet before the second, or where the gate is closed."""
    match state.phase:
        case Phase.STEADY:
            return state
        case Phase.INTRODUCED:
            raise NotYet("the root that was introduced signs nothing yet: switch to it first")
        case Phase.SWITCHED:
            _pass(passage, now, force)
            return _moved(state, replace(state, retiring=()), now)


def abandon(state: State, now: float) -> State:
    """Take back the first step. Raises NotYet after the second."""
    match state.phase:
        case Phase.STEADY:
            return state
        case Phase.SWITCHED:
            raise NotYet("the new root signs already: it can only be retired by another change")
        case Phase.INTRODUCED:
            return _moved(state, replace(state, next=None), now)


def demand(state: State, now: float) -> State:
    """All leaves are to be renewed now."""
    return _moved(state, replace(state, epoch=state.epoch + 1), now)


def hear(state: State, token: str, confirmed: Collection[str], held: Collection[str], doubtful: Collection[str] = ()) -> State:
    """What a replica knows: of `confirmed`, that they hold nothing from before `token` any more; of `held`, that they may; of `doubtful`,
    that they are gone, unless another says anew that they may hold something. Changes nothing where the state has moved on since it
    learned that, or where it is no news. What does not fit makes a step wait, as for somebody who never renews.
    """
    if token != state.token:
        return state
    renewed = state.confirmed.union(confirmed)
    if len(renewed) > MAX_HOLDERS:
        renewed = state.confirmed
    asked = {name + DOUBT for name in doubtful}
    known = state.held.difference(doubtful).union(asked, set(held) - renewed).difference(name + DOUBT for name in renewed)
    if len(known) > MAX_HOLDERS:
        known = state.held | {CROWD}
    return state if (renewed, known) == (state.confirmed, state.held) else replace(state, confirmed=renewed, held=known)


def mounted(state: State, found: Material, now: float) -> State:
    """Somebody has replaced the files that the CA was mounted from.

    Where what signs leads to the same root as before, it counts at once. Where it leads to another, that would break every connection to
    peers that have not renewed: it is introduced, and the keeper takes the other steps as their gates open.
    """
    if found.roots[0] != state.current.roots[0]:
        return _moved(state, replace(state, next=found), now)
    retiring = tuple(root for root in state.retiring if root not in found.roots)
    return _moved(state, replace(state, current=found, next=None, retiring=retiring), now)


def with_longest(state: State, longest: int, now: float) -> State:
    """The longest life of leaves is another from now on."""
    if longest == state.longest:
        return state
    return replace(state, longest=longest, ceiling=max(state.ceiling, now + state.longest if state.longest else 0.0))


def _pass(passage: Gate, now: float, force: bool) -> None:
    if not force and not passage.is_open(now):
        raise NotYet(passage.reason(now))


def _moved(before: State, after: State, now: float) -> State:
    """Where leaves must be from something else than before, nobody has renewed them yet."""
    return after if after.token == before.token else replace(after, since=now, held=frozenset(), confirmed=frozenset())
