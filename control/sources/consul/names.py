"""What Consul's tags and meta are called here. Pure.

A tag is any text: `v2`, `v1.2.3`, `traefik.http.routers.web.rule=Host(...)`. A subset's name is a DNS label. Two tags never share a name,
and a tag has the same name whatever other tags there are:

    v2                     →  v2                       a DNS label without "--": itself
    v1.2.3                 →  v1--2--3                 such labels with dots between them: a dot becomes "--"
    Team A                 →  team-a---e18d322f14      anything else: what can be read of it, "---", and ten digits of its SHA-256

An endpoint has the label `consul.tag/<name>` for each of its tags, whose value is the tag itself where that is a label's value, else empty.
"""

from __future__ import annotations

import re
from hashlib import sha256

TAG_LABEL = "consul.tag/"
META_LABEL = "consul.meta/"
LONGEST = 63
READABLE = 50

_PLAIN = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
_DOTTED = re.compile(r"[a-z0-9](?:-?[a-z0-9])*(?:\.[a-z0-9](?:-?[a-z0-9])*)+")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_KEY = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def subset_name(tag: str) -> str:
    """A DNS label of up to 63 characters, of this tag alone."""
    if len(tag) <= LONGEST and _PLAIN.fullmatch(tag):
        return tag
    if _DOTTED.fullmatch(tag):
        name = tag.replace(".", "--")
        if len(name) <= LONGEST:
            return name
    readable = re.sub(r"[^a-z0-9]+", "-", tag.lower()).strip("-")[:READABLE].rstrip("-") or "tag"
    return f"{readable}---{sha256(tag.encode()).hexdigest()[:10]}"


def tag_label(tag: str) -> tuple[str, str]:
    """The label that an instance with this tag has."""
    return TAG_LABEL + subset_name(tag), tag if is_label_value(tag) else ""


def meta_label(key: str, value: str) -> tuple[str, str] | None:
    """The label of a meta entry; None where its key or its value cannot be one."""
    return (META_LABEL + key, value) if _KEY.fullmatch(key) and is_label_value(value) else None


def is_label_value(text: str) -> bool:
    return _VALUE.fullmatch(text) is not None
