"""Gives back the pages of library code that only start-up needed.

Loading gRPC, OpenSSL and Python maps some 25 MB of program text; most of what start-up touched is never run again, but stays resident. The
pages are clean copies of files: letting go of them costs nothing but a soft fault for each that is needed after all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MADV_DONTNEED = 4
LARGE = 1 << 20  # bytes resident; smaller mappings are not worth a call

_libc = ctypes.CDLL(None, use_errno=True)


class Mapping(NamedTuple):
    """A line of /proc/self/smaps with what follows it. Sizes in bytes."""

    start: int
    size: int
    permissions: str
    path: str
    resident: int
    dirty: int


def release_startup_pages() -> int:
    """Let go of the clean pages of large read-only file mappings. Returns how many bytes were resident in them."""
    try:
        with open("/proc/self/smaps") as file:
            mappings = [mapping for mapping in parse_smaps(file) if _releasable(mapping)]
    except OSError:
        return 0
    released = 0
    for mapping in mappings:
        if _libc.madvise(ctypes.c_void_p(mapping.start), ctypes.c_size_t(mapping.size), MADV_DONTNEED) == 0:
            released += mapping.resident
    return released


def _releasable(mapping: Mapping) -> bool:
    """Program text and constants. A page that differs from its file (a relocation, a breakpoint) would be lost: such mappings stay."""
    return mapping.path.startswith("/") and "w" not in mapping.permissions and mapping.dirty == 0 and mapping.resident >= LARGE


def parse_smaps(lines: Iterable[str]) -> Iterator[Mapping]:
    head: list[str] = []
    resident = dirty = 0
    for line in lines:
        words = line.split()
        if words[0].endswith(":"):
            if words[0] == "Rss:":
                resident = int(words[1]) * 1024
            elif words[0] in ("Private_Dirty:", "Shared_Dirty:", "Anonymous:"):
                dirty += int(words[1]) * 1024
            continue
        if head:
            yield _mapping(head, resident, dirty)
        head, resident, dirty = words, 0, 0
    if head:
        yield _mapping(head, resident, dirty)


def _mapping(head: list[str], resident: int, dirty: int) -> Mapping:
    start, end = (int(part, 16) for part in head[0].split("-"))
    return Mapping(start, end - start, head[1], " ".join(head[5:]), resident, dirty)
