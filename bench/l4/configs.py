"""Configurations of the peers: each is a pair, `a` beside the client and `b` beside the server, with mutual TLS 1.3 between them.

Every pair carries two ports of the server, one for requests and one for uploads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.l4.certificates import ROOT

CLIENT_ID = "spiffe://cluster.local/ns/bench/sa/client"
SERVER_ID = "spiffe://cluster.local/ns/bench/sa/server"
TRUST_DOMAIN = "spiffe://cluster.local/"
MANY = {"thresholds": [{"max_connections": 100000, "max_requests": 100000, "max_pending_requests": 100000}]}
EXTENSIONS = "type.googleapis.com/envoy.extensions"


def nginx(directory: Path, port: int) -> str:
    return f"""
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.err;
events {{ worker_connections 8000; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  sendfile on;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 0.0.0.0:{port} backlog=4096;
    location / {{ return 200 "hello world, this is a small answer\\n"; }}
    location /big {{ alias {directory}/big; }}
  }}
}}
"""


def haproxy(side: str, directory: Path, server: str, ports: dict[int, int], tunnel_ports: dict[int, int]) -> str:
    """One TLS connection per TCP connection. `ports` maps the server's ports to local ones, `tunnel_ports` to those between the pair."""
    tls = f"ssl crt {directory}/{side}.both ca-file {directory}/{ROOT} verify required ssl-min-ver TLSv1.3"
    lines = [
        "global",
        " nbthread 1",
        " maxconn 4000",
        "defaults",
        " mode tcp",
        " timeout connect 5s",
        " timeout client 60s",
        " timeout server 60s",
    ]
    for port, local in ports.items():
        lines.append(f"listen l{port}")
        if side == "a":
            lines += [f" bind 127.0.0.1:{local}", f" server b {server}:{tunnel_ports[port]} {tls}"]
        else:
            lines += [f" bind {server}:{tunnel_ports[port]} {tls}", f" server app {server}:{port}"]
    return "\n".join(lines) + "\n"


def envoy_a(
    directory: Path, server: str, ports: dict[int, int], tunnel_port: int, accepted: str = SERVER_ID, identity: str = "a"
) -> dict[str, Any]:
    """The HBONE client: each local port is a CONNECT stream to `server:port` over one HTTP/2 connection."""
    tls = {
        "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": _tls(directory, identity, {"exact": accepted}),
    }
    http2 = {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}},
    }
    cluster = {
        **_cluster("tunnel", server, tunnel_port),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "transport_socket": {"name": "tls", "typed_config": tls},
    }
    listeners = []
    for port, local in ports.items():
        proxy = {
            "@type": f"{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": f"out{port}",
            "cluster": "tunnel",
            "tunneling_config": {"hostname": f"{server}:{port}"},
        }
        chain = {"filters": [{"name": "tcp", "typed_config": proxy}]}
        listeners.append({"name": f"out{port}", "address": _address("127.0.0.1", local), "filter_chains": [chain]})
    return {"static_resources": {"listeners": listeners, "clusters": [cluster]}}


def envoy_b(directory: Path, server: str, ports: dict[int, int], tunnel_port: int) -> dict[str, Any]:
    """The HBONE server: CONNECT requests go to the port of the server that their authority names."""
    tls = {
        "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _tls(directory, "b", {"prefix": TRUST_DOMAIN}),
    }
    hosts = [
        {
            "name": f"app{port}",
            "domains": [f"{server}:{port}"],
            "routes": [
                {
                    "match": {"connect_matcher": {}},
                    "route": {
                        "cluster": f"app{port}",
                        "timeout": "0s",
                        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                    },
                }
            ],
        }
        for port in ports
    ]
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "hbone",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"}}],
    }
    listener = {
        "name": "hbone",
        "address": _address(server, tunnel_port),
        "filter_chains": [
            {"transport_socket": {"name": "tls", "typed_config": tls}, "filters": [{"name": "hcm", "typed_config": manager}]},
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(f"app{port}", server, port) for port in ports]}}


def _tls(directory: Path, side: str, peer: dict[str, str]) -> dict[str, Any]:
    return {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {"certificate_chain": {"filename": f"{directory}/{side}.pem"}, "private_key": {"filename": f"{directory}/{side}.key"}}
        ],
        "validation_context": {
            "trusted_ca": {"filename": f"{directory}/{ROOT}"},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}],
        },
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(name: str, host: str, port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}]
    return {"name": name, "type": "STATIC", "circuit_breakers": MANY, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}
