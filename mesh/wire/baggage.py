"""The `baggage` field of HBONE: the labels that a tunnel gives of its own side's workload (W3C Baggage, Istio's keys).

Telemetry labels and nothing else: any holder of a certificate can write what it likes here, so no decision may read it.

    k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart,service.version=v1,cloud.region=eu,…

Values are not unescaped on reading, as in Istio: a label then cannot smuggle in what the field itself could not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from mesh.model.workload import Workload, WorkloadType

MAX_VALUE = 253
"""Longer values count as absent: a metric label is kept for as long as the process lives. Kubernetes' longest name fits."""

MAX_FIELD = 8192
"""A longer field, all lines together, counts as absent."""

_SAFE = "!#$&'()*+-./:<>?@[]^_`{|}~"
_TYPES = {f"k8s.{kind.value}.name": kind for kind in WorkloadType}
_KEYS = {
    "k8s.cluster.name": "cluster",
    "k8s.namespace.name": "namespace",
    "service.name": "service",
    "service.version": "revision",
    "cloud.region": "region",
    "cloud.availability_zone": "zone",
}


@dataclass(frozen=True, slots=True)
class Baggage:
    """What one end says of its workload; "" where it says nothing."""

    cluster: str = ""
    namespace: str = ""
    workload_type: WorkloadType | None = None
    workload_name: str = ""
    service: str = ""
    revision: str = ""
    region: str = ""
    zone: str = ""

    def encode(self) -> str:
        """The field's value, in Istio's order, without what is empty."""
        kind = self.workload_type or WorkloadType.POD
        pairs = (
            ("k8s.cluster.name", self.cluster),
            ("k8s.namespace.name", self.namespace),
            (f"k8s.{kind.value}.name", self.workload_name),
            ("service.name", self.service),
            ("service.version", self.revision),
            ("cloud.region", self.region),
            ("cloud.availability_zone", self.zone),
        )
        return ",".join(f"{key}={quote(value, safe=_SAFE)}" for key, value in pairs if value)


def baggage_of(workload: Workload) -> Baggage:
    """What we say of a workload of ours."""
    return Baggage(
        cluster=workload.cluster,
        namespace=workload.namespace,
        workload_type=workload.workload_type,
        workload_name=workload.workload_name,
        service=workload.canonical_name,
        revision=workload.canonical_revision,
        region=workload.locality.region,
        zone=workload.locality.zone,
    )


def parse_baggage(lines: Sequence[bytes]) -> Baggage | None:
    """The known labels of all lines of the field, or None if there is no field. A later value replaces an earlier one."""
    if not lines:
        return None
    return _parse(b",".join(lines)) if sum(map(len, lines)) <= MAX_FIELD else Baggage()


@lru_cache(maxsize=256)
def _parse(field: bytes) -> Baggage:
    found: dict[str, str] = {}
    kind: WorkloadType | None = None
    for member in field.decode("ascii", "replace").split(","):
        key, equals, value = member.partition("=")
        # Properties (`;ttl=1`) are allowed behind a value and mean nothing to us.
        key, value = key.strip(), value.partition(";")[0].strip()
        if not equals or not value or len(value) > MAX_VALUE:
            continue
        if (name := _KEYS.get(key)) is not None:
            found[name] = value
        elif (named := _TYPES.get(key)) is not None:
            kind = named
            found["workload_name"] = value
    return Baggage(workload_type=kind, **found)
