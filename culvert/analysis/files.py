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
    """What is in them, and the texts by the names of their files. UsageError for a path that is not there."""
    given, texts = Given(), {}
    for name, source in _sources(paths):
        try:
            text = stdin.read() if source is None else _text(source)
        except (OSError, UnicodeDecodeError) as error:
            texts[name] = ""
            given.refusals.append(_unreadable(name, error))
            continue
        texts[name] = text
        given.file(name, text)
    return given, texts


def _sources(paths: Iterable[Path]) -> Iterator[tuple[str, Path | None]]:
    """Every file once, in order. Files that are named are read whatever they are called."""
    seen: set[Path] = set()
    for path in paths:
        if str(path) == STDIN:
            if Path(STDIN) not in seen:
                seen.add(Path(STDIN))
                yield STDIN_NAME, None
            continue
        if not path.exists():
            raise UsageError(f"{path} is not there")
        for file in sorted(_manifests(path)) if path.is_dir() else [path]:
            real = file.resolve()
            if real not in seen:
                seen.add(real)
                yield str(file), file


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
