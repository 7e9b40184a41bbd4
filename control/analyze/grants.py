"""References into other namespaces, which a ReferenceGrant there must allow."""

from __future__ import annotations

from control.analyze.world import World
from mesh.model.manifest import ReferenceGrant


def granted(world: World, source: tuple[str, str, str], target: tuple[str, str, str], namespace: str) -> bool:
    """(group, kind, namespace) to (group, kind, name) of `namespace`."""
    return any(grant.namespace == namespace and grant.spec.allows(source, target) for grant in world.of(ReferenceGrant))
