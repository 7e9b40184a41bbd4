"""The agent's HTTP port (127.0.0.1:15030): metrics, health, and what is known of every pod."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.member import Member
from agent.metrics import CONTENT_TYPE, Metrics
from agent.reconcile import summary
from agent.tunnels import Tunnels
from mesh.io.http import Request, Response, Routes, json_response, text
from mesh.io.log import Levels


@dataclass(frozen=True, slots=True)
class Admin:
    """`not_ready` says in half a sentence what is still missing, or nothing. `problems` are files of pods that are not accepted."""

    metrics: Metrics
    members: Mapping[str, Member]
    problems: Mapping[str, str]
    tunnels: Tunnels
    levels: Levels
    not_ready: Callable[[], str]

    def routes(self) -> Routes:
        return {
            ("GET", "/metrics"): lambda _: Response(200, self.metrics.text(), CONTENT_TYPE),
            ("GET", "/healthz"): lambda _: text("ok\n"),
            ("GET", "/readyz"): self._readyz,
            ("GET", "/pods"): self._pods,
            ("GET", "/logging"): lambda _: text(f"{self.levels}\n"),
            ("POST", "/logging"): self._set_level,
        }

    def _readyz(self, _: Request) -> Response:
        missing = self.not_ready()
        return text(f"not ready: {missing}\n", 503) if missing else text("ready\n")

    def _pods(self, _: Request) -> Response:
        tunnels = [
            {"number": tunnel.number, "phase": tunnel.session.phase.value, "accepted": len(tunnel.accepted), "refused": tunnel.refused}
            for tunnel in self.tunnels.connected
        ]
        return json_response({"pods": summary(self.members), "tunnels": tunnels, "problems": dict(self.problems)})

    def _set_level(self, request: Request) -> Response:
        """`?level=info` or `?level=reconcile:debug,zds:off`, the form that Istio's tunnel takes."""
        wanted = request.first("level")
        if wanted is not None:
            try:
                self.levels.set(wanted.replace(":", "="))
            except ValueError as error:
                return text(f"{error}\n", 400)
        elif "reset" in request.query:
            self.levels.reset()
        return text(f"{self.levels}\n")
