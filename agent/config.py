"""The agent's configuration: the only module of this process that reads the environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from agent.bpf.pins import DEFAULT_ROOT
from mesh.io.http import parse_address
from mesh.model.errors import ConfigError, Refusal


@dataclass(frozen=True, slots=True)
class Config:
    instance: str
    """CULVERT_INSTANCE. Names what this node owns in the kernel: <bpffs>/<instance>/. Letters, digits, '.', '-'. Default: NODE_NAME."""

    node: str
    """NODE_NAME. The node's name, for logs. Default: the host's name."""

    pods_dir: str
    """CULVERT_PODS_DIR. Directory with one <uid>.json per pod of this node. Default: /run/culvert/pods."""

    redirection_dir: str
    """CULVERT_REDIRECTION_DIR. Directory to which the state of each pod in the mesh is written. Default: <run dir>/redirection."""

    run_dir: str
    """CULVERT_RUN_DIR. Directory of this agent, mode 0700: records of changed namespaces, the tunnel's mark, the ZDS socket. Must survive
    a restart of the agent, not one of the machine. Default: /run/culvert/agent."""

    zds_socket: str
    """INPOD_UDS. The ZDS socket on which tunnels connect. Default: <run dir>/ztunnel.sock."""

    mark_file: str
    """The file that tells the tunnel its socket mark: <run dir>/tunnel-mark, mode 0600."""

    bpffs: str
    """CULVERT_BPFFS. Where programs and maps are pinned; below /sys/fs/bpf it is mounted where it is not. Default: /sys/fs/bpf/culvert."""

    http_address: str
    """CULVERT_HTTP_ADDRESS. host:port of metrics, health and the list of pods, without authentication: keep it on loopback.
    Empty: off. Default: 127.0.0.1:15030."""

    log_level: str
    """LOG_LEVEL. off, error, warn, info, debug, trace; or by scope: info,reconcile=debug. Default: info."""

    log_format: str
    """LOG_FORMAT. json or text. Default: json."""


def load(environ: Mapping[str, str] = os.environ) -> Config:  # noqa: TID251 -- this is the one place
    """Raises ConfigError that names every variable which is not accepted."""

    def value(name: str, default: str) -> str:
        return environ.get(name, "") or default

    node = value("NODE_NAME", socket.gethostname())
    run_dir = value("CULVERT_RUN_DIR", "/run/culvert/agent")
    config = Config(
        instance=value("CULVERT_INSTANCE", node),
        node=node,
        pods_dir=value("CULVERT_PODS_DIR", "/run/culvert/pods"),
        redirection_dir=value("CULVERT_REDIRECTION_DIR", os.path.join(run_dir, "redirection")),
        run_dir=run_dir,
        zds_socket=value("INPOD_UDS", os.path.join(run_dir, "ztunnel.sock")),
        mark_file=os.path.join(run_dir, "tunnel-mark"),
        bpffs=value("CULVERT_BPFFS", DEFAULT_ROOT),
        http_address=environ.get("CULVERT_HTTP_ADDRESS", "127.0.0.1:15030"),
        log_level=value("LOG_LEVEL", "info"),
        log_format=value("LOG_FORMAT", "json"),
    )
    refusals = []
    for name, path in (
        ("CULVERT_PODS_DIR", config.pods_dir),
        ("CULVERT_REDIRECTION_DIR", config.redirection_dir),
        ("CULVERT_RUN_DIR", config.run_dir),
        ("INPOD_UDS", config.zds_socket),
        ("CULVERT_BPFFS", config.bpffs),
    ):
        if not os.path.isabs(path):
            refusals.append(Refusal("environment", name, "", repr(path), "an absolute path"))
    if len(os.fsencode(config.zds_socket)) > 107:
        refusals.append(Refusal("environment", "INPOD_UDS", "", repr(config.zds_socket), "a path of at most 107 bytes"))
    if config.log_format not in ("json", "text"):
        refusals.append(Refusal("environment", "LOG_FORMAT", "", repr(config.log_format), "json or text"))
    if config.http_address:
        try:
            parse_address(config.http_address)
        except ValueError:
            refusals.append(Refusal("environment", "CULVERT_HTTP_ADDRESS", "", repr(config.http_address), "host:port, or empty"))
    if refusals:
        raise ConfigError(*refusals)
    return config
