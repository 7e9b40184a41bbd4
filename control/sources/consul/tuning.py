"""The numbers of the Consul source, with what each is for. Tests shorten them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    wait: float = 60.0
    """Seconds after which an unchanged blocking query is answered anyway. Consul adds up to a sixteenth, and takes ten minutes at most."""

    patience: float = 15.0
    """Seconds for one answer, whole; with a blocking query, beyond those that it may wait."""

    list_bytes: int = 64 << 20
    """Bytes of one list of services or checks. A check's output is up to 4 KiB, and a datacenter that burns shows them all."""

    service_bytes: int = 16 << 20
    """Bytes of one service's instances. One is about 1.5 KiB."""

    services: int = 20_000
    """Services that are taken. More are refused, whole: that is a mistake, or another system's catalogue."""

    reads: int = 8
    """Services that are read at one time. With the three blocking queries that is far below the 200 connections that an agent allows."""

    watch_burst: int = 5
    watch_rate: float = 4.0
    """Answers of one blocking query that are taken at once, and per second in the long run. Where one service flaps without end, a change
    of another is seen within a quarter of a second."""

    service_burst: int = 3
    service_rate: float = 0.5
    """Reads of one service at once, and per second in the long run: what bounds how often a service that flaps is handed over."""

    sweep_share: float = 0.2
    """Share of the time that looking for changes that no list shows may take: a sweep of `t` seconds is followed by a rest of four `t`."""

    resync: float = 300.0
    """Seconds after which everything is read anew though nothing was wrong."""

    lag: float = 2.0
    """Seconds after which a change is looked at again where any server may answer (`stale`): another one may have been behind."""

    first_wait: float = 0.25
    most_wait: float = 15.0
    """Seconds: back-off after a failure, at first and at most, before jitter."""

    renew: float = 10.0
    """Seconds between two looks at token and certificate files after something was refused."""

    offload: int = 64
    """Instances of a service above which it is translated on a thread."""

    kept_patience: float = 10.0
    """Seconds from the start in which Consul may answer before what was kept on disk counts as the state of things."""
