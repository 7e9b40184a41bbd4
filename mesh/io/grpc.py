"""gRPC channels to the control plane: authenticated by the mesh's root file, with a bearer token that is read anew at every use.

Import this lazily: gRPC adds some ten megabytes to a process. A channel is cheap and is made anew at every reconnect, so
that a changed root file takes effect without a restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

MAX_MESSAGE = 200 << 20
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 30_000, 10_000


@dataclass(frozen=True, slots=True)
class GrpcTarget:
    """Where a control plane is and how it is proved.

    address: `host:port`, or `http://host:port` for plaintext (loopback and tests), or `https://host:port`.
    root_ca: PEM file of the roots that may sign the server; None: the system's.
    server_name: DNS name that its certificate must carry, where it is not the address's host; None: the host.
    token_file: bearer token, read at each use; None: no authentication.
    cluster_id: sent as metadata `clusterid`; empty: not sent.
    """

    address: str
    root_ca: Path | None = None
    server_name: str | None = None
    token_file: Path | None = None
    cluster_id: str = ""

    @property
    def plaintext(self) -> bool:
        return self.address.startswith("http://")

    @property
    def host_port(self) -> str:
        return self.address.split("://", 1)[-1].rstrip("/")


def open_channel(target: GrpcTarget) -> grpc.aio.Channel:
    """A channel that connects on first use. OSError where the root file cannot be read."""
    options: list[tuple[str, int | str]] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.enable_retries", 0),  # who calls decides about retries
        ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, with the root file of now
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.initial_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 15000),
    ]
    if target.plaintext:
        return grpc.aio.insecure_channel(target.host_port, options=options)
    if target.server_name:
        options.append(("grpc.ssl_target_name_override", target.server_name))
        options.append(("grpc.default_authority", target.server_name))
    roots = target.root_ca.read_bytes() if target.root_ca else None
    return grpc.aio.secure_channel(target.host_port, grpc.ssl_channel_credentials(root_certificates=roots), options=options)


def metadata(target: GrpcTarget) -> grpc.aio.Metadata:
    """Call metadata with the token as it is in its file now. OSError where that cannot be read; ValueError where it is empty."""
    entries: list[tuple[str, str]] = []
    if target.token_file is not None:
        token = target.token_file.read_text("ascii").strip()
        if not token:
            raise ValueError(f"{target.token_file} is empty: expected a bearer token")
        entries.append(("authorization", f"Bearer {token}"))
    if target.cluster_id:
        entries.append(("clusterid", target.cluster_id))
    return grpc.aio.Metadata(*entries)
