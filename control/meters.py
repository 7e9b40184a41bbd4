"""What sources, callers and what is written to a cluster count: their meters, on the control plane's registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from control.exposition import IstioCounter


class KubernetesMeter:
    """Of the Kubernetes source, under Istio's names where it has one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._core = IstioCounter("pilot_k8s_reg_events", "Events of core kinds", ["type", "event"], registry=registry)
        self._ours = IstioCounter("pilot_k8s_cfg_events", "Events of configuration", ["type", "event"], registry=registry)
        self._lists = Counter("culvert_kubernetes_lists", "Kinds listed whole, and why", ["type", "reason"], registry=registry)
        self._failures = Counter("culvert_kubernetes_failures", "Lists and watches that failed", ["type", "reason"], registry=registry)
        self._stale = Counter("culvert_kubernetes_stale_answers", "Answers older than what was known", ["type"], registry=registry)

    def event(self, core: bool, kind: str, event: str) -> None:
        (self._core if core else self._ours).labels(kind, event).inc()

    def listed(self, kind: str, reason: str) -> None:
        self._lists.labels(kind, reason).inc()

    def failed(self, kind: str, reason: str) -> None:
        self._failures.labels(kind, reason).inc()

    def stale(self, kind: str) -> None:
        self._stale.labels(kind).inc()


class StatusMeter:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._written = Counter("culvert_status_writes", "Statuses written", ["kind"], registry=registry)
        self._failed = Counter("culvert_status_failures", "Statuses that could not be written", ["kind", "reason"], registry=registry)
        self._waiting = Gauge("culvert_status_waiting", "Objects whose status is to be looked at", registry=registry)

    def wrote(self, kind: str) -> None:
        self._written.labels(kind).inc()

    def failed(self, kind: str, reason: str) -> None:
        self._failed.labels(kind, reason).inc()

    def waiting(self, objects: int) -> None:
        self._waiting.set(objects)


class EventMeter:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._said = Counter("culvert_events", "Events written", ["reason"], registry=registry)
        self._dropped = Counter("culvert_events_dropped", "Events that were not written", ["why"], registry=registry)

    def said(self, reason: str) -> None:
        self._said.labels(reason).inc()

    def dropped(self, why: str) -> None:
        self._dropped.labels(why).inc()


class ReviewMeter:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._reviews = Counter("culvert_token_reviews", "Tokens of callers, by what came of them", ["result"], registry=registry)
        self._reviews.labels("turned_away")
        self._asking = Gauge("culvert_token_reviews_waiting", "Tokens about which the API server is asked, or is to be", registry=registry)

    def reviewed(self, result: str) -> None:
        self._reviews.labels(result).inc()

    def asking(self, tokens: int) -> None:
        self._asking.set(tokens)


class ValidationMeter:
    """Of admission, under Istio's names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._passed = IstioCounter("galley_validation_passed", "Objects that admission let through", ["kind"], registry=registry)
        self._failed = IstioCounter("galley_validation_failed", "Objects that admission refused", ["kind"], registry=registry)

    def validated(self, kind: str, passed: bool) -> None:
        (self._passed if passed else self._failed).labels(kind).inc()


class KeepMeter:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = Counter("culvert_kept_rows", "Changes of sources written to disk", registry=registry)
        self._failures = Counter("culvert_keep_failures", "Writes to disk that failed", registry=registry)
        self._waiting = Gauge("culvert_keep_waiting", "Changes of sources that are not on disk yet", registry=registry)
        self._damaged = Counter("culvert_keep_damaged", "Times that the file was found damaged, and begun anew", registry=registry)
        self._refilled = Counter("culvert_keep_refilled", "Sources that were written whole after that", registry=registry)

    def wrote(self, rows: int) -> None:
        self._rows.inc(rows)

    def failed(self) -> None:
        self._failures.inc()

    def waiting(self, rows: int) -> None:
        self._waiting.set(rows)

    def damaged(self) -> None:
        self._damaged.inc()

    def refilled(self) -> None:
        self._refilled.inc()


class ConsulMeter:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter("culvert_consul_answers", "Answers of Consul", ["question"], registry=registry)
        self._failures = Counter(
            "culvert_consul_failures", "Questions that Consul did not answer", ["question", "reason"], registry=registry
        )
        self._changes = Counter("culvert_consul_changes", "Services handed over or removed", ["change"], registry=registry)
        self._set_backs = Counter("culvert_consul_set_backs", "How often Consul's history went backwards", registry=registry)
        self._services = Gauge(
            "culvert_consul_services", "Services of Consul, and those whose instances are hidden", ["which"], registry=registry
        )

    def answered(self, question: str) -> None:
        self._answers.labels(question).inc()

    def failed(self, question: str, reason: str) -> None:
        self._failures.labels(question, reason).inc()

    def handed_over(self, refused: bool) -> None:
        self._changes.labels("refused" if refused else "accepted").inc()

    def removed(self) -> None:
        self._changes.labels("removed").inc()

    def set_back(self) -> None:
        self._set_backs.inc()

    def services(self, known: int, hidden: int) -> None:
        self._services.labels("known").set(known)
        self._services.labels("hidden").set(hidden)


class ViewMeter:
    """Of what proxies are served: views, and the names in them that gRPC clients asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._views = Gauge("culvert_xds_views", "Views that are worked out for proxies", registry=registry)
        self._ended = Counter("culvert_xds_views_ended", "Views that are worked out no more", ["why"], registry=registry)
        for why in ("idle", "room"):
            self._ended.labels(why)
        self._dropped = Counter("culvert_xds_names_dropped", "Names that made room for others in a full view", registry=registry)

    def views(self, count: int) -> None:
        self._views.set(count)

    def ended(self, why: str) -> None:
        self._ended.labels(why).inc()

    def dropped(self) -> None:
        self._dropped.inc()
