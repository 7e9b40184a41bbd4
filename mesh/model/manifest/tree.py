"""YAML text to a tree of values that know their line. Kubernetes' reading of YAML, and stricter: what could be read two ways is an error.

Documents are cut at `---` lines before parsing, as kubectl does, so that one that is no YAML spoils no other. Dates and `12:30:00`
stay strings; an octal such as `0644` is a number; a key given twice is an error. Size, depth and number of values are bounded
(an alias counts as often as it is used).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from mesh.model.errors import ConfigError, Flaw, Refusal

MAX_DEPTH = 64
MAX_VALUES = 100_000
MAX_BYTES = 16 << 20
MAX_LINES = 1_000_000
MAX_DOCUMENTS = 100_000
BULK = 256 << 10
"""Characters from which on a text is looked over before anything is made of it: some hundred bytes are made of a single one."""
MAX_DIGITS = 64
"""Of a number. Python refuses to show one of some thousands, and nothing here counts that far."""
ACCEPTED = "YAML documents, each one Kubernetes object"
TEMPLATED = "YAML; this looks like a template: render it first (helm template)"
INDENTED = "YAML, which is indented by spaces: there is a tab"
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What `str.splitlines` cuts at."""

Scalar = str | int | float | bool | None


@dataclass(slots=True)
class Node:
    """A value at a line (counted from 1): a scalar, a list of nodes, or a mapping from string keys to nodes."""

    value: Scalar | list[Node] | dict[str, Node]
    line: int

    def get(self, *keys: str) -> Node | None:
        """The node under a path of keys, or None where there is none."""
        node = self
        for key in keys:
            if not isinstance(node.value, dict) or key not in node.value:
                return None
            node = node.value[key]
        return node

    def text(self, *keys: str) -> str | None:
        """The string under a path of keys, or None where there is none or it is something else."""
        node = self.get(*keys)
        return node.value if node is not None and isinstance(node.value, str) else None


@dataclass(frozen=True, slots=True)
class Document:
    """One document's text and the line at which it begins."""

    text: str
    line: int


def overlong(text: str) -> str:
    """Why a file is too much to be looked into; "" where it is not."""
    if len(text) > BULK and sum(text.count(end) for end in LINE_ENDS) > MAX_LINES:
        return f"more than {MAX_LINES} lines"
    return ""


def documents(text: str) -> Iterator[Document]:
    """The documents of a file that say anything at all."""
    lines = text.splitlines(keepends=True)
    start = 0
    for index, line in enumerate([*lines, "---"]):
        if re.match(r"---(\s|$)", line):
            part = lines[start:index]
            if any(content.strip() and not content.lstrip().startswith("#") for content in part):
                yield Document("".join(part), start + 1)
            # What follows on the marker's own line belongs to the new document.
            rest = line[3:].strip()
            if rest and not rest.startswith("#"):
                lines[index] = "   " + line[3:]
                start = index
            else:
                start = index + 1


def read(document: Document, file: str) -> Node:
    """ConfigError, with file and line, for what is no YAML, or too large, or says a key twice."""
    if len(document.text) > MAX_BYTES:
        raise ConfigError(
            Refusal(f"{file}:{document.line}", "", "", f"{len(document.text)} characters", f"at most {MAX_BYTES}", Flaw.UNREADABLE)
        )
    try:
        root = compose(document.text)
        if root is None:
            return Node(None, document.line)
        return _Reader(file, document.line).read(root, 0)
    except yaml.MarkedYAMLError as error:
        line = document.line + (error.problem_mark.line if error.problem_mark else 0)
        accepted = _likely(document.text, error.problem_mark.line if error.problem_mark else 0)
        raise ConfigError(Refusal(f"{file}:{line}", "", "", error.problem or "no YAML", accepted, Flaw.UNREADABLE)) from error
    except yaml.YAMLError as error:
        raise ConfigError(Refusal(f"{file}:{document.line}", "", "", str(error).splitlines()[0], ACCEPTED, Flaw.UNREADABLE)) from error


def _likely(text: str, index: int) -> str:
    """What to write where the library cannot read this line: the two mistakes that people make most are told by name."""
    lines = text.splitlines()
    near = lines[max(0, index - 1) : index + 1]  # it may notice on the line after
    if any("{{" in line for line in near):
        return TEMPLATED
    indents = (line[: len(line) - len(line.lstrip())] for line in near)
    return INDENTED if any("\t" in indent for indent in indents) else ACCEPTED


