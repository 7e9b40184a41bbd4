"""What the tunnel counts, under Istio's names and labels, and the page on which Prometheus reads it.

Written by hand, since the client library costs 5 MB of memory and a lock per increment: a `Series` is plain numbers, found once per
connection, and the text is made when somebody asks. Per connection there are five counters for one set of labels. In these
"received" is what the client sent, "sent" what the server did, whoever reports (Istio's convention). Bytes of running connections
are taken in at each scrape.

Label sets are bounded (`MAX_SERIES`); what comes beyond is counted under `unknown` in every label but the reporter's own.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mesh.model.reasons import Reason
from mesh.model.workload import Workload
from mesh.wire.baggage import Baggage

if TYPE_CHECKING:
    from ztunnel.connections import Connection

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 50_000
UNKNOWN = "unknown"

_SIDE = ("workload", "canonical_service", "canonical_revision", "workload_namespace", "principal", "app", "version", "cluster")
LABELS = (
    "reporter",
    *(f"source_{name}" for name in _SIDE),
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    *(f"destination_{name}" for name in _SIDE),
    "request_protocol",
    "response_flags",
    "connection_security_policy",
)
_COUNTERS = (
    ("opened", "istio_tcp_connections_opened_total", "Connections opened"),
    ("closed", "istio_tcp_connections_closed_total", "Connections closed"),
    ("failed", "istio_tcp_connections_failed_total", "Connections that ended with an error"),
    ("received", "istio_tcp_received_bytes_total", "Bytes that clients sent"),
    ("sent", "istio_tcp_sent_bytes_total", "Bytes that servers sent"),
)
Side = tuple[str, ...]
_NOBODY: Side = (UNKNOWN,) * len(_SIDE)


class Series:
    """The counters of one set of labels."""

    __slots__ = ("closed", "failed", "labels", "opened", "received", "sent")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.opened = self.closed = self.failed = 0
        self.received = self.sent = 0


class Counter:
    """A named number for each value of some labels."""

    def __init__(self, name: str, text: str, *labels: str, kind: str = "counter") -> None:
        self.name, self.text, self.kind, self.labels = name, text, kind, labels
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def add(self, *values: str, by: float = 1) -> None:
        self.values[values] = self.values.get(values, 0) + by

    def set(self, value: float, *values: str) -> None:
        self.values[values] = value

    def get(self, *values: str) -> float:
        return self.values.get(values, 0)


class Metrics:
    """Everything that is counted. `live` gives the running connections, whose bytes are taken in before the page is made."""

    def __init__(self, version: str, live: Callable[[], Iterable[Connection]] = lambda: ()) -> None:
        self.live = live
        self._series: dict[tuple[str, ...], Series] = {}
        self._open = {"source": 0, "destination": 0}
        gauge = "gauge"
        self.build = Counter("istio_build", "Version of this component", "component", "tag", kind=gauge)
        self.build.set(1, "ztunnel", version)
        self.refusals = Counter("culvert_refused_total", "Connections that never came to be, by reason", "reason", "direction")
        self.ends = Counter("culvert_ended_total", "Connections that came to be and did not end in order", "reason", "direction")
        self.xds_ends = Counter("istio_xds_connection_terminations_total", "Ends of the xDS stream", "reason")
        self.xds_messages = Counter("istio_xds_message_total", "xDS responses", "url")
        self.xds_bytes = Counter("istio_xds_message_bytes_total", "Bytes of xDS responses", "url")
        self.xds_rejected = Counter("culvert_xds_rejected_total", "xDS resources that were refused", "url")
        self.xds_connected = Counter("culvert_xds_connected", "1 while the control plane is connected", kind=gauge)
        self.ca_followed = Counter("culvert_ca_followed", "1 while the CA tells when to renew", kind=gauge)
        self.zds_connected = Counter("culvert_zds_connected", "1 while the node agent is connected", kind=gauge)
        self.pods_active = Counter("workload_manager_active_proxy_count", "Pods that are served", kind=gauge)
        self.pods_pending = Counter("workload_manager_pending_proxy_count", "Pods that cannot be served yet", kind=gauge)
        self.pods_started = Counter("workload_manager_proxies_started_total", "Pods that began to be served")
        self.pods_stopped = Counter("workload_manager_proxies_stopped_total", "Pods that ceased to be served")
        self.certificates = Counter("culvert_certificates", "Certificates, by state", "state", kind=gauge)
        self.tunnels = Counter("culvert_tunnels", "HBONE connections", "direction", kind=gauge)
        self.log_dropped = Counter("culvert_log_lines_dropped_total", "Log lines that a slow reader cost")
        self.before_page: list[Callable[[], None]] = []

    def counters(self) -> list[Counter]:
        return [value for value in vars(self).values() if isinstance(value, Counter)]

    # Connections

    def opened(self, connection: Connection) -> None:
        self._open["destination" if connection.inbound else "source"] += 1
        series = connection.series = self._find(connection, "-")
        connection.opened_as = (connection.source_identity, connection.destination_identity)
        series.opened += 1

    def closed(self, connection: Connection, reason: Reason) -> None:
        self._open["destination" if connection.inbound else "source"] -= 1
        self._take(connection)
        # Who it was may have become known since it opened: the peer's identity, and how it ended.
        series = connection.series
        if series is None or reason.flag != "-" or connection.opened_as != (connection.source_identity, connection.destination_identity):
            series = self._find(connection, reason.flag)
        series.closed += 1
        if reason is not Reason.OK:
            series.failed += 1
            direction = "inbound" if connection.inbound else "outbound"
            (self.ends if connection.established else self.refusals).add(reason.word, direction)

    def refused(self, inbound: bool, reason: Reason) -> None:
        self.refusals.add(reason.word, "inbound" if inbound else "outbound")

    def _take(self, connection: Connection) -> None:
        """Move the bytes that are new since the last time into the metrics."""
        sent, received = connection.sent - connection.taken_sent, connection.received - connection.taken_received
        if connection.series is None or not (sent or received):
            return
        connection.taken_sent, connection.taken_received = connection.sent, connection.received
        by_client, by_server = (sent, received) if connection.client_sends else (received, sent)
        connection.series.received += by_client
        connection.series.sent += by_server

    def _find(self, connection: Connection, flag: str) -> Series:
        c = connection
        service = c.service
        labels = (
            "destination" if c.inbound else "source",
            *_side(c.source_workload, c.source_identity, c.claimed if c.inbound else None),
            *((service.hostname, service.namespace, service.name) if service else (UNKNOWN, UNKNOWN, UNKNOWN)),
            *_side(c.destination_workload, c.destination_identity, None if c.inbound else c.claimed),
            "tcp",
            flag,
            "mutual_tls" if c.mutual_tls else UNKNOWN,
        )
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= MAX_SERIES:
                labels = (labels[0], *_NOBODY, UNKNOWN, UNKNOWN, UNKNOWN, *_NOBODY, *labels[-3:])
                series = self._series.get(labels)
            if series is None:
                series = self._series[labels] = Series(labels)
        return series

    # The page

    def page(self) -> bytes:
        for prepare in self.before_page:
            prepare()
        for connection in self.live():
            self._take(connection)
        lines: list[str] = []
        for attribute, name, text in _COUNTERS:
            lines += (f"# HELP {name} {text}.", f"# TYPE {name} counter")
            for series in self._series.values():
                value = getattr(series, attribute)
                if value:
                    lines.append(f"{name}{_labels(LABELS, series.labels)} {value}")
        lines += ("# HELP istio_tcp_sockets_open Connections that are open now.", "# TYPE istio_tcp_sockets_open gauge")
        lines += [f'istio_tcp_sockets_open{{reporter="{reporter}"}} {count}' for reporter, count in self._open.items()]
        for counter in self.counters():
            lines += (f"# HELP {counter.name} {counter.text}.", f"# TYPE {counter.name} {counter.kind}")
            lines += [f"{counter.name}{_labels(counter.labels, values)} {_number(value)}" for values, value in counter.values.items()]
        for name, kind, text, number in _process():
            lines += (f"# HELP {name} {text}.", f"# TYPE {name} {kind}", f"{name} {_number(number)}")
        return ("\n".join(lines) + "\n").encode()


def _side(workload: Workload | None, identity: object, claimed: Baggage | None) -> Side:
    principal = str(identity) if identity is not None else UNKNOWN
    if workload is not None:
        name, revision = workload.canonical_name or UNKNOWN, workload.canonical_revision or UNKNOWN
        kind, namespace, cluster = workload.workload_name or UNKNOWN, workload.namespace or UNKNOWN, workload.cluster or UNKNOWN
        return (kind, name, revision, namespace, principal, name, revision, cluster)
    if claimed is not None:
        name, revision = claimed.service or UNKNOWN, claimed.revision or UNKNOWN
        kind, namespace, cluster = claimed.workload_name or UNKNOWN, claimed.namespace or UNKNOWN, claimed.cluster or UNKNOWN
        return (kind, name, revision, namespace, principal, name, revision, cluster)
    return _NOBODY if identity is None else (*_NOBODY[:4], principal, *_NOBODY[5:])


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    pairs = zip(names, values, strict=True)
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}"


def _escaped(value: str) -> str:
    if "\\" not in value and '"' not in value and "\n" not in value:
        return value
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _process() -> list[tuple[str, str, str, float]]:
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    times = resource.getrusage(resource.RUSAGE_SELF)
    return [
        ("process_open_fds", "gauge", "Open file descriptors", len(os.listdir("/proc/self/fd")) - 1),
        ("process_max_fds", "gauge", "Bound of open file descriptors", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ("process_resident_memory_bytes", "gauge", "Resident memory", resident),
        ("process_cpu_seconds_total", "counter", "CPU time", round(times.ru_utime + times.ru_stime, 2)),
    ]
