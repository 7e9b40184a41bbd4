"""/etc/hosts of a pod: the playground's stand-in for cluster DNS. Pure.

A service answers to `<svc>` (in its own namespace), `<svc>.<ns>`, `<svc>.<ns>.svc` and `<svc>.<ns>.svc.cluster.local`, a headless one
with the addresses of its pods.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

DOMAIN = "cluster.local"
LOCAL = """\
# Written by the culvert playground; rewritten in place when services change.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
"""


# A pod cannot reach the machine's resolvers: without this, a name that is not in /etc/hosts is found missing only after seconds.
RESOLVER = """\
# Written by the culvert playground: names are in /etc/hosts; nothing answers here, and says so at once.
nameserver 127.0.0.1
options attempts:1 timeout:1
"""


@dataclass(frozen=True, slots=True)
class ServiceName:
    """A service and the addresses that its name stands for."""

    namespace: str
    name: str
    addresses: tuple[str, ...]


def render_hosts(namespace: str, pod: str, pod_addresses: Iterable[str], services: Iterable[ServiceName]) -> str:
    """The whole file for one pod of `namespace`. The pod's own namespace comes first, so that its short names win."""
    lines = [f"{address}\t{pod}" for address in pod_addresses]
    for service in sorted(services, key=lambda service: (service.namespace != namespace, service.namespace, service.name)):
        base = f"{service.name}.{service.namespace}"
        names = [f"{base}.svc.{DOMAIN}", f"{base}.svc", base]
        if service.namespace == namespace:
            names.insert(0, service.name)
        lines += [f"{address}\t{' '.join(names)}" for address in service.addresses]
    return LOCAL + "".join(line + "\n" for line in lines)