def compose(text: str) -> yaml.Node | None:
    """The library's own tree of one document, with marks; None where it is empty. yaml.YAMLError, also for more than MAX_VALUES."""
    if len(text) > BULK:
        _count(text)
    loader = _Loader(text)
    try:
        root: yaml.Node | None = loader.get_single_node()
        return root
    finally:
        loader.dispose()


def _count(text: str) -> None:
    """yaml.YAMLError where there are too many values, before there is a tree of them."""
    left = MAX_VALUES
    for event in yaml.parse(text, _Loader):
        left -= isinstance(event, yaml.NodeEvent)
        if left < 0:
            problem = f"more than {MAX_VALUES} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]  # as good a mark


class _Loader(yaml.CSafeLoader):
    """Resolves plain scalars as Kubernetes does: no dates, no base 60, no binary."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - the library's own form


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*|0[0-7]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+0123456789.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


class _Reader:
    """One document: counts what it makes, so that a small file of aliases cannot become a large tree."""

    def __init__(self, file: str, line: int) -> None:
        self._file = file
        self._line = line
        self._left = MAX_VALUES

    def read(self, node: yaml.Node, depth: int) -> Node:
        line = self._line + node.start_mark.line
        self._left -= 1
        if self._left < 0:
            raise self._refuse(line, f"more than {MAX_VALUES} values", "a smaller document")
        if depth > MAX_DEPTH:
            raise self._refuse(line, f"more than {MAX_DEPTH} levels", "a document without an alias that contains itself")
        if isinstance(node, yaml.ScalarNode):
            return Node(self._scalar(node, line), line)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.read(item, depth + 1) for item in node.value], line)
        assert isinstance(node, yaml.MappingNode)
        return Node(self._mapping(node, depth), line)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            line = self._line + key.start_mark.line
            if not isinstance(key, yaml.ScalarNode):
                braces = isinstance(key, yaml.MappingNode) and key.flow_style and node.flow_style
                raise self._refuse(line, "a key that is a list or a mapping", TEMPLATED if braces else "keys that are strings")
            if key.tag == "tag:yaml.org,2002:merge":
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in sources:
                    inner = self.read(source, depth + 1).value
                    if not isinstance(inner, dict):
                        raise self._refuse(line, "a merge of what is no mapping", "a mapping, or a list of mappings, after <<")
                    merged = {**inner, **merged}
                continue
            if key.value in found:
                raise self._refuse(line, f"the key {key.value!r} a second time", "each key once")
            found[key.value] = self.read(value, depth + 1)
        return {**merged, **found} if merged else found

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Scalar:
        text: str = node.value
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() in ("yes", "true", "on")
            case "int":
                if len(text) > MAX_DIGITS:
                    raise self._refuse(line, f"a number of {len(text)} characters", f"numbers of up to {MAX_DIGITS}")
                return _integer(text)
            case "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan"))
            case other:
                raise self._refuse(line, f"the tag {other}", "values without a tag")

    def _refuse(self, line: int, value: str, accepted: str) -> ConfigError:
        return ConfigError(Refusal(f"{self._file}:{line}", "", "", value, accepted, Flaw.UNREADABLE))


def _integer(text: str) -> int:
    sign, digits = (-1 if text[0] == "-" else 1), text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def tree_of(value: Any, origin: str, depth: int = 0) -> Node:
    """Plain values, as JSON gives them, as a tree; without lines. ConfigError where it is nested too deeply."""
    if depth > MAX_DEPTH:
        raise ConfigError(Refusal(origin, "", "", f"more than {MAX_DEPTH} levels", "an object nested less deeply", Flaw.UNREADABLE))
    if isinstance(value, Mapping):
        return Node({str(key): tree_of(entry, origin, depth + 1) for key, entry in value.items()}, 0)
    if isinstance(value, list):
        return Node([tree_of(entry, origin, depth + 1) for entry in value], 0)
    return Node(value, 0)


def plain(node: Node) -> Any:
    """The tree as ordinary Python values, without lines."""
    if isinstance(node.value, dict):
        return {key: plain(value) for key, value in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value
