"""Names that the control plane knows and the supervisor does not: of ServiceEntries, of services in Consul. Pure.

The control plane tells them at /debug/names: `{"number": 7, "names": {"web.service.consul": ["240.240.1.2"]}}`. They end up in every pod's
/etc/hosts, so nothing is taken on trust. A document of another shape is not taken at all. A name that can be none in such a file, or
an address that its name cannot have there, are what somebody wrote into a ServiceEntry: that name is left out, and said.
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

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
# The last label is no number, as in every name of DNS: what looks like an address is one.
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}")
_LOCAL = re.compile(r"(?:.*\.)?(?:localhost|localdomain|ip6-localhost|ip6-loopback)")


class NamesError(CulvertError):
    """What was told is not taken. The text says what of it."""


@dataclass(frozen=True, slots=True)
class Names:
    """`number` is of the snapshot that they are from. `unusable` are told as well, and no pod's hosts file can have them."""

    number: int = 0
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unusable: tuple[str, ...] = ()


def parse_names(document: Any) -> Names:
    """NamesError for anything that is not of the shape above."""
    if not isinstance(document, dict) or document.keys() != {"number", "names"}:
        raise NamesError("it is not a mapping with number and names")
    number, names = document["number"], document["names"]
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MAX_NUMBER:
        raise NamesError(f"number is {number!r:.80}, and should be one from 0")
    if not isinstance(names, dict) or len(names) > MAX_NAMES:
        raise NamesError(f"names is not a mapping with up to {MAX_NAMES} names")
    found: dict[str, tuple[str, ...]] = {}
    unusable = []
    for name, addresses in sorted(names.items()):
        if not isinstance(addresses, list) or len(addresses) > MAX_ADDRESSES or not all(isinstance(text, str) for text in addresses):
            raise NamesError(f"the addresses of {name!r:.80} are not a list of up to {MAX_ADDRESSES} strings")
        usable = [text for address in addresses if (text := _address(address)) is not None]
        if len(usable) == len(addresses) and _NAME.fullmatch(name) and not _LOCAL.fullmatch(name):
            found[name] = tuple(usable)
        else:
            unusable.append(name)
    return Names(number, found, tuple(unusable))


def _address(text: str) -> str | None:
    """As a hosts file has it; None for what is no address, or means something else on every machine."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local or "%" in text:
        return None
    return str(address)
