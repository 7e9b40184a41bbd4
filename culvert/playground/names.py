"""Names that the control plane knows and the supervisor does not: of ServiceEntries, of services in Consul. Pure.

The control plane tells them at /debug/names: `{"number": 7, "names": {"web.service.consul": ["240.240.1.2"]}}`. They end up in every pod's
/etc/hosts, so nothing is taken on trust: a document is taken whole or not at all, and no name of it can stand for the machine itself or for
a pod. (What a Service of the playground is called, `hosts` keeps.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from mesh.model.errors import CulvertError

MAX_NAMES = 10_000
MAX_ADDRESSES = 16
MAX_NUMBER = 2**63
MAX_BYTES = 4 << 20

# At least two labels: a short name is one's own pod's, or a Service's. The last one is no number, as in every name of DNS.
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)+(?![0-9]+$){_LABEL}")
_LOCAL = re.compile(r"(?:.*\.)?(?:localhost|localdomain)")


class NamesError(CulvertError):
    """What was told is not taken. The text says what of it."""


@dataclass(frozen=True, slots=True)
class Names:
    """`number` is of the snapshot that they are from."""

    number: int = 0
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def parse_names(document: Any) -> Names:
    """NamesError for anything that is not exactly as above."""
    if not isinstance(document, dict) or document.keys() != {"number", "names"}:
        raise NamesError("it is not a mapping with number and names")
    number, names = document["number"], document["names"]
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MAX_NUMBER:
        raise NamesError(f"number is {number!r:.80}, and should be one from 0")
    if not isinstance(names, dict) or len(names) > MAX_NAMES:
        raise NamesError(f"names is not a mapping with up to {MAX_NAMES} names")
    return Names(number, {name: _addresses(name, addresses) for name, addresses in sorted(names.items())})


def _addresses(name: str, addresses: Any) -> tuple[str, ...]:
    if not _NAME.fullmatch(name) or _LOCAL.fullmatch(name):
        raise NamesError(f"{name!r:.80} is no name of DNS with a dot in it")
    if not isinstance(addresses, list) or len(addresses) > MAX_ADDRESSES:
        raise NamesError(f"the addresses of {name} are not a list of up to {MAX_ADDRESSES}")
    found = []
    for text in addresses:
        try:
            address = ip_address(text) if isinstance(text, str) else None
        except ValueError:
            address = None
        if address is None or address.is_unspecified or address.is_loopback or address.is_multicast or getattr(address, "scope_id", None):
            raise NamesError(f"{text!r:.80} is no address that {name} can have")
        found.append(str(address))
    return tuple(found)
