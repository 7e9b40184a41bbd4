"""The parts of the config dump: each object that the tunnel knows, in the JSON form of Istio's tunnel."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

from mesh.io.tls import Credentials
from mesh.model.policy import Authorization, Match
from mesh.model.state import MeshState
from mesh.model.workload import GatewayAddress, NamespacedHostname, Service, Workload
from ztunnel.certificates import Entry
from ztunnel.connections import Connection


def connection_json(each: Connection) -> dict[str, Any]:
    actual = each.target if each.inbound and each.target is not None else each.destination
    return {
        "src": str(each.source),
        "originalDst": str(each.original),
        "actualDst": str(actual),
        "protocol": "HBONE" if each.hbone else "TCP",
        "srcIdentity": str(each.source_identity) if each.source_identity else None,
        "dstIdentity": str(each.destination_identity) if each.destination_identity else None,
        "sent": each.sent,
        "received": each.received,
    }


def workload_json(workload: Workload) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "uid": workload.uid,
        "workloadIps": [str(ip) for ip in workload.addresses],
        "protocol": workload.protocol.value,
        "name": workload.name,
        "namespace": workload.namespace,
        "serviceAccount": workload.service_account,
        "workloadName": workload.workload_name,
        "workloadType": workload.workload_type.value,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "clusterId": workload.cluster,
        "trustDomain": workload.trust_domain,
        "locality": _present(region=workload.locality.region, zone=workload.locality.zone, subzone=workload.locality.subzone),
        "node": workload.node,
        "network": workload.network,
        "networkMode": workload.network_mode.value,
        "status": workload.health.value,
        "hostname": workload.hostname,
        "capacity": workload.capacity,
        "nativeTunnel": workload.native_tunnel,
        "authorizationPolicies": list(workload.policies),
        "services": {str(key): {str(port): target for port, target in ports.items()} for key, ports in workload.services.items()},
    }
    if workload.application_tunnel_port is not None:
        protocol = "PROXY" if workload.application_tunnel_proxy else "NONE"
        shown["applicationTunnel"] = {"protocol": protocol, "port": workload.application_tunnel_port}
    return shown | _present(waypoint=_gateway(workload.waypoint), networkGateway=_gateway(workload.network_gateway))


def endpoints_by_service(state: MeshState) -> dict[NamespacedHostname, dict[str, Any]]:
    """What `service_json` shows of each service's endpoints: one pass over the workloads for all services."""
    found: dict[NamespacedHostname, dict[str, Any]] = {}
    for uid, workload in sorted(state.workloads.items()):
        for key, ports in workload.services.items():
            shown = {"workloadUid": uid, "service": str(key), "port": {str(port): target for port, target in ports.items()}}
            found.setdefault(key, {})[uid] = shown
    return found


def service_json(service: Service, endpoints: Mapping[str, Any]) -> dict[str, Any]:
    balancing = service.load_balancing
    shown: dict[str, Any] = {
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": [f"{vip.network}/{vip.ip}" for vip in service.vips],
        "cidrVips": [f"{network}/{prefix}" for network, prefix in service.vip_networks],
        "ports": {str(each.port): each.target for each in service.ports},
        "endpoints": dict(endpoints),
        "subjectAltNames": list(service.subject_alt_names),
        "canonical": service.canonical,
        "visibility": service.visibility.value,
    }
    if balancing is not None:
        preference = [scope.value for scope in balancing.preference]
        shown["loadBalancer"] = {"routingPreferences": preference, "mode": balancing.mode.value, "healthPolicy": balancing.health.value}
    weighted = [{"destination": _gateway(each.destination), "weight": each.weight} for each in service.weighted_waypoints]
    return shown | _present(waypoint=_gateway(service.waypoint), weightedWaypoints=weighted)


def policy_json(policy: Authorization) -> dict[str, Any]:
    rules = [[[_match(match) for match in clause.matches] for clause in rule.clauses] for rule in policy.rules]
    return {
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": policy.scope.value,
        "action": policy.action.value,
        "rules": rules,
        "dryRun": policy.dry_run,
        "enforceable": policy.enforceable,
    }


def certificate_json(entry: Entry, now: float) -> dict[str, Any]:
    """Istio's form: PEM texts in base64."""
    shown: dict[str, Any] = {"identity": str(entry.identity), "state": entry.state(now).value, "certChain": [], "rootCerts": []}
    if entry.error:
        shown["error"] = entry.error
    held = entry.credentials
    if held is not None:
        dates = {"validFrom": _iso(held.not_before), "expirationTime": _iso(held.not_after)}
        shown["certChain"] = [
            _pem(pem) | (dates | {"serialNumber": serial_number(held)} if not at else {}) for at, pem in enumerate(held.chain_pem)
        ]
        shown["rootCerts"] = [_pem(pem) for pem in held.roots_pem]
    return shown


def serial_number(credentials: Credentials) -> str:
    """The leaf's, in decimal as Istio shows it, or empty where it cannot be found (RFC 5280 §4.1: first INTEGER after the version)."""
    body = "".join(line for line in credentials.chain_pem[0].splitlines() if line and not line.startswith("-----"))
    try:
        der = base64.b64decode(body)
        at = _inside(der, _inside(der, 0))
        if der[at] == 0xA0:  # [0] version
            at = _inside(der, at) + der[at + 1]
        start = _inside(der, at)
        return str(int.from_bytes(der[start : start + der[at + 1]], "big"))
    except (ValueError, IndexError):
        return ""


def _inside(der: bytes, at: int) -> int:
    """Where the content of the DER element at `at` begins."""
    length = der[at + 1]
    return at + 2 + (length & 0x7F if length & 0x80 else 0)


def _pem(pem: str) -> dict[str, Any]:
    return {"pem": base64.b64encode(pem.encode()).decode()}


def _iso(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def _gateway(gateway: GatewayAddress | None) -> dict[str, Any] | None:
    if gateway is None:
        return None
    where = gateway.destination
    destination: object = f"{where.network}/{where.ip}" if not isinstance(where, NamespacedHostname) else where._asdict()
    return {"destination": destination, "hboneMtlsPort": gateway.hbone_port}


def _match(match: Match) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name in match.__slots__:
        values = getattr(match, name)
        if values:
            first, *rest = name.split("_")
            shown[first + "".join(part.capitalize() for part in rest)] = [_value(value) for value in values]
    return shown


def _value(value: object) -> Any:
    if isinstance(value, int):
        return value
    if isinstance(value, tuple):
        return "/".join(str(part) for part in value)
    kind = getattr(value, "kind", None)
    return str(value) if kind is None else {kind.value: getattr(value, "value", "")}


def staged_services(state: MeshState) -> dict[str, list[str]]:
    """Services that workloads name and that have not arrived, with these workloads."""
    staged: dict[str, list[str]] = {}
    for uid, workload in state.workloads.items():
        for key in workload.services:
            if key not in state.services:
                staged.setdefault(str(key), []).append(uid)
    return staged


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
