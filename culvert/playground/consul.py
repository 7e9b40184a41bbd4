"""A Consul that the playground's control plane reads services from. Pure.

The control plane is in a namespace of its own, which reaches the nodes on the wire and nothing else. A Consul on the wire, such as an agent
on a node, it asks itself. Any other is asked by way of the supervisor, which is in the machine's own namespace (`forward`): the
machine gets no new link, route or sysctl for it, and an agent on the machine's loopback will do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from control.sources.consul.settings import settings_of
from culvert.playground.addresses import WIRE4, WIRE6

LOCAL = "127.0.0.1"
FORWARD_PORT = 8500


@dataclass(frozen=True, slots=True)
class ConsulOptions:
    """What `up` was told: an address as the machine sees it, and absolute paths; "" for none."""

    address: str = ""
    token_file: str = ""
    ca_file: str = ""

    def __bool__(self) -> bool:
        return bool(self.address)


def checked(options: ConsulOptions) -> ConsulOptions:
    """As the control plane understands them. ConfigError where it would not."""
    settings = settings_of(_variables(options))
    return replace(options, address=settings.address) if settings is not None else options


def target(options: ConsulOptions) -> tuple[str, int] | None:
    """Host and port that the supervisor forwards to; None where there is nothing to forward."""
    if not options:
        return None
    url = urlsplit(options.address)
    host = url.hostname or ""
    return None if _on_the_wire(host) else (host, url.port or 0)


def environment(options: ConsulOptions) -> dict[str, str]:
    """What the control plane is told."""
    forwarded = target(options)
    if forwarded is None:
        return _variables(options)
    url = urlsplit(options.address)
    found = _variables(replace(options, address=urlunsplit((url.scheme, f"{LOCAL}:{FORWARD_PORT}", url.path, "", ""))))
    found["CULVERT_CONSUL_CALLED"] = options.address
    if url.scheme == "https":
        found["CULVERT_CONSUL_SERVER_NAME"] = forwarded[0]
    return found


def _variables(options: ConsulOptions) -> dict[str, str]:
    values = {
        "CULVERT_CONSUL": options.address,
        "CULVERT_CONSUL_TOKEN_FILE": options.token_file,
        "CULVERT_CONSUL_CA_FILE": options.ca_file,
    }
    return {name: value for name, value in values.items() if value}


def _on_the_wire(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address in WIRE4 or address in WIRE6
