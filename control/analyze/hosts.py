"""Names that traffic can be sent to: Services and hosts of ServiceEntries, as the resolution names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from control.analyze.near import near
from control.resolve import MeshSettings
from control.resolve.services import EXPORT_ANNOTATION, app_protocol, names_of
from mesh.model.l7.translate.delegates import visible
from mesh.model.manifest import Key, Object, Service, ServiceEntry
from mesh.model.workload import AppProtocol


@dataclass(frozen=True, slots=True)
class HostPort:
    number: int
    name: str
    protocol: AppProtocol


@dataclass(frozen=True, slots=True)
class Host:
    """A name, and the object that declares it."""

    name: str
    namespace: str
    entry: Service | ServiceEntry
    ports: tuple[HostPort, ...]

    @property
    def key(self) -> Key:
        return self.entry.key

    def port(self, number: int) -> HostPort | None:
        return next((port for port in self.ports if port.number == number), None)

    def seen_from(self, namespace: str) -> bool:
        return visible(export_of(self.entry), self.namespace, namespace)


def export_of(entry: Object) -> tuple[str, ...]:
    """Where an object may be seen; empty for everywhere."""
    if isinstance(entry, ServiceEntry):
        return entry.spec.export_to
    return tuple(filter(None, (word.strip() for word in entry.annotations.get(EXPORT_ANNOTATION, "").split(","))))


class Hosts:
    """All names. A wildcard is found by what it stands for."""

    def __init__(self, entries: Iterable[Object], settings: MeshSettings) -> None:
        self._domain = settings.cluster_domain
        self._found: dict[str, list[Host]] = {}
        self._wild: dict[str, list[Host]] = {}
        self._by_key: dict[Key, list[Host]] = {}
        self._services: dict[str, list[str]] = {}
        self._namespaces: dict[str, list[str]] = {}
        for entry in entries:
            for host in _hosts(entry, settings):
                self._found.setdefault(host.name, []).append(host)
                self._by_key.setdefault(host.key, []).append(host)
                if isinstance(entry, Service):
                    self._services.setdefault(host.namespace, []).append(entry.name)
                    self._namespaces.setdefault(entry.name, []).append(host.namespace)
                if host.name.startswith("*."):
                    self._wild.setdefault(host.name[1:], []).append(host)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def find(self, name: str) -> list[Host]:
        """Every host of that very name, else those of the most specific wildcard that it is within."""
        found = self._found.get(name)
        if found is not None:
            return found
        labels = name.removeprefix("*.").split(".")
        first = 0 if name.startswith("*.") else 1
        for index in range(first, len(labels)):
            wild = self._wild.get("." + ".".join(labels[index:]))
            if wild is not None:
                return wild
        return []

    def of(self, key: Key) -> list[Host]:
        """The names that an object declares."""
        return self._by_key.get(key, [])

    def within(self, wildcard: str) -> list[Host]:
        """Those below `*.example.com`."""
        end = wildcard[1:]
        return [host for name, hosts in self._found.items() if name.endswith(end) for host in hosts]

    def qualified(self, name: str, namespace: str) -> str:
        """A name without a dot is one of the namespace of who wrote it."""
        return name if "." in name or name == "*" else self.of_service(name, namespace)

    def of_service(self, name: str, namespace: str) -> str:
        return f"{name}.{namespace}.svc.{self._domain}"

    def namespace_of(self, name: str) -> str:
        """The namespace that a Service of this name would be in; "" for other names."""
        rest = name.removesuffix(f".svc.{self._domain}")
        return rest.rpartition(".")[2] if rest != name and rest.count(".") == 1 else ""

    def services_of(self, namespace: str) -> list[str]:
        return sorted(self._services.get(namespace, ()))

    def near(self, name: str) -> str:
        """The host that was probably meant by one that is not there, or "": a service that is called so in its namespace, or just so in
        another; of other names one that is much the same.
        """
        namespace, short = self.namespace_of(name), name.partition(".")[0]
        if not namespace:
            return near(name, (other for other in self._found if not self.namespace_of(other)))
        meant = near(short, self._services.get(namespace, ()))
        if meant:
            return self.of_service(meant, namespace)
        elsewhere = sorted(self._namespaces.get(short, ()))
        return self.of_service(short, elsewhere[0]) if elsewhere else ""

    def meant(self, name: str) -> str:
        """The full name, where `reviews.shop` or `reviews.shop.svc` stands for one that there is."""
        parts = name.removesuffix(".svc").split(".")
        full = self.of_service(*parts) if len(parts) == 2 else ""
        return full if full in self._found else ""


def _hosts(entry: Object, settings: MeshSettings) -> Iterator[Host]:
    for name in names_of(entry, settings):
        if isinstance(entry, Service):
            ports = (
                HostPort(port.port, port.name, app_protocol(port.app_protocol, port.name))
                for port in entry.spec.ports
                if port.protocol == "TCP"
            )
            yield Host(name.hostname, name.namespace, entry, tuple(ports))
        elif isinstance(entry, ServiceEntry):
            listed = (HostPort(port.number, port.name, app_protocol("", port.protocol.lower())) for port in entry.spec.ports)
            yield Host(name.hostname, name.namespace, entry, tuple(listed))
