"""What the proxies of a view listen for: which services, and whose each address and each name is.

An address, or a name, that several services have is one service's, always: the one's that a plain client would reach. For addresses that
is as nodes' tunnels decide (`mesh.model.state.MeshState.service_at`), for names as a cluster's DNS does. Else whoever may write a
ServiceEntry would take others' traffic, and lead it around waypoints.

    ports_of(view) = the ports of all its services
    listeners(view) = what an Envoy beside a client listens on, by listener
    closed_networks = what a tunnel of its own must not pass on as it is
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network
from types import MappingProxyType
from typing import NamedTuple

from control.resolve.engine import Group, Read, query
from control.resolve.l7.lookup import find_service, mesh_service
from control.resolve.l7.ports import Port, chain, routes_of
from control.resolve.l7.views import View
from control.resolve.services import declared, services
from control.resolve.tables import SETTINGS
from mesh.model.codec.envoy import client
from mesh.model.l7.names import cluster_name
from mesh.model.l7.profile import Kind
from mesh.model.l7.routes import VirtualHost
from mesh.model.manifest import Key
from mesh.model.workload import IPAddress, IPNetwork, NamespacedHostname, Service


def _waypoint_of(_: NamespacedHostname, found: tuple[Service, ...]) -> Iterable[NamespacedHostname]:
    for service in found:
        if service.waypoint is not None and isinstance(service.waypoint.destination, NamespacedHostname):
            yield service.waypoint.destination


ATTACHED: Group[NamespacedHostname, tuple[Service, ...], NamespacedHostname] = Group("services by waypoint", services, _waypoint_of)
EVERY: Group[Key, tuple[NamespacedHostname, ...], None] = Group("everything declared", declared, lambda _, names: [None] if names else [])
WITH_WAYPOINT: Group[NamespacedHostname, tuple[Service, ...], None] = Group(
    "services with a waypoint", services, lambda _, found: [None] if any(service.waypoint is not None for service in found) else []
)


@query(72)
def ports_of(read: Read, view: View) -> tuple[Port, ...]:
    if view.kind is Kind.WAYPOINT:
        domain = read(SETTINGS, None).cluster_domain
        names = sorted(read(ATTACHED, NamespacedHostname(view.namespace, f"{view.gateway}.{view.namespace}.svc.{domain}")))
    else:
        hosts = sorted({name.hostname for key in read(EVERY, None) for name in read(declared, key)})
        names = [name for name in (read(find_service, (view, host)) for host in hosts) if name is not None]
    found = []
    for name in names:
        mesh = read(mesh_service, name)
        if mesh is not None:
            found += [Port(view, name, port.port) for port in mesh.service.ports]
    return tuple(found)


def _canonical(read: Read, name: NamespacedHostname) -> bool:
    mesh = read(mesh_service, name)
    return mesh is not None and mesh.service.canonical


# Addresses.


def _distance(read: Read, view: View, name: NamespacedHostname) -> tuple[bool, bool, NamespacedHostname]:
    return (name.namespace != view.namespace, not _canonical(read, name), name)


@query(73)
def owners(read: Read, view: View) -> Mapping[IPAddress, NamespacedHostname]:
    """The service that has each address: the client's own namespace's first, then Kubernetes' own, then by name."""
    found: dict[IPAddress, NamespacedHostname] = {}
    names = {port.service for port in read(ports_of, view)}
    for name in sorted(names, key=lambda name: _distance(read, view, name)):
        mesh = read(mesh_service, name)
        for vip in mesh.service.vips if mesh is not None else ():
            found.setdefault(vip.ip, name)
    return MappingProxyType(found)


class Listened(NamedTuple):
    """One port at a service's own addresses, or several ports at the networks that their services have; then without addresses."""

    ports: tuple[Port, ...]
    addresses: tuple[IPAddress, ...] = ()


@query(74)
def listeners(read: Read, view: View) -> Mapping[str, Listened]:
    """What an Envoy beside a client listens with, by the listener's name: for each service's addresses, and for the networks of a port."""
    found: dict[str, Listened] = {}
    owned = read(owners, view)
    for port in sorted(read(ports_of, view), key=lambda port: _distance(read, view, port.service)):
        made = read(chain, port)
        if made is None:
            continue
        own = tuple(address for address in made.addresses if owned.get(address) == port.service)
        if own:
            found[client.listener_name(replace(made, addresses=own))] = Listened((port,), own)
        if made.networks:
            name = f"{client.ANYWHERE}_{port.number}"
            before = found[name].ports if name in found else ()
            found[name] = Listened((*before, port))
    return MappingProxyType(found)


@query(74)
def closed_networks(read: Read, _: None) -> tuple[IPNetwork, ...]:
    """The addresses of everything with a waypoint, whether the view may see it or not. An Envoy that tunnels has nobody behind it who would
    take what it has no listener for to the waypoint.
    """
    found: set[IPNetwork] = set()
    for name in read(WITH_WAYPOINT, None):
        for service in read(services, name):
            if service.waypoint is not None:
                found |= {ip_network(vip.ip) for vip in service.vips} | {network for _, network in service.vip_networks}
    return tuple(sorted(found, key=lambda network: (network.version, network)))


# Names.


def virtual_hosts(read: Read, view: View) -> Iterator[tuple[VirtualHost, str]]:
    """Every service's, by its names, and with its own cluster."""
    taken: set[str] = set()
    domain = read(SETTINGS, None).cluster_domain
    owned = read(owners, view)
    for port in sorted(read(ports_of, view), key=lambda port: (not _canonical(read, port.service), _distance(read, view, port.service))):
        made = read(routes_of, port)
        mesh = read(mesh_service, port.service)
        if made is None or made.value.table is None or mesh is None:
            continue
        addresses = [vip.ip for vip in mesh.service.vips if owned.get(vip.ip) == port.service]
        names = client.domains(port.service.hostname, port.service.namespace, port.number, addresses, domain)
        free = tuple(name for name in names if name not in taken)
        taken.update(free)
        if free:
            for host in made.value.table.hosts:
                own = cluster_name(port.service.hostname, port.number)
                yield replace(host, name=f"{host.name}:{port.number}", domains=free), own


def named(read: Read, view: View, host: str) -> NamespacedHostname | None:
    """The service that a client calls so: by its full name, or a Service's shorter ones as in DNS, which knows Services first."""
    domain = read(SETTINGS, None).cluster_domain
    names = (host, f"{host}.{view.namespace}.svc.{domain}", f"{host}.svc.{domain}", f"{host}.{domain}")
    found = [name for name in (read(find_service, (view, full)) for full in names) if name is not None]
    return next((name for name in found if _canonical(read, name)), found[0] if found else None)
