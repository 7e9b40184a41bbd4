"""Which name was probably meant by one that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

NEAR = 0.7
MOST = 500
"""Names that are looked at closely: that costs much more than everything else that is done for a finding."""


def near(name: str, candidates: Iterable[str]) -> str:
    """The candidate that is much the same, or "". One of its first two letters is taken to be right."""
    likely = (other for other in candidates if other[:1] == name[:1] or other[1:2] == name[1:2])
    return next(iter(get_close_matches(name, list(islice(likely, MOST)), 1, NEAR)), "")
