"""SPIFFE identities of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` and nothing looser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

DEFAULT_TRUST_DOMAIN = "cluster.local"
SCHEME = "spiffe://"


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Who a workload is, as proved by a certificate. Hashable; ordered by its fields."""

    trust_domain: str
    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.principal}"

    @property
    def principal(self) -> str:
        """The form that policies compare: the SPIFFE id without its scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


@lru_cache(maxsize=4096)
def parse_spiffe(uri: str) -> Identity | None:
    """The identity in a SPIFFE URI of Kubernetes form, or None if it has any other shape."""
    if not uri.startswith(SCHEME):
        return None
    parts = uri[len(SCHEME) :].split("/")
    if len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa" or not (parts[0] and parts[2] and parts[4]):
        return None
    return Identity(parts[0], parts[2], parts[4])
