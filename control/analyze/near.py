"""Which name was probably meant by one that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

NEAR = 0.7
MOST = 500
"""Names that are looked at closely: that costs much more than everything else that is done for a finding."""


def near(name: str, candidates: Iterable[str]) -> str:
    """The candidate that is much the same, or "". One of its first two letters is taken to be right; what only has a part more, as
    `catalog-v2` has, is another name.
    """
    likely = (other for other in candidates if (other[:1] == name[:1] or other[1:2] == name[1:2]) and not _longer(name, other))
    return next(iter(get_close_matches(name, list(islice(likely, MOST)), 1, NEAR)), "")


def _longer(one: str, other: str) -> bool:
    return one.startswith(f"{other}-") or other.startswith(f"{one}-")
