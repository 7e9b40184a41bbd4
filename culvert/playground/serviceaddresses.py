"""Which service has which address, kept over restarts. Pure: the caller loads and saves `hosts`."""

from __future__ import annotations

from collections.abc import Iterable

from culvert.playground.addresses import AddressesExhausted, service_host, service_host_of
from culvert.playground.services import ServiceSpec


class ServiceAddresses:
    """`hosts` maps `<namespace>/<name>` to a host number, the same in both families."""

    def __init__(self, hosts: dict[str, int]) -> None:
        self.hosts = dict(hosts)

    def keep(self, keys: Iterable[str]) -> None:
        """Forget the services that are not among `keys`."""
        wanted = set(keys)
        self.hosts = {key: host for key, host in self.hosts.items() if key in wanted}

    def host_for(self, service: ServiceSpec) -> tuple[int | None, str]:
        """The service's host number, and a problem for people where it could not be had."""
        key = service.key
        if service.requested:
            wanted = service_host_of(service.requested)
            holder = next((other for other, host in self.hosts.items() if host == wanted and other != key), None)
            if wanted is None or holder:
                return None, f"clusterIP {service.requested} belongs to service {holder}; choose another or leave it out"
            self.hosts[key] = wanted
            return wanted, ""
        if key not in self.hosts:
            try:
                self.hosts[key] = service_host(key, set(self.hosts.values()))
            except AddressesExhausted as error:
                return None, str(error)
        return self.hosts[key], ""
