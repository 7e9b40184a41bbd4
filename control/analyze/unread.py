"""Kinds of Istio's and the Gateway API's that nobody here reads, and what that means for who wrote one."""

from __future__ import annotations

from collections.abc import Mapping

ISTIO, GATEWAY_API = "networking.istio.io", "gateway.networking.k8s.io"

UNREAD: Mapping[tuple[str, str], str] = {
    (ISTIO, "Sidecar"): "there are no sidecars, and what a client may reach is not narrowed",
    (ISTIO, "EnvoyFilter"): "no proxy is patched",
    (ISTIO, "ProxyConfig"): "there are no sidecars that it could configure",
    (ISTIO, "WorkloadGroup"): "no WorkloadEntry is made from it",
    ("extensions.istio.io", "WasmPlugin"): "no proxy loads it",
    ("install.istio.io", "IstioOperator"): "nothing is installed by it",
    (GATEWAY_API, "BackendTLSPolicy"): "no TLS is begun towards the backend; a DestinationRule's tls does that",
    (GATEWAY_API, "UDPRoute"): "UDP is not carried",
    (GATEWAY_API, "ListenerSet"): "the Gateway has its own listeners only",
}
"""By group and kind."""
