"""The environment of a container: `env` in order, field references, and `$(VAR)` expansion as Kubernetes does it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from culvert.playground.podspec import ContainerSpec, EnvVar, PodSpec
from culvert.playground.records import PodRecord

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.\-][A-Za-z0-9_.\-]*)\)")


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the value where there is one and stays as it is where there is none; `$$` becomes `$`."""

    def one(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return values.get(match.group(1), match.group(0))

    return _REFERENCE.sub(one, text)


def container_environment(container: ContainerSpec, pod: PodSpec, record: PodRecord, node_address: str, path: str) -> dict[str, str]:
    """Everything the process gets: what an image would set (PATH, HOME), the host name, and the container's own list, which wins."""
    base = {"PATH": path, "HOME": "/root", "HOSTNAME": record.name, "LANG": "C.UTF-8"}
    values: dict[str, str] = {}
    for variable in container.env:
        values[variable.name] = _field(variable, pod, record, node_address) if variable.field_path else expand(variable.value, values)
    return base | values


def command_line(container: ContainerSpec, values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(expand(word, values) for word in container.command)


def _field(variable: EnvVar, pod: PodSpec, record: PodRecord, node_address: str) -> str:
    path = variable.field_path
    if path.startswith("metadata.labels['"):
        return pod.labels.get(path[len("metadata.labels['") : -2], "")
    if path.startswith("metadata.annotations['"):
        return pod.annotations.get(path[len("metadata.annotations['") : -2], "")
    return {
        "metadata.name": record.name,
        "metadata.namespace": record.namespace,
        "metadata.uid": record.uid,
        "spec.nodeName": record.node,
        "spec.serviceAccountName": pod.service_account,
        "status.podIP": _first(record.addresses),
        "status.podIPs": ",".join(record.addresses),
        "status.hostIP": node_address,
    }[path]


def _first(addresses: Sequence[str]) -> str:
    return addresses[0] if addresses else ""
