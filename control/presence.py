"""Whether those who hold certificates are there, by what the sources say: the CA does not wait for who is gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from control.resolve import Mesh
from mesh.model.manifest import Key, Node, Pod


def presence(mesh: Mesh) -> Callable[[str], bool | None]:
    """Of holders as the CA calls them: a node, or a workload's `namespace/pod`. None where neither can be told: of a node that no source
    has as an object, while pods of the mesh run on it.
    """
    catalog, nodes = mesh.catalog, cache(mesh.nodes)  # which looks at every pod, and is mostly not needed

    def known(key: Key) -> bool:
        return key in catalog.objects or key in catalog.rejections

    def there(holder: str) -> bool | None:
        namespace, slash, name = holder.partition("/")
        if slash:
            return known(Key(Pod.TYPE, namespace, name))
        return True if known(Key(Node.TYPE, "", holder)) else None if holder in nodes() else False

    return there
