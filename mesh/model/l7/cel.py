"""The part of CEL that every proxy takes as a filter of its log: a check, without evaluating anything.

An expression that a proxy cannot build would make it refuse the listener that the filter is in, and every service behind it. So what is
let through is what was seen to be built: attributes, literals, comparisons, logic, arithmetic, and a few functions; no macros that
loop, and none of the functions that proxies leave out.

    expr    = or ["?" or ":" expr]          unary   = {"!"} member | {"-"} member
    or      = and {"||" and}                member  = primary {"." IDENT ["(" args ")"] | "[" expr "]"}
    and     = rel {"&&" rel}                primary = IDENT ["(" args ")"] | "(" expr ")" | "[" args "]" | literal
    rel     = sum {(< <= >= > == != in) sum}
    sum     = product {(+ -) product}       product = unary {(* / %) unary}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from mesh.model.l7.texts import usable_regex

MAX_LENGTH, MAX_DEPTH = 4096, 32
FUNCTIONS = {"size": 1, "has": 1, "timestamp": 1, "duration": 1}
METHODS = {"contains": 1, "startsWith": 1, "endsWith": 1, "matches": 1, "size": 0}
"""Names, and how many arguments each takes."""
RESERVED = frozenset(
    ("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package", "namespace", "return")
    + ("var", "void", "while", "in", "null", "true", "false")
)
_TOKEN = re.compile(
    r"""\s+|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>\d+\.\d+|\d+u?)"""
    r"""|(?P<text>"(?:[^"\\\n\x00-\x1f]|\\["'\\])*"|'(?:[^'\\\n\x00-\x1f]|\\["'\\])*')"""
    r"""|(?P<sign>\|\||&&|[<>=!]=|[-+*/%<>!?:.,()\[\]])"""
)
_LARGEST = 2**63 - 1


@lru_cache(maxsize=256)
def usable(expression: str) -> bool:
    if len(expression) > MAX_LENGTH:
        return False
    try:
        _Parser(_tokens(expression)).whole()
    except ValueError:
        return False
    return True


def _tokens(expression: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(expression[at:])
        at = match.end()
        if match.lastgroup is not None:
            found.append((match.lastgroup, match.group()))
    return [*found, ("end", "")]


def _selects(argument: list[tuple[str, str]]) -> bool:
    """Whether it is a field of something, `a.b` or `a[0].b`, and nothing around it."""
    depth = 0
    for kind, value in argument:
        depth += value in ("(", "[") if kind == "sign" else 0
        if depth == 0 and not (kind == "word" and value not in RESERVED) and value != ".":
            return False
        depth -= value in (")", "]") if kind == "sign" else 0
    return len(argument) >= 3 and argument[-1][0] == "word" and argument[-2][1] == "."


class _Parser:
    """ValueError where the expression is none."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> None:
        self._expression()
        if self._kind != "end":
            raise ValueError(self._value)

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0]

    @property
    def _value(self) -> str:
        return self._tokens[self._at][1]

    def _take(self, *signs: str) -> bool:
        if self._kind in ("sign", "word") and self._value in signs:
            self._at += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise ValueError(self._value)

    def _expression(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("too deep")
        self._binary(0)
        if self._take("?"):
            self._binary(0)
            self._expect(":")
            self._expression()
        self._depth -= 1

    _LEVELS = (("||",), ("&&",), ("<", "<=", ">=", ">", "==", "!=", "in"), ("+", "-"), ("*", "/", "%"))

    def _binary(self, level: int) -> None:
        if level == len(self._LEVELS):
            self._unary()
            return
        self._binary(level + 1)
        while self._take(*self._LEVELS[level]):
            self._binary(level + 1)

    def _unary(self) -> None:
        if self._take("!"):
            while self._take("!"):
                pass
        else:
            while self._take("-"):
                pass
        self._member()

    def _member(self) -> None:
        self._primary()
        while True:
            if self._take("."):
                name = self._name()
                if self._take("("):
                    self._call(name, METHODS)
            elif self._take("["):
                self._expression()
                self._expect("]")
            else:
                return

    def _primary(self) -> None:
        if self._take("("):
            self._expression()
            self._expect(")")
        elif self._take("["):
            self._arguments("]")
        elif self._kind == "text":
            self._at += 1
        elif self._take("true", "false", "null"):
            pass
        elif self._kind == "number":
            if float(self._value.rstrip("u")) > _LARGEST:
                raise ValueError(self._value)
            self._at += 1
        else:
            name = self._name()
            if self._take("("):
                self._call(name, FUNCTIONS)

    def _name(self) -> str:
        if self._kind != "word" or self._value in RESERVED:
            raise ValueError(self._value)
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _call(self, name: str, known: Mapping[str, int]) -> None:
        """After the opening parenthesis."""
        begin = self._at
        if name not in known or self._arguments(")") != known[name]:
            raise ValueError(name)
        argument = self._tokens[begin : self._at - 1]
        if name == "has" and not _selects(argument):
            raise ValueError("has() is asked of a field")
        if name == "matches" and argument[0][0] == "text":
            # Proxies compile an expression that is written out when they build the filter.
            pattern = re.sub(r"\\(.)", r"\1", argument[0][1][1:-1])
            if len(argument) != 1 or not usable_regex(pattern):
                raise ValueError(pattern)

    def _arguments(self, end: str) -> int:
        """How many there are."""
        if self._take(end):
            return 0
        self._expression()
        count = 1
        while self._take(","):
            self._expression()
            count += 1
        self._expect(end)
        return count
