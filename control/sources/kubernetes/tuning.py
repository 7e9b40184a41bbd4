"""The numbers of the Kubernetes source, with what each is for. Tests shorten them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    page: int = 500
    """Objects asked for at once. A page of more than `page_bytes` is asked for again in half the size."""

    page_bytes: int = 32 << 20
    """Bytes of one page. An API server stores objects of up to 1.5 MiB."""

    page_patience: float = 60.0
    """Seconds for one page, whole."""

    object_bytes: int = 2 << 20
    """Bytes of one object's JSON. A larger one is refused."""

    line_bytes: int = 16 << 20
    """Bytes of one line of a watch. More is no API server's."""

    lists: int = 3
    """Kinds that are listed at one time: bounds the memory that pages take, and our load on an API server that everybody lists anew."""

    watch: float = 60.0
    """Seconds after which the server is asked to end a watch, and up to half as much again. Resuming costs it next to nothing, and it is
    what bounds how long a connection that is dead without a sign goes unnoticed."""

    silence: float = 10.0
    """Seconds beyond that in which nothing came, after which the connection counts as dead."""

    open: float = 15.0
    """Seconds until a watch has begun."""

    pause: float = 0.02
    """Seconds between two batches of one watch. Of an object that changes more often, the newest version is handed over."""

    offload: int = 64 << 10
    """Bytes of a batch above which it is decoded on a thread."""

    resync: float = 3600.0
    """Seconds, and up to half as much again, after which a kind is listed anew though nothing was wrong. 0: never."""

    discovery: float = 10.0
    """Seconds between two looks at which kinds are served. Unchanged, the answer is a 304 without a body."""

    first_wait: float = 0.5
    most_wait: float = 30.0
    """Seconds: back-off after a failure, at first and at most, before jitter."""

    healthy: float = 5.0
    """Seconds that a watch has to last for the back-off to begin anew."""

    set_back: float = 60.0
    """Seconds for which every list has to be older than what was seen before that is taken for a set-back (a restored backup)."""

    kept_patience: float = 10.0
    """Seconds from the start in which the API server may answer before what was kept on disk counts as the state of things."""
