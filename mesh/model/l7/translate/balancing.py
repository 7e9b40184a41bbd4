"""Endpoints of one port of a service, or of a subset → groups by place and priority, as one proxy should use them.

    distribute        shares by locality: only the localities that are named get any
    failoverPriority  the more of the first labels an endpoint shares with the proxy, the sooner it is used
    locality          the same subzone, zone, region, then others; `failover` names the region that comes before the others

The last two take effect only where endpoints are left out for their errors (outlierDetection), since otherwise nothing would ever be passed
on; a Kubernetes Service's trafficDistribution is a failoverPriority that always does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mesh.model.l7.endpoints import NOWHERE, Assignment, Endpoint, EndpointHealth, HostPort, LocalityGroup, Tunnel
from mesh.model.l7.profile import NO_LABELS
from mesh.model.l7.translate.destination_rule import Effective
from mesh.model.manifest import selects
from mesh.model.manifest.istio.balancing import Distribute, Failover, LocalityLb
from mesh.model.workload import Health, Locality, SocketAddress, TunnelProtocol, Workload

NETWORK, CLUSTER = "topology.istio.io/network", "topology.istio.io/cluster"
REGION, ZONE, SUBZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"
NODE = "kubernetes.io/hostname"
DISTRIBUTIONS = {
    "PreferClose": (NETWORK, REGION, ZONE),
    "PreferSameZone": (NETWORK, REGION, ZONE),
    "PreferSameNode": (NETWORK, REGION, ZONE, SUBZONE, NODE),
}
WEIGHTS = 1000
"""Shares in percent are written times this, so that they can be split over localities."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A workload behind the service. `port` is its own; `labels` are its pod's or entry's. `tunnel`: how it is reached, where that is
    another way than its own.
    """

    workload: Workload
    port: int
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    tunnel: Tunnel | None = None


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """Where the proxy is."""

    locality: Locality = NOWHERE
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    network: str = ""
    cluster: str = ""
    node: str = ""


ANYWHERE = Viewpoint()


def depends_on_viewpoint(found: Effective, distribution: str) -> bool:
    """Whether proxies in different places get different answers. If not, any of them will do for all."""
    return bool(_labels(found, distribution) or _distribute(found) or _by_locality(found))


def assignment(
    cluster: str,
    candidates: Iterable[Candidate],
    found: Effective,
    viewpoint: Viewpoint = ANYWHERE,
    *,
    subset: Mapping[str, str] = NO_LABELS,
    distribution: str = "",
    unready: bool = False,
) -> Assignment:
    """`subset` are the labels that endpoints must have. `unready`: those that are not ready are used as well. In a stable order."""
    usable = sorted(
        (entry for entry in candidates if selects(subset, entry.labels) and (unready or entry.workload.health is Health.HEALTHY)),
        key=lambda entry: (entry.workload.uid, entry.port),
    )
    places: dict[tuple[int, Locality], list[Candidate]] = defaultdict(list)
    shares = _distribute(found)
    weights: Mapping[Locality, int] | None = None
    labels = _labels(found, distribution)
    if shares:
        weights = _weights(shares, viewpoint.locality, usable)
    for entry in usable:
        place = entry.workload.locality
        if weights is not None:
            if place in weights:
                places[0, place].append(entry)
        elif labels:
            places[_missed(labels, viewpoint, entry), place].append(entry)
        elif _by_locality(found):
            places[_distance(viewpoint.locality, place, _failover(found)), place].append(entry)
        else:
            places[0, place].append(entry)
    ranks = {priority: rank for rank, priority in enumerate(sorted({priority for priority, _ in places}))}
    groups = [
        LocalityGroup(
            tuple(made for made in map(endpoint, entries) if made is not None),
            place,
            ranks[priority],
            weights[place] if weights is not None else 0,
        )
        for (priority, place), entries in sorted(places.items(), key=_order)
    ]
    return Assignment(cluster, tuple(groups))


def _order(entry: tuple[tuple[int, Locality], object]) -> tuple[int, str, str, str]:
    (priority, place), _ = entry
    return (priority, place.region, place.zone, place.subzone)


def endpoint(entry: Candidate) -> Endpoint | None:
    """None for one that has neither an address nor a name."""
    workload = entry.workload
    address: SocketAddress | HostPort
    if workload.addresses:
        address = SocketAddress(workload.addresses[0], entry.port)
    elif workload.hostname:
        address = HostPort(workload.hostname, entry.port)
    else:
        return None
    own = Tunnel((str(workload.identity),)) if workload.protocol is TunnelProtocol.HBONE and workload.addresses else None
    return Endpoint(
        address,
        max(workload.capacity, 1),
        EndpointHealth.HEALTHY,
        entry.tunnel or own,
        described(workload),
    )


def described(workload: Workload) -> str:
    """Who a workload is to metrics, as Istio writes it."""
    return ";".join((workload.name, workload.namespace, workload.canonical_name, workload.canonical_revision, workload.cluster))


def _setting(found: Effective) -> LocalityLb | None:
    """None where localities are turned off, or nothing is said."""
    setting = found.load_balancer.locality_lb_setting if found.load_balancer is not None else None
    return setting if setting is not None and setting.enabled is not False else None


def _turned_off(found: Effective) -> bool:
    setting = found.load_balancer.locality_lb_setting if found.load_balancer is not None else None
    return setting is not None and setting.enabled is False


def _distribute(found: Effective) -> tuple[Distribute, ...]:
    setting = _setting(found)
    return setting.distribute if setting is not None else ()


def _failover(found: Effective) -> tuple[Failover, ...]:
    setting = _setting(found)
    return setting.failover if setting is not None else ()


def _labels(found: Effective, distribution: str) -> tuple[str, ...]:
    """What decides priorities, if labels do."""
    setting = _setting(found)
    if setting is not None and setting.failover_priority and found.outlier_detection is not None:
        return setting.failover_priority
    if _turned_off(found) or (setting is not None and (setting.distribute or setting.failover)):
        return ()
    return DISTRIBUTIONS.get(distribution, ())


def _by_locality(found: Effective) -> bool:
    return found.outlier_detection is not None and not _turned_off(found)


def _missed(labels: Sequence[str], viewpoint: Viewpoint, entry: Candidate) -> int:
    """How many labels are left when the first one differs."""
    own = _topology(viewpoint.labels, viewpoint.locality, viewpoint.network, viewpoint.cluster, viewpoint.node)
    workload = entry.workload
    theirs = _topology(entry.labels, workload.locality, workload.network, workload.cluster, workload.node)
    for index, label in enumerate(labels):
        key, given, value = label.partition("=")
        if theirs.get(key, "") != (value if given else own.get(key, "")):
            return len(labels) - index
    return 0


def _topology(labels: Mapping[str, str], place: Locality, network: str, cluster: str, node: str) -> dict[str, str]:
    topology = {REGION: place.region, ZONE: place.zone, SUBZONE: place.subzone, NETWORK: network, CLUSTER: cluster, NODE: node}
    return {**labels, **{key: value for key, value in topology.items() if value}}


def _distance(own: Locality, place: Locality, failovers: Sequence[Failover]) -> int:
    if place.region == own.region:
        if place.zone != own.zone:
            return 2
        return 0 if place.subzone == own.subzone else 1
    wanted = {entry.to for entry in failovers if entry.from_ == own.region}
    return 3 if not wanted or place.region in wanted else 4


def _weights(shares: Sequence[Distribute], own: Locality, usable: Sequence[Candidate]) -> Mapping[Locality, int] | None:
    """The weight of each locality that gets some; None where nothing is said of the proxy's own."""
    share = next((entry for entry in shares if _covers(entry.from_, own)), None)
    if share is None:
        return None
    sizes: dict[Locality, int] = defaultdict(int)
    for entry in usable:
        sizes[entry.workload.locality] += max(entry.workload.capacity, 1)
    found: dict[Locality, int] = {}
    for pattern, percent in sorted(share.to.items(), key=lambda item: (-_precision(item[0]), item[0])):
        members = [place for place in sizes if place not in found and _covers(pattern, place)]
        total = sum(sizes[place] for place in members)
        for place in members:
            found[place] = max(1, round(percent * WEIGHTS * sizes[place] / total))
    return found


def _covers(pattern: str, place: Locality) -> bool:
    """`*`, `region/*`, `region/zone` and so on; what a pattern leaves out may be anything."""
    parts = (place.region, place.zone, place.subzone)
    return all(wanted in ("*", part) for wanted, part in zip(pattern.split("/"), parts, strict=False))


def _precision(pattern: str) -> int:
    return sum(part != "*" for part in pattern.split("/"))
