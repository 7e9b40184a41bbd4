"""What the tunnel says of itself: the admin port (15000, loopback), the metrics page (15020) and readiness (15021).

`/config_dump` has the keys and forms of Istio's tunnel, so that `istioctl ztunnel-config` reads it; what Istio does not know is beside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from mesh.io.http import HTML, Request, Response, Routes, json_response, text
from mesh.io.log import Levels
from ztunnel.deps import Deps
from ztunnel.dump import (
    certificate_json,
    connection_json,
    endpoints_by_service,
    policy_json,
    service_json,
    staged_services,
    workload_json,
)
from ztunnel.metrics import CONTENT_TYPE, Metrics
from ztunnel.pods import Pods

_PAGES = (
    ("GET", "/config_dump", "all that this tunnel knows, as JSON"),
    ("GET", "/connections", "the running connections, as JSON"),
    ("GET", "/pool", "the tunnels to other pods, in one line"),
    ("POST", "/logging", "show the log levels; ?level=debug or ?level=xds=debug,access=off to set, ?reset to restore"),
    ("POST", "/quitquitquit", "drain and stop"),
)


class Admin:
    """Builds the routes of the three ports from what there is to show."""

    def __init__(
        self,
        deps: Deps,
        pods: Pods,
        metrics: Metrics,
        levels: Levels,
        version: str,
        pending: Callable[[], list[str]],
        stop: Callable[[], None],
    ) -> None:
        self._deps = deps
        self._pods = pods
        self._metrics = metrics
        self._levels = levels
        self._version = version
        self._pending = pending
        self._stop = stop

    def admin_routes(self) -> Routes:
        return {
            ("GET", "/"): self._index,
            ("GET", "/config_dump"): self._config_dump,
            ("GET", "/connections"): lambda request: json_response([connection_json(each) for each in self._deps.registry]),
            ("GET", "/pool"): lambda request: text(f"{self._deps.pool!r}\n"),
            ("POST", "/logging"): self._logging,
            ("POST", "/quitquitquit"): self._quit,
        }

    def metrics_routes(self) -> Routes:
        return {("GET", "/metrics"): self._page, ("GET", "/stats/prometheus"): self._page}

    def readiness_routes(self) -> Routes:
        return {("GET", "/healthz/ready"): self._ready}

    def _index(self, request: Request) -> Response:
        rows = "".join(f"<tr><td>{method}</td><td><a href='{path}'>{path}</a></td><td>{what}</td></tr>" for method, path, what in _PAGES)
        return Response(200, f"<!doctype html><title>ztunnel</title><h1>Culvert ztunnel</h1><table>{rows}</table>".encode(), HTML)

    def _page(self, request: Request) -> Response:
        return Response(200, self._metrics.page(), CONTENT_TYPE)

    def _ready(self, request: Request) -> Response:
        pending = self._pending()
        if pending:
            return text("not ready; waiting for:\n" + "".join(f"  {each}\n" for each in pending), 500)
        return text("ready\n")

    def _logging(self, request: Request) -> Response:
        if "reset" in request.query:
            self._levels.reset()
        elif (level := request.first("level")) is not None:
            try:
                self._levels.set(level)
            except ValueError as error:
                return text(f"{error}\n", 400)
        return text(f"current log level is {self._levels}\n")

    def _quit(self, request: Request) -> Response:
        asyncio.get_running_loop().call_soon(self._stop)
        return text("shutting down\n")

    def _config_dump(self, request: Request) -> Response:
        state, schedule = self._deps.view.state, self._deps.certificates.schedule
        endpoints, now = endpoints_by_service(state), time.time()
        return json_response(
            {
                "workloads": [workload_json(each) for _, each in sorted(state.workloads.items())],
                "services": [service_json(each, endpoints.get(each.key, {})) for _, each in sorted(state.services.items())],
                "policies": [policy_json(each) for _, each in sorted(state.policies.items())],
                "stagedServices": staged_services(state),
                "staticConfig": {},
                "version": {"version": self._version, "component": "ztunnel", "implementation": "culvert"},
                "config": {name: getattr(self._deps.config, name) for name in self._deps.config.__slots__},
                "certificates": [certificate_json(each, now) for each in schedule.entries.values()],
                "workloadState": {uid: self._pod_json(uid) for uid in sorted(self._pods.pods)},
            }
        )

    def _pod_json(self, uid: str) -> dict[str, Any]:
        pod = self._pods.pods[uid]
        live = self._deps.registry.of_pod(uid)
        info = {"name": pod.info.name, "namespace": pod.info.namespace, "serviceAccount": pod.info.service_account}
        connections = {
            "inbound": [connection_json(each) for each in live if each.inbound],
            "outbound": [connection_json(each) for each in live if not each.inbound],
        }
        shown = {"state": "Up" if pod.up else "Pending", "connections": connections, "info": info}
        return shown | ({"error": self._pods.errors[uid]} if uid in self._pods.errors else {})
