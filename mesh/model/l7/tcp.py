"""Routes of connections: by server name where there is TLS to look into, else all alike. The first that takes the connection counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class TcpDestination:
    cluster: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class TcpRoute:
    """`server_names` empty: any connection, also one without TLS; `*.x` is a wildcard. The choice among destinations is per connection;
    none at all: connections are closed. `idle` None is never; `longest` bounds a connection's life.
    """

    destinations: tuple[TcpDestination, ...]
    server_names: tuple[str, ...] = ()
    name: str = ""
    idle: timedelta | None = timedelta(hours=1)
    longest: timedelta | None = None
