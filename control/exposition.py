"""How the control plane's metrics are written: the text format of Prometheus 0.0.4, in which a counter has any name.

Istio's counters are called `pilot_xds_pushes`, not `pilot_xds_pushes_total`, and dashboards and alerts ask for them so. `prometheus_client`
has OpenMetrics' rule that every counter ends in `_total`, and says of each series when it was made. `IstioCounter` is a counter under its
own name; in OpenMetrics it could only be of unknown type. So the text format alone is served, which every Prometheus takes, whatever it
would rather have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ExactFamily(Metric):
    """A counter whose samples are called as it is."""


class IstioCounter(Counter):
    """A counter that is called what Istio calls it, which is not `_total` at the end."""

    def collect(self) -> Iterable[Metric]:
        for family in super().collect():
            exact = ExactFamily(family.name, family.documentation, "unknown")
            exact.samples = [sample._replace(name=family.name) for sample in family.samples if sample.name == f"{family.name}_total"]
            yield exact


class _Families:
    """What `generate_latest` asks of a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def exposition(registry: CollectorRegistry) -> bytes:
    """Everything in the registry, without the times at which series were made."""
    families = list(registry.collect())
    for family in families:
        family.samples = [sample for sample in family.samples if sample.name != f"{family.name}_created"]
    page = generate_latest(_Families(families))
    for family in families:
        if isinstance(family, ExactFamily):
            page = page.replace(f"# TYPE {family.name} untyped\n".encode(), f"# TYPE {family.name} counter\n".encode(), 1)
    return page
