"""Probes as Kubernetes describes them, parsed strictly."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from culvert.playground.fields import Fields

HANDLERS = ("httpGet", "tcpSocket", "exec")


class ProbeKind(Enum):
    HTTP = "httpGet"
    TCP = "tcpSocket"
    EXEC = "exec"


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """One probe. Times are in seconds; `field` is where it stood (`readinessProbe` …); `host` empty means the pod's address."""

    field: str
    kind: ProbeKind
    port: int | str = 0
    path: str = "/"
    scheme: str = "HTTP"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    initial_delay: int = 0
    period: int = 10
    timeout: int = 1
    successes: int = 1
    failures: int = 3


def parse_probe(container: Fields, field: str) -> ProbeSpec | None:
    """The probe under `field` of a container, or None where there is none."""
    if not container.has(field):
        container.take(field)
        return None
    fields = container.child(field)
    found = [name for name in HANDLERS if fields.has(name)]
    if len(found) != 1:
        fields.report.refuse(fields.path, found, "exactly one of " + ", ".join(HANDLERS))
    kind = ProbeKind(found[0]) if found else ProbeKind.EXEC
    port: int | str = 0
    path, scheme, host = "/", "HTTP", ""
    headers: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    if kind is ProbeKind.HTTP:
        handler = fields.child("httpGet")
        port, path, host = handler.port("port"), handler.string("path", "/") or "/", handler.string("host")
        scheme = handler.string("scheme", "HTTP", among=("HTTP", "HTTPS"))
        headers = tuple(_header(child) for child in handler.children("httpHeaders"))
        handler.finish()
    elif kind is ProbeKind.TCP:
        handler = fields.child("tcpSocket")
        port, host = handler.port("port"), handler.string("host")
        handler.finish()
    else:
        handler = fields.child("exec")
        command = handler.strings("command")
        handler.finish()
    result = ProbeSpec(
        field=field,
        kind=kind,
        port=port,
        path=path,
        scheme=scheme,
        host=host,
        headers=headers,
        command=command,
        initial_delay=fields.integer("initialDelaySeconds", 0),
        period=fields.integer("periodSeconds", 10, 1),
        timeout=fields.integer("timeoutSeconds", 1, 1),
        successes=fields.integer("successThreshold", 1, 1),
        failures=fields.integer("failureThreshold", 3, 1),
    )
    fields.ignore(*HANDLERS)
    fields.finish()
    return result


def _header(fields: Fields) -> tuple[str, str]:
    result = fields.string("name", required=True), fields.string("value")
    fields.finish()
    return result
