"""What the Consul source is told: where Consul is, how to ask it, and what its services are called here. Read once, strictly.

Each field is followed by its variable, meaning, unit, default and off-switch. `settings_of` reads them from a mapping, which is the
process's environment in `control.config` and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mesh.model.errors import ConfigError, Refusal

CONSISTENCIES = ("default", "stale", "consistent")
PORTS = {"http": 8500, "https": 8501}
ADDRESS = "http://HOST[:PORT] or https://HOST[:PORT], with a path if Consul is behind one, and nothing else"
NAME = r"[A-Za-z0-9](?:[-_A-Za-z0-9]{0,62}[A-Za-z0-9])?"
DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
DNS_NAME = rf"(?=.{{1,200}}$){DNS_LABEL}(?:\.{DNS_LABEL})*"
NAMESPACE = DOMAIN = "consul"
EXCLUDE = frozenset({"consul"})
GRACE, LONGEST_GRACE = 30.0, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulSettings:
    address: str
    """CULVERT_CONSUL: URL of an agent or a server, without a slash at its end. Empty: no Consul."""

    called: str = ""
    """CULVERT_CONSUL_CALLED: what people know the address as, where it is that of a relay; messages name it. Default: the address."""

    token_file: Path | None = None
    """CULVERT_CONSUL_TOKEN_FILE: file with the ACL token. Read again when Consul denies something. Default: no token."""

    ca_file: Path | None = None
    """CULVERT_CONSUL_CA_FILE: PEM certificates of the authorities that https trusts. Default: the system's."""

    certificate_file: Path | None = None
    """CULVERT_CONSUL_CERT_FILE: PEM certificate that we show, where Consul verifies clients. Default: none."""

    key_file: Path | None = None
    """CULVERT_CONSUL_KEY_FILE: its key."""

    server_name: str = ""
    """CULVERT_CONSUL_SERVER_NAME: the name that Consul's certificate must have, such as server.dc1.consul. Default: the address's host."""

    datacenter: str = ""
    """CULVERT_CONSUL_DATACENTER: of which datacenter. Default: the agent's own."""

    partition: str = ""
    """CULVERT_CONSUL_PARTITION: admin partition, of Consul Enterprise. Default: the token's."""

    consul_namespace: str = ""
    """CULVERT_CONSUL_SOURCE_NAMESPACE: Consul's namespace, of Consul Enterprise. Default: the token's."""

    consistency: str = "default"
    """CULVERT_CONSUL_CONSISTENCY: `default` (the leader answers), `stale` (any server does, also without a leader; a change may be seen
    some seconds later), or `consistent` (the leader asks the others first).
    """

    namespace: str = NAMESPACE
    """CULVERT_CONSUL_NAMESPACE: the mesh's namespace that the services are in."""

    domain: str = DOMAIN
    """CULVERT_CONSUL_DOMAIN: what names end in: `web.service.consul`."""

    datacenter_names: bool = False
    """CULVERT_CONSUL_DATACENTER_NAMES: `true`: services are also called `web.service.dc1.consul`. Default: false."""

    exclude: frozenset[str] = EXCLUDE
    """CULVERT_CONSUL_EXCLUDE: names of services that are left out, separated by commas. Default: consul. `-`: none."""

    proxies: bool = False
    """CULVERT_CONSUL_PROXIES: `true`: sidecar proxies and gateways of Consul's own mesh are services too. Default: false."""

    grace: float = GRACE
    """CULVERT_CONSUL_GRACE: seconds in which nothing is removed after Consul lost its data or was restored. 0: removed at once."""

    @property
    def shown(self) -> str:
        return self.called or self.address

    @property
    def secure(self) -> bool:
        return self.address.startswith("https:")


