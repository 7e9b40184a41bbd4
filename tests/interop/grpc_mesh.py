"""A mesh for gRPC's own clients: our control plane with one service, `reviews`, whose two pods are servers of this process.

client (xds:///reviews:9080) ─▶ v1 at 127.0.0.21, v2 at 127.0.0.22, as our VirtualServices and DestinationRules say
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop import plane
from tests.interop.grpc_echo import Echo, echo
from tests.interop.proxied import eventually

TARGET = "xds:///reviews.shop.svc.cluster.local:9080"
ADDRESSES = {"v1": "127.0.0.21", "v2": "127.0.0.22"}
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.5, selector: {app: reviews}, ports: [{port: 9080, name: grpc, targetPort: PORT}]}
"""
NODE_HOST = "127.0.0.23"


@dataclass
class Mesh:
    running: plane.Running
    servers: Mapping[str, Echo]

    def environment(self) -> dict[str, str]:
        """Of a client in the namespace of the service."""
        server = {
            "server_uri": f"127.0.0.1:{self.running.plaintext}",
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }
        # JavaScript's wants a locality, be it empty, and without one says something else.
        node = {"id": "sidecar~127.0.0.1~client.shop~shop.svc.cluster.local", "metadata": {"NAMESPACE": "shop"}, "locality": {}}
        return {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps({"xds_servers": [server], "node": node})}

    def route(self, *rules: Mapping[str, Any]) -> None:
        """These are the rules of its VirtualService from now on."""
        self.running.put(routes=manifest("VirtualService", {"hosts": ["reviews"], "http": rules}))

    def balance(self, policy: Mapping[str, Any], subset: str = "") -> None:
        """This is the traffic policy of its DestinationRule from now on, or that of one subset."""
        self.running.put(balancing=destination_rule(policy, subset))

    def address(self, host: str, port: int, labels: str = "") -> str:
        """The service has this address and port from now on. Returns what a client calls then."""
        own = SERVICE.replace("10.96.0.5", host).replace("9080", str(port)).replace("PORT", str(self.servers["v1"].port))
        self.running.put(service=own.replace("namespace: shop", f"namespace: shop, labels: {{{labels}}}"))
        return TARGET.replace("9080", str(port))

    def move(self, *versions: str) -> None:
        """Only these pods are there from now on."""
        self.running.put(**{version: pod(version) if version in versions else "" for version in ADDRESSES})

    def nothing_rejected(self) -> None:
        """Whatever was sent to any client, also to those that have gone, was taken."""

        def types() -> list[dict[str, Any]]:
            return [kind for client in self.running.clients() for kind in client["types"].values()]

        eventually(lambda: all(kind["synced"] or kind["nacks"] for kind in types()), "an answer to everything")
        found = [kind["error"] for kind in types() if kind["nacks"]]
        with urllib.request.urlopen(f"http://127.0.0.1:{self.running.plane.ports['http']}/metrics", timeout=10) as page:
            counted = [line for line in page.read().decode().splitlines() if line.startswith("pilot_total_xds_rejects{")]
        assert (found, counted) == ([], [])


def rule(*shares: str | tuple[str, int], when: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A rule of the VirtualService. `shares`: subsets, or subsets and their weights. `when`: what headers must be like."""
    weighed = [(share, 1) if isinstance(share, str) else share for share in shares]
    made = {"route": [{"destination": {"host": "reviews", "subset": subset}, "weight": weight} for subset, weight in weighed], **fields}
    if not shares:
        del made["route"]
    return made if when is None else {"match": [{"headers": when}], **made}


def destination_rule(policy: Mapping[str, Any] | None = None, of: str = "") -> str:
    subsets: list[dict[str, Any]] = [{"name": version, "labels": {"version": version}} for version in ADDRESSES]
    subsets.append({"name": "all", "labels": {"app": "reviews"}})
    spec: dict[str, Any] = {"host": "reviews", "subsets": subsets}
    if policy is not None:
        (place,) = [subset for subset in subsets if subset["name"] == of] or [spec]
        place["trafficPolicy"] = policy
    return manifest("DestinationRule", spec)


def manifest(kind: str, spec: Mapping[str, Any]) -> str:
    """As JSON, which is YAML too."""
    metadata = {"name": "reviews", "namespace": "shop"}
    return json.dumps({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})


def pod(version: str) -> str:
    return plane.pod(f"reviews-{version}", ADDRESSES[version], labels=f"app: reviews, version: {version}")


@contextmanager
def mesh_in(directory: Path) -> Iterator[Mesh]:
    """At its end, nothing may have been rejected by anybody."""
    with ExitStack() as stack:
        first = stack.enter_context(echo("v1", ADDRESSES["v1"]))
        second = stack.enter_context(echo("v2", ADDRESSES["v2"], first.port))
        files = {"service": SERVICE.replace("PORT", str(first.port)), "balancing": destination_rule()}
        files |= {version: pod(version) for version in ADDRESSES}
        mesh = Mesh(stack.enter_context(plane.running(directory, files)), {"v1": first, "v2": second})
        yield mesh
        mesh.nothing_rejected()
