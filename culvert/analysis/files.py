"""Manifests from files, directories and standard input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from control.analyze.given import Given, Refusals, Subject
from culvert.cli.output import UsageError
from mesh.model.errors import Flaw, Refusal
from mesh.model.manifest import Refused
from mesh.model.manifest.tree import MAX_BYTES

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"
STDIN_NAME = "stdin"


def read(paths: Iterable[Path], stdin: TextIO) -> tuple[Given, dict[str, str]]:
    """What is in them, and the texts by the names of their files. Each path is applied on top of those before it, as `apply` does it: what
    it says again it says anew. UsageError for a path that is not there.
    """
    given, texts, seen = Given(), dict[str, str](), set[Path]()
    for path in paths:
        made = Given()
        for name, file in _files(path):
            real = file.resolve() if file is not None else Path(STDIN)
            if real not in seen:
                seen.add(real)
                _take(made, texts, name, file, stdin)
        given = made.over(given)
    return given, texts


def _take(given: Given, texts: dict[str, str], name: str, file: Path | None, stdin: TextIO) -> None:
    try:
        texts[name] = stdin.read() if file is None else _text(file)
    except (OSError, UnicodeDecodeError) as error:
        texts[name] = ""
        given.refusals.append(_unreadable(name, error))
    else:
        given.file(name, texts[name])


def _files(path: Path) -> Iterator[tuple[str, Path | None]]:
    """In order; None stands for standard input. A file that is named is read whatever it is called."""
    if str(path) == STDIN:
        yield STDIN_NAME, None
    elif path.is_dir():
        yield from ((str(file), file) for file in sorted(_manifests(path)))
    elif path.exists():
        yield str(path), path
    else:
        raise UsageError(f"{path} is not there")


def _manifests(directory: Path) -> Iterator[Path]:
    """Those below a directory, but not in or of names that begin with a dot."""
    for file in directory.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(directory).parts)
        if not hidden and file.suffix in SUFFIXES and file.is_file():
            yield file


def _text(file: Path) -> str:
    # Not more than the parser would take, whatever the file is.
    with file.open(encoding="utf-8") as opened:
        return opened.read(MAX_BYTES * 4)


def _unreadable(name: str, error: OSError | UnicodeDecodeError) -> Refusals:
    why = error.strerror or str(error) if isinstance(error, OSError) else "it is no text in UTF-8"
    refusal = Refusal(name, "", "", why, "a file of YAML documents in UTF-8", Flaw.UNREADABLE)
    return Refusals(Refused((refusal,), name), Subject("", "", name))