def settings_of(variables: Mapping[str, str]) -> ConsulSettings | None:
    """None where no Consul is asked for. ConfigError with everything that is wrong."""
    address = variables.get("CULVERT_CONSUL", "")
    if not address:
        return None
    refusals: list[Refusal] = []

    def refuse(name: str, value: str, accepted: str) -> None:
        refusals.append(Refusal("environment", "", name, repr(value), accepted))

    def text(name: str, default: str, pattern: str, accepted: str) -> str:
        value = variables.get(name) or default
        if value and not re.fullmatch(pattern, value):
            refuse(name, value, accepted)
        return value

    def choice(name: str, words: tuple[str, ...]) -> str:
        value = variables.get(name) or words[0]
        if value not in words:
            refuse(name, value, " or ".join(words))
        return value

    def path(name: str) -> Path | None:
        value = variables.get(name, "")
        return Path(value) if value else None

    certificate, key = path("CULVERT_CONSUL_CERT_FILE"), path("CULVERT_CONSUL_KEY_FILE")
    if (certificate is None) != (key is None):
        refuse("CULVERT_CONSUL_KEY_FILE", str(key or ""), "both, CULVERT_CONSUL_CERT_FILE and CULVERT_CONSUL_KEY_FILE, or neither")
    label, name = "lower-case letters, digits and '-'", "letters, digits, '-' and '_'"
    settings = ConsulSettings(
        address=_address(address, refuse),
        called=variables.get("CULVERT_CONSUL_CALLED", ""),
        token_file=path("CULVERT_CONSUL_TOKEN_FILE"),
        ca_file=path("CULVERT_CONSUL_CA_FILE"),
        certificate_file=certificate,
        key_file=key,
        server_name=text("CULVERT_CONSUL_SERVER_NAME", "", DNS_NAME, "a DNS name"),
        datacenter=text("CULVERT_CONSUL_DATACENTER", "", NAME, name),
        partition=text("CULVERT_CONSUL_PARTITION", "", NAME, name),
        consul_namespace=text("CULVERT_CONSUL_SOURCE_NAMESPACE", "", NAME, name),
        consistency=choice("CULVERT_CONSUL_CONSISTENCY", CONSISTENCIES),
        namespace=text("CULVERT_CONSUL_NAMESPACE", NAMESPACE, DNS_LABEL, label),
        domain=text("CULVERT_CONSUL_DOMAIN", DOMAIN, DNS_NAME, "a DNS name in lower case"),
        datacenter_names=choice("CULVERT_CONSUL_DATACENTER_NAMES", ("false", "true")) == "true",
        exclude=_excluded(variables.get("CULVERT_CONSUL_EXCLUDE", "")),
        proxies=choice("CULVERT_CONSUL_PROXIES", ("false", "true")) == "true",
        grace=_seconds("CULVERT_CONSUL_GRACE", variables.get("CULVERT_CONSUL_GRACE", ""), refuse),
    )
    for variable, value in (("CULVERT_CONSUL_CA_FILE", settings.ca_file), ("CULVERT_CONSUL_SERVER_NAME", settings.server_name)):
        if value and not settings.secure:
            refuse(variable, str(value), "nothing, where CULVERT_CONSUL is not https")
    if certificate is not None and not settings.secure:
        refuse("CULVERT_CONSUL_CERT_FILE", str(certificate), "nothing, where CULVERT_CONSUL is not https")
    if refusals:
        raise ConfigError(*refusals)
    return settings


def _address(text: str, refuse: Callable[[str, str, str], None]) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        refuse("CULVERT_CONSUL", text, ADDRESS)
        return ""
    bare = not (url.username or url.password or url.query or url.fragment) and text.isascii() and text.isprintable() and " " not in text
    if url.scheme not in PORTS or not url.hostname or port == 0 or not bare:
        shown = text if bare else "an address with a user, a query or other characters"  # which may be a secret
        refuse("CULVERT_CONSUL", shown, ADDRESS)
        return ""
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port or PORTS[url.scheme]}{url.path.rstrip('/')}"


def _excluded(text: str) -> frozenset[str]:
    if not text:
        return EXCLUDE
    return frozenset(name for name in (part.strip() for part in text.split(",")) if name and name != "-")


def _seconds(name: str, text: str, refuse: Callable[[str, str, str], None]) -> float:
    if not text:
        return GRACE
    if not text.isascii() or not text.isdigit() or int(text) > LONGEST_GRACE:
        refuse(name, text, f"seconds from 0 to {LONGEST_GRACE}")
        return 0.0
    return float(text)
