"""Routes of the Gateway API as tests write them, all attached to the service `app`, and what becomes of them."""

from __future__ import annotations

from typing import Any

from mesh.model.l7.notes import Translated
from mesh.model.l7.profile import Context
from mesh.model.l7.routes import (
    Route,
)
from mesh.model.l7.translate.ports import PortRoutes, Written, port_routes
from mesh.model.workload import AppProtocol
from tests.model.l7.objects import WAYPOINT, host, made, target, targets

V1, V2 = (f"outbound|80||{host(name)}" for name in ("v1", "v2"))
KNOWN = targets(
    target("v1"), target("v2"), target("v1", namespace="team"), target("v1", namespace="other"), target("v2", namespace="other")
)
PARENT = {"group": "", "kind": "Service", "name": "app"}


def backend(name: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"name": name, "port": 80, **fields}


def route(
    kind: str = "HTTPRoute",
    rules: list[dict[str, Any]] | None = None,
    name: str = "one",
    namespace: str = "shop",
    age: int = 0,
    **spec: Any,
) -> Any:
    parents = spec.pop("parentRefs", [{**PARENT, **({} if namespace == "shop" else {"namespace": "shop"})}])
    return made(
        kind, {"parentRefs": parents, "rules": rules if rules is not None else [{"backendRefs": [backend()]}], **spec}, name, namespace, age
    )


def translated(
    *found: Any, context: Context = WAYPOINT, protocol: AppProtocol = AppProtocol.HTTP11, port: int = 80, **written: Any
) -> Translated[PortRoutes]:
    by_kind: dict[str, list[Any]] = {}
    for entry in found:
        by_kind.setdefault(entry.KIND, []).append(entry)
    inputs = Written(
        http_routes=tuple(by_kind.get("HTTPRoute", ())),
        grpc_routes=tuple(by_kind.get("GRPCRoute", ())),
        tls_routes=tuple(by_kind.get("TLSRoute", ())),
        tcp_routes=tuple(by_kind.get("TCPRoute", ())),
        virtual_services=tuple(by_kind.get("VirtualService", ())),
        targets=KNOWN,
        **written,
    )
    return port_routes(target(ports={80: protocol, 81: protocol}), port, inputs, context)


def routes(*found: Any, **fields: Any) -> tuple[Route, ...]:
    table = translated(*found, **fields).value.table
    assert table is not None
    return table.hosts[0].routes


def one(**rule: Any) -> Route:
    (found,) = routes(route(rules=[{"backendRefs": [backend()], **rule}]))
    return found


def names(*found: Any, **fields: Any) -> list[str]:
    return [entry.name.split(".")[1] for entry in routes(*found, **fields)]


def grpc(match: dict[str, Any] | None, name: str = "one") -> Any:
    rule: dict[str, Any] = {"backendRefs": [backend()]}
    if match is not None:
        rule["matches"] = [match]
    return route("GRPCRoute", [rule], name)


def l4(kind: str, name: str = "one", namespace: str = "shop", age: int = 0, **spec: Any) -> Any:
    return route(kind, [{"backendRefs": [backend(weight=3), backend("v2", weight=1)]}], name, namespace, age, **spec)
