"""The agent's metrics. Names that Istio's node agent has are kept; the kernel programs' counters are read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent.member import Member
from agent.tunnels import Tunnels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry per process, no globals. `kernel` reads the counters of the programs; `members` are looked at when asked."""

    def __init__(self, kernel: Callable[[], Mapping[str, int]], members: Mapping[str, Member], tunnels: Tunnels) -> None:
        self._kernel = kernel
        self._members = members
        self._tunnels = tunnels
        self.registry = CollectorRegistry()
        self._reconciled = Counter(
            "nodeagent_reconcile_events", "What came of reconciling pods with the mesh.", ["type"], registry=self.registry
        )
        for kind in ("enrolled", "left", "failed", "stale_removed"):
            self._reconciled.labels(kind)
        self.registry.register(self)

    def count(self, kind: str) -> None:
        self._reconciled.labels(kind).inc()

    def collect(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "culvert_kernel_events", "Connections that the kernel programs handled, by outcome.", labels=["reason"]
        )
        for reason, value in self._kernel().items():
            events.add_metric([reason], value)
        yield events
        connected = len(self._tunnels.connected)
        yield GaugeMetricFamily("ztunnel_connected", "Node tunnels connected to the ZDS socket.", value=connected)
        pods = GaugeMetricFamily("culvert_pods", "Pods of this node by state of their enrolment.", labels=["state"])
        states = [member.state.partition(":")[0] for member in list(self._members.values())]
        for state in ("enabled", "pending", "leaving"):
            pods.add_metric([state], states.count(state))
        yield pods

    def describe(self) -> list[Metric]:
        """Nothing: describing would mean to read the kernel at registration."""
        return []

    def text(self) -> bytes:
        return generate_latest(self.registry)
