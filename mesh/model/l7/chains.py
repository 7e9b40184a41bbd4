"""A chain: one port of one service, as the proxies before it or beside its clients take its traffic. A listener has many."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mesh.model.l7.jwt import JwtRule
from mesh.model.l7.policies import Policy
from mesh.model.l7.tcp import TcpRoute
from mesh.model.l7.telemetry import NO_TELEMETRY, Telemetry
from mesh.model.workload import IPAddress, IPNetwork


class Traffic(Enum):
    """AUTO is told by its first bytes: HTTP, or else TCP. TLS is passed through; its server name may be looked at."""

    HTTP = "http"
    TCP = "tcp"
    TLS = "tls"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Guard:
    """Who is let in. `tcp` is what is left of the policies where no HTTP is spoken, errors on the closed side."""

    http: tuple[Policy, ...] = ()
    tcp: tuple[Policy, ...] = ()
    jwt: tuple[JwtRule, ...] = ()


OPEN = Guard()


@dataclass(frozen=True, slots=True)
class Chain:
    """`addresses` and `networks` are the service's virtual ones; none at all: it is only found by name. `table` names the route table of
    HTTP, `tcp` are the routes of everything else. `claims`: some route looks at claims, so it is chosen again once tokens are verified.
    `dynamic`: some cluster is found by the host that the request names. `direct`: the addresses are a workload's own, and its tunnel is
    asked for the port that the client asked for; port 0 is any that no other chain is for.
    """

    host: str
    port: int
    traffic: Traffic
    addresses: tuple[IPAddress, ...] = ()
    networks: tuple[IPNetwork, ...] = ()
    table: str = ""
    tcp: tuple[TcpRoute, ...] = ()
    guard: Guard = OPEN
    telemetry: Telemetry = NO_TELEMETRY
    claims: bool = False
    dynamic: bool = False
    direct: bool = False

    @property
    def name(self) -> str:
        return f"{self.host}_{self.port}"

    @property
    def speaks_http(self) -> bool:
        return self.traffic in (Traffic.HTTP, Traffic.AUTO)
