"""What the control plane counts, under Istio's names where Istio has one."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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
        self.pushes = Counter("pilot_xds_pushes", "Responses sent, by type", ["type"], registry=self.registry)
        self.rejects = Counter("pilot_total_xds_rejects", "Responses that a client rejected, by type", ["type"], registry=self.registry)
        self.refused_clients = Counter("pilot_xds_auth_failures", "xDS streams refused for want of a token", registry=self.registry)
        self.refused_objects = Gauge("culvert_refused_objects", "Objects of the sources refused now", ["kind"], registry=self.registry)
        self.unenforceable = Gauge("culvert_unenforceable_policies", "Policies that deny what they cover", registry=self.registry)
        self.services = Gauge("pilot_services", "Services known", registry=self.registry)
        self.workloads = Gauge("culvert_workloads", "Workloads known", registry=self.registry)
        self.policies = Gauge("culvert_policies", "L4 policies served", registry=self.registry)
        self.snapshot = Gauge("culvert_snapshot", "Number of the snapshot that is served", registry=self.registry)
        self.resolve_seconds = Histogram("culvert_resolve_seconds", "From reading the sources to a new snapshot", registry=self.registry)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
