"""What resources are called. Clusters as Istio calls them, `outbound|<port>|<subset>|<host>`, so that dashboards and logs read alike."""

from __future__ import annotations

from typing import NamedTuple

OUTBOUND = "outbound"
CONNECT_TERMINATE = "connect_terminate"
CONNECT_ORIGINATE = "connect_originate"
CONNECT_DIRECT = "connect_direct"
MAIN_INTERNAL = "main_internal"
VIRTUAL_OUTBOUND = "virtualOutbound"
HTTP_PROXY = "http_proxy"
PASSTHROUGH = "PassthroughCluster"
BLACK_HOLE = "BlackHoleCluster"
DYNAMIC_FORWARD = "dynamic_forward"
WORKLOAD_CERTIFICATE = "default"
MESH_ROOTS = "ROOTCA"
FILTER_STATE_PRINCIPAL = "io.istio.peer_principal"
FILTER_STATE_SOURCE_IP = "culvert.source_ip"
FILTER_STATE_ADDRESSED = "culvert.addressed"


class ClusterName(NamedTuple):
    port: int
    subset: str
    host: str


def cluster_name(host: str, port: int, subset: str = "") -> str:
    return f"{OUTBOUND}|{port}|{subset}|{host}"


def parse_cluster_name(name: str) -> ClusterName | None:
    """None where a cluster is no service's."""
    parts = name.split("|")
    if len(parts) != 4 or parts[0] != OUTBOUND or not parts[1].isdecimal():
        return None
    return ClusterName(int(parts[1]), parts[2], parts[3])


def route_table_name(host: str, port: int) -> str:
    return f"{host}:{port}"


def workload_cluster_name(uid: str) -> str:
    """Of one workload, at whatever port it is addressed."""
    return f"workload|{uid}"


def jwks_cluster_name(host: str, port: int, tls: bool) -> str:
    """Of a server of keys that is no service of the mesh."""
    return f"jwks|{port}|{'tls' if tls else ''}|{host}"
