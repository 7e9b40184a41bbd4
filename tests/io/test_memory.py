"""Which mappings may be let go of."""

from __future__ import annotations

from mesh.io.memory import Mapping, _releasable, parse_smaps, release_startup_pages

SMAPS = """\
7f0000000000-7f0000400000 r-xp 00000000 fe:00 1   /lib/with space/libbig.so
Size:               4096 kB
Rss:                2048 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f0000400000-7f0000800000 rw-p 00000000 00:00 0
Rss:                4096 kB
Private_Dirty:      4096 kB
"""


def test_smaps() -> None:
    library, heap = parse_smaps(SMAPS.splitlines(keepends=True))
    assert library == Mapping(0x7F0000000000, 4 << 20, "r-xp", "/lib/with space/libbig.so", 2 << 20, 0)
    assert (heap.path, heap.dirty) == ("", 4 << 20)
    assert _releasable(library)
    assert not _releasable(heap)
    assert not _releasable(library._replace(dirty=4096))
    assert not _releasable(library._replace(permissions="rw-p"))
    assert not _releasable(library._replace(resident=4096))


def test_this_process_survives_it() -> None:
    assert release_startup_pages() > 0
    assert parse_smaps([])
