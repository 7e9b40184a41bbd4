"""Secrets that proxies ask for: a certificate with its key, or roots. Keys stay out of every representation."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CertificateSecret:
    """PEM. `chain` is the leaf first, without the root."""

    name: str
    chain: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RootsSecret:
    name: str
    roots: bytes


Secret = CertificateSecret | RootsSecret
