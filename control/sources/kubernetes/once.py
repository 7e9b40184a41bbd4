"""Everything that an API server holds of what is read, listed once: for who looks and does not stay."""

from __future__ import annotations

from control.kube.client import Api
from control.kube.errors import Expired, Garbled, TooLong
from control.sources.kubernetes import wire
from control.sources.kubernetes.discovery import Discovery
from control.sources.kubernetes.kinds import CORE, Kind
from control.sources.kubernetes.read import ParseObject, Reader
from control.sources.kubernetes.tuning import Tuning
from mesh.model.manifest import Parsed, parse_object

TRIES = 3
"""Lists of one kind, each of which may take so long that the server has forgotten its beginning."""
UNASKED = ("nodes",)
"""What only matters to where traffic goes first; not everybody may list it."""


async def list_all(api: Api, parse: ParseObject = parse_object, tuning: Tuning | None = None) -> list[tuple[str, Parsed]]:
    """Each object with its origin. KubeError where something cannot be had: a part would look like the whole."""
    numbers = tuning or Tuning()
    discovery = Discovery(api)
    await discovery.look()
    reader = Reader(parse, numbers.object_bytes)
    found: list[tuple[str, Parsed]] = []
    for kind in (*CORE, *(discovery.served or {}).values()):
        if kind.resource not in UNASKED:
            found += await _list(api, kind, reader, numbers)
    return found


async def _list(api: Api, kind: Kind, reader: Reader, tuning: Tuning) -> list[tuple[str, Parsed]]:
    for left in reversed(range(TRIES)):
        try:
            return await _pages(api, kind, reader, tuning)
        except Expired:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


async def _pages(api: Api, kind: Kind, reader: Reader, tuning: Tuning) -> list[tuple[str, Parsed]]:
    found: list[tuple[str, Parsed]] = []
    more, limit = "", tuning.page
    while True:
        query = {"limit": str(limit)} | ({"continue": more} if more else {})
        try:
            answer = await api.call("list", kind.resource, kind.path(), query=query, patience=tuning.page_patience, most=tuning.page_bytes)
        except TooLong:
            if limit == 1:
                raise
            limit = max(1, limit // 2)
            continue
        try:
            page = wire.page.decode(answer.body)
            for raw in page.items or []:
                head = wire.head.decode(raw).metadata
                reading = reader.read(kind, head, memoryview(raw))
                if reading.parsed is not None:
                    found.append((reading.origin, reading.parsed))
        except wire.UNREADABLE as error:
            raise Garbled(f"list {kind.resource}: {error}") from error
        more = page.metadata.next
        if not more:
            return found
