"""Tests on text: header values, paths, claims, principals. Regular expressions are RE2, match as a whole, and run in linear time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

import re2

MAX_REGEX = 1024
MAX_PROGRAM = 32768
"""Instructions of a compiled expression. Proxies of ours are started with this limit; Envoy's own would be 100."""


class TextKind(Enum):
    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class TextMatch:
    """`PRESENT` has no value and takes any text, also an empty one."""

    kind: TextKind
    value: str = ""
    ignore_case: bool = False

    def matches(self, subject: str | None) -> bool:
        """`subject` is None where there is no such text at all: no test takes that."""
        if subject is None:
            return False
        value = self.value
        if self.ignore_case and self.kind is not TextKind.REGEX:
            subject, value = subject.lower(), value.lower()
        match self.kind:
            case TextKind.EXACT:
                return subject == value
            case TextKind.PREFIX:
                return subject.startswith(value)
            case TextKind.SUFFIX:
                return subject.endswith(value)
            case TextKind.CONTAINS:
                return value in subject
            case TextKind.REGEX:
                return bool(compiled(value).fullmatch(subject))
            case TextKind.PRESENT:
                return True


PRESENT = TextMatch(TextKind.PRESENT)


def exact(value: str) -> TextMatch:
    return TextMatch(TextKind.EXACT, value)


def regex(value: str) -> TextMatch:
    return TextMatch(TextKind.REGEX, value)


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """ValueError where RE2 does not take the pattern."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(str(error)) from error


def usable_regex(pattern: str) -> bool:
    """Whether a proxy takes it: RE2's dialect, of a bounded length and size."""
    if len(pattern) > MAX_REGEX:
        return False
    try:
        return bool(compiled(pattern).programsize <= MAX_PROGRAM)
    except ValueError:
        return False


_UNSAFE = re.compile(r"[\r\n\x00]")


def unsafe(*values: str) -> bool:
    """Whether some text can be no part of a header or a path."""
    return any(_UNSAFE.search(value) is not None for value in values)


def clean(value: str) -> str:
    """Without what no header can hold."""
    return _UNSAFE.sub("", value)


def quoted(text: str) -> str:
    """`text` as a regular expression that takes only itself."""
    return str(re2.escape(text))
