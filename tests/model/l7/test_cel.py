"""Which expressions are let through to proxies. `test_envoy_config_any` shows that Envoy builds what this takes."""

from __future__ import annotations

import pytest

from mesh.model.l7.cel import usable

GOOD = [
    "true",
    "response.code >= 500",
    "request.method == 'GET' && !(response.code in [200, 201])",
    "has(request.headers) ? request.headers['x'].startsWith(\"a\") : false",
    "has(a[0].b) || has(a.b().c)".replace("b().c", "size().c"),
    "request.path.matches('^/a.*$') && size(request.path) > 3 && request.path.size() < 10",
    "request.duration > duration('1s')",
    "-1 + 2 * 3 % 4 <= 5u",
    "!!a",
    "a['b'][1].c == 'it\\'s'",
    "'é' == \"é\"",
]
BAD = [
    "",
    "a b",
    "foo(1)",
    "a.foo()",
    "[1].all(x, x > 0)",
    "has(x)",
    "has(a['b'])",
    "has(a == b.c)",
    "has(a.b, c.d)",
    "size()",
    "size(1, 2)",
    "request.path.contains()",
    "request.path.matches('(')",
    "request.path.matches('\\\\')",
    "a.in",
    "in",
    "for",
    "1 +",
    "(1",
    "a ? b",
    "99999999999999999999",
    "'unfinished",
    "'line\nbreak'",
    "a = b",
    "{'a': 1}",
    "(" * 40 + "1" + ")" * 40,
    "a || " * 2000 + "a",
]


@pytest.mark.parametrize("expression", GOOD)
def test_taken(expression: str) -> None:
    assert usable(expression)


@pytest.mark.parametrize("expression", BAD, ids=[text[:30] for text in BAD])
def test_not_taken(expression: str) -> None:
    assert not usable(expression)
