"""Protobuf messages ↔ frozen types, in one place to import from. Every `*_from` raises ConfigError and nothing else."""

from __future__ import annotations

from mesh.model.codec.authorization import UNENFORCEABLE, authorization_from, authorization_to
from mesh.model.codec.workload import (
    address_from,
    address_to,
    resource_name,
    service_from,
    service_to,
    workload_from,
    workload_to,
)

ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"

__all__ = [
    "ADDRESS_TYPE",
    "AUTHORIZATION_TYPE",
    "UNENFORCEABLE",
    "address_from",
    "address_to",
    "authorization_from",
    "authorization_to",
    "resource_name",
    "service_from",
    "service_to",
    "workload_from",
    "workload_to",
]
