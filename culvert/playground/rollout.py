"""What a Deployment's pods should become next: replicas, rolling replacement, nodes. Pure: facts in, decisions out.

Called again after every change, it converges: at most one pod more than asked for exists while templates are being replaced (surge 1),
and a ready pod of the old template goes only when enough others are ready (unavailable 0).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SAFE = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True)
class Member:
    """One existing pod of an owner, not counting those that are being deleted."""

    name: str
    template: str
    ready: bool
    created: float


@dataclass(frozen=True, slots=True)
class Step:
    create: int = 0
    delete: tuple[str, ...] = ()


def next_step(replicas: int, template: str, members: Sequence[Member], *, recreate: bool) -> Step:
    """How many pods of `template` to create now, and which ones to delete. `recreate` deletes the old ones first."""
    new = [member for member in members if member.template == template]
    old = sorted((member for member in members if member.template != template), key=lambda member: (member.ready, member.created))
    delete = [member.name for member in sorted(new, key=_first_to_go)[: max(0, len(new) - replicas)]]
    if recreate and old:
        return Step(0, (*delete, *(member.name for member in old)))
    kept_new = len(new) - len(delete)
    limit = replicas + 1 if old else replicas
    create = max(0, min(replicas - kept_new, limit - kept_new - len(old)))
    ready_new = sum(member.ready for member in new if member.name not in delete)
    ready_old = sum(member.ready for member in old)
    for member in old:
        if not member.ready:
            delete.append(member.name)
        elif ready_new + ready_old > replicas or replicas == 0:
            delete.append(member.name)
            ready_old -= 1
    return Step(create, tuple(delete))


def _first_to_go(member: Member) -> tuple[bool, float]:
    """Kubernetes' order when scaling down: not ready before ready, younger before older."""
    return (member.ready, -member.created)


def template_hash(template: object) -> str:
    """A short name for a pod template: equal for equal templates."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True, default=str).encode()).digest()
    return "".join(SAFE[byte % len(SAFE)] for byte in digest[:9])


def pod_suffix(entropy: bytes) -> str:
    """Five characters that tell replicas apart, from at least five bytes."""
    return "".join(SAFE[byte % len(SAFE)] for byte in entropy[:5])


def choose_node(nodes: Sequence[str], placed: Iterable[tuple[str, str]], owner: str, asked: str) -> str | None:
    """The node for a new pod of `owner`: the one asked for, else the one with the fewest pods of this owner, then with the fewest pods,
    then the first. `placed` holds (node, owner) of every pod there is. None if the node asked for does not exist.
    """
    if asked:
        return asked if asked in nodes else None
    own = dict.fromkeys(nodes, 0)
    all_pods = dict.fromkeys(nodes, 0)
    for node, placed_owner in placed:
        if node in own:
            all_pods[node] += 1
            own[node] += placed_owner == owner
    return min(nodes, key=lambda node: (own[node], all_pods[node], nodes.index(node)))
