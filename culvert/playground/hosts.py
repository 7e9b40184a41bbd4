"""/etc/hosts of a pod: the playground's stand-in for cluster DNS. Pure.

A service answers to `<svc>` (in its own namespace), `<svc>.<ns>`, `<svc>.<ns>.svc` and `<svc>.<ns>.svc.cluster.local`, a headless one
with the addresses of its pods. After them come names that only the control plane knows (`names`), such as `web.service.consul`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

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

    @property
    def names(self) -> list[str]:
        """What it is called from everywhere, the longest first."""
        base = f"{self.name}.{self.namespace}"
        return [f"{base}.svc.{DOMAIN}", f"{base}.svc", base]


def render_hosts(
    namespace: str,
    pod: str,
    pod_addresses: Iterable[str],
    services: Iterable[ServiceName],
    others: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> str:
    """The whole file for one pod of `namespace`. The pod's own namespace comes first, so that its short names win. `others` are names
    that are no Service's, with their addresses; those that stand above all the same are left out, since resolvers add up lines.
    """
    lines = [f"{address}\t{pod}" for address in pod_addresses]
    taken = {pod}
    for service in sorted(services, key=lambda service: (service.namespace != namespace, service.namespace, service.name)):
        names = [*([service.name] if service.namespace == namespace else []), *service.names]
        taken.update(names)
        lines += [f"{address}\t{' '.join(names)}" for address in service.addresses]
    lines += [f"{address}\t{name}" for name, addresses in sorted(others.items()) if name not in taken for address in addresses]
    return LOCAL + "".join(line + "\n" for line in lines)
