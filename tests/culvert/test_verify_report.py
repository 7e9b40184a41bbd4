"""A proof as people read it: names whole, no line wider than the terminal, no trailing spaces."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from culvert.verify.findings import Finding, Kind
from culvert.verify.proof import Proof
from culvert.verify.report import show

LONG = "bookstore/storefront-9tszb7n9n-bqj4w"
FINDINGS = [
    Finding(Kind.MESH, LONG, "bookstore/redis-7h8znh58n-5dnft", 15008, 5, 7, "TLS 1.3, AES_256_GCM_SHA384"),
    Finding(Kind.PLAINTEXT, "outsider/outsider", LONG, 80, 5, 7, "the client is outside the mesh; the destination is PERMISSIVE"),
]


def printed(width: int, joined: int = 0) -> str:
    out = io.StringIO()
    show(Proof(findings=FINDINGS, frames=9, joined=joined), Console(file=out, width=width, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 132, 200])
def test_names_are_whole_and_lines_fit(width: int) -> None:
    text = printed(width)
    assert text.count(LONG) == 2
    for line in text.splitlines():
        assert line == line.rstrip()
        assert len(line) <= width


def test_what_is_proved_of_joined_connections_is_said() -> None:
    assert "handshakes were before the capture" in " ".join(printed(80, joined=2).split())
    assert "joined" not in printed(80)
