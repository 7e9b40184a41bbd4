"""What a CA shows of itself, at /debug/ca and to `culvert ca show`: certificates by name and date, who has renewed, what is awaited. No
key, and nothing that is made from one but signatures.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from control.ca.keeper import Keeper
from control.ca.pem import certificate, key_id
from control.ca.state import Phase


def view(keeper: Keeper) -> dict[str, Any]:
    """As JSON. Times in Unix seconds."""
    state, authority, now = keeper.state, keeper.authority, keeper.clock()
    gate = keeper.gate()
    where = keeper.store.where
    coming = state.next.roots if state.next is not None else ()
    roots = [(pem, _role(pem, state.current.roots, coming)) for pem in state.bundle]
    return {
        "trustDomain": state.trust_domain,
        "kept": f"{'mounted from' if keeper.settings.mount is not None else 'our own, in'} {where}",
        "phase": state.phase.value,
        "token": authority.token,
        "since": state.since,
        "longestLeaf": keeper.settings.longest,
        "signing": [_certificate(certificate(pem, where, "chain")) for pem in (*state.current.chain, state.current.roots[0])],
        "roots": [_certificate(certificate(pem, where, "root")) | {"role": role} for pem, role in roots],
        "next": None if state.next is None else _certificate(certificate(state.next.certificate, where, "next")),
        "gate": None
        if state.phase is Phase.STEADY
        else {
            "open": gate.is_open(now),
            "waiting": list(gate.waiting),
            "forgotten": list(gate.forgotten),
            "opensAt": gate.opens_at,
            "reason": "" if gate.is_open(now) else gate.reason(now),
        },
        "holders": keeper.holders.view(now),
        "problems": dict(keeper.problems.now),
    }


def _role(pem: str, current: tuple[str, ...], coming: tuple[str, ...]) -> str:
    if pem == current[0]:
        return "signs"
    return "trusted" if pem in current else "introduced" if pem in coming else "retiring"


def _certificate(each: x509.Certificate) -> dict[str, Any]:
    key = each.public_key()
    return {
        "subject": each.subject.rfc4514_string(),
        "serial": f"{each.serial_number:x}",
        "keyId": key_id(each),
        "key": f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else getattr(getattr(key, "curve", None), "name", "other"),
        "notBefore": each.not_valid_before_utc.timestamp(),
        "notAfter": each.not_valid_after_utc.timestamp(),
    }
