"""What the control plane counts, under Istio's names where Istio has one."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from control.exposition import IstioCounter, exposition

# Istio's words for types, in its metrics.
SHORT = {"Cluster": "cds", "ClusterLoadAssignment": "eds", "Listener": "lds", "RouteConfiguration": "rds", "Secret": "sds"}
REJECTS = {name: word for name, word in SHORT.items() if word != "sds"}
CONFIG_SIZES = (1, 10_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000)
CUT_OFF = ("protocol", "unanswered", "callers", "too_many", "caller_streams", "views", "caller_views", "names")
TIMES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 5, 10, 20, 30)


def build_tag() -> str:
    try:
        return version("culvert-mesh")
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """One registry; each attribute is one family."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge("istio_build", "Component and version", ["component", "tag"], registry=self.registry)
        build.labels("pilot", build_tag()).set(1)
        self.clients = Gauge("pilot_xds", "Connected xDS clients", registry=self.registry)
        self.behind = Gauge("culvert_xds_clients_behind", "Clients that have yet to note what was published", registry=self.registry)
        self.pushes = IstioCounter("pilot_xds_pushes", "Responses sent, by type", ["type"], registry=self.registry)
        self.push_time = Histogram(
            "pilot_xds_push_time", "Seconds from composing a response to having sent it", ["type"], registry=self.registry
        )
        self.push_size = Histogram(
            "pilot_xds_config_size_bytes", "Sizes of responses", ["type"], buckets=CONFIG_SIZES, registry=self.registry
        )
        self.convergence = Histogram(
            "pilot_proxy_convergence_time",
            "Seconds from having sent a response to its acknowledgement",
            buckets=TIMES,
            registry=self.registry,
        )
        self.rejects = IstioCounter(
            "pilot_total_xds_rejects", "Responses that a client rejected, by type", ["type"], registry=self.registry
        )
        self.rejects_of = {
            name: IstioCounter(f"pilot_xds_{word}_reject", f"Rejected {name} responses", registry=self.registry)
            for name, word in REJECTS.items()
        }
        self.internal_errors = IstioCounter(
            "pilot_total_xds_internal_errors", "Resources that could not be made: our bugs", registry=self.registry
        )
        self.triggers = IstioCounter("pilot_push_triggers", "Changes that led to a push, by source", ["type"], registry=self.registry)
        self.debounce = Histogram("pilot_debounce_time", "Seconds from a change to its resolution", buckets=TIMES, registry=self.registry)
        self.refused_clients = Counter("culvert_xds_auth_failures", "xDS streams refused for want of a token", registry=self.registry)
        self.cut_off = Counter("culvert_xds_cut_off", "xDS streams that we ended, by reason", ["reason"], registry=self.registry)
        for reason in CUT_OFF:
            self.cut_off.labels(reason)
        self.refused_objects = Gauge("culvert_refused_objects", "Objects of the sources refused now", ["kind"], registry=self.registry)
        self.held_objects = Gauge(
            "culvert_held_objects", "Objects that stay in force for documents that cannot be told to be any", registry=self.registry
        )
        self.unenforceable = Gauge("culvert_unenforceable_policies", "Policies that deny what they cover", registry=self.registry)
        self.services = Gauge("pilot_services", "Services known", registry=self.registry)
        self.workloads = Gauge("culvert_workloads", "Workloads known", registry=self.registry)
        self.policies = Gauge("culvert_policies", "L4 policies served", registry=self.registry)
        self.snapshot = Gauge("culvert_snapshot", "Number of the snapshot that is served", registry=self.registry)
        self.resolve_seconds = Histogram("culvert_resolve_seconds", "From reading the sources to a new snapshot", registry=self.registry)

    def push(self, type_url: str, size: int, seconds: float) -> None:
        """A response of `size` bytes was sent."""
        name = type_url.rpartition(".")[2]
        self.pushes.labels(SHORT.get(name, name)).inc()
        self.push_size.labels(SHORT.get(name, name)).observe(size)
        self.push_time.labels(SHORT.get(name, name)).observe(seconds)

    def reject(self, type_url: str) -> None:
        name = type_url.rpartition(".")[2]
        self.rejects.labels(SHORT.get(name, name)).inc()
        if name in self.rejects_of:
            self.rejects_of[name].inc()

    def exposition(self) -> bytes:
        return exposition(self.registry)
