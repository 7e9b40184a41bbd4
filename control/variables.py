"""The variables that the control plane can be told, with what `config` says of each: for `--help`, and to notice a misspelt one.

What is said there beneath each field begins with the variable's name; it is read from the source, so that there is one description of it.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

OURS = "CULVERT_"
NEAR = 0.9
"""Of difflib's ratio: CULVERT_MANIFETS is a mistake, CULVERT_RUN_DIR another program's."""
WIDTH = 110


def described(*settings: type) -> dict[str, str]:
    """Variables of these dataclasses, in their order, each with the sentences about it."""
    return dict(entry for one in settings for entry in _of(one))


def _of(settings: type) -> Iterator[tuple[str, str]]:
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    assert isinstance(made, ast.ClassDef)
    for statement in made.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            found = re.match(r"([A-Z][A-Z_]+): (.*)", str(statement.value.value), re.DOTALL)
            if found is not None:
                yield found[1], " ".join(found[2].split())


def usage(variables: Mapping[str, str]) -> str:
    """A page for people."""
    lines = ["usage: python -m control", "", "The control plane, told by environment variables. docs/control-plane.md says more.", ""]
    for name, text in variables.items():
        lines += [name, textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines) + "\n"


def misspelt(given: Iterable[str], variables: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that nobody here reads and that look like one that is read, with that one."""
    known = list(variables)
    for name in sorted(set(given) - set(known)):
        if name.startswith(OURS) and (near := get_close_matches(name, known, 1, NEAR)):
            yield name, near[0]
