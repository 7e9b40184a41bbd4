"""Refused policies, kept for the control plane: a policy that cannot be read denies what it would have covered, until it is fixed.

Where an accepted version of the same policy is in force, that one stays and the refused text is not handed on, as on a cluster whose API
server turns an update down; also where that is only as good as told, as its kind or group is misspelt. Each version in force makes up for
one misspelt text, and for none where the policy itself is applied beside it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from culvert.playground.documents import dump, items
from culvert.playground.files import write_atomic
from mesh.model.errors import ConfigError
from mesh.model.manifest import POLICY_KINDS, Guise, Key, Refused, guises, parse_file
from mesh.model.manifest.tree import documents, plain, read


def hold_refused(
    directory: Path, files: Mapping[str, str], refused: Iterable[Refused], in_force: Collection[Key], said: Collection[Key] = ()
) -> None:
    """Replace what is held of these files (name → text), and of the same policies from others, by their policies among `refused`. `said`:
    what else these files hold, and is accepted.
    """
    spoiled: dict[str, set[Key | None]] = {}
    misspelt: Counter[Guise] = Counter()
    for entry in refused:
        if entry.guise is not None and entry.guise.name is not None and entry.guise.namespace is not None:
            misspelt[entry.guise] += 1
        if entry.policy:
            spoiled.setdefault(entry.file, set()).add(entry.key)
    updates: set[Guise] = set()
    for key in in_force:
        claims = guises(key, misspelt) if key.kind in POLICY_KINDS and key not in said else []
        # Of two that may be a version of one, nobody knows which is new.
        if sum(misspelt[guise] for guise in claims) == 1:
            updates.update(claims)
    ours: set[str] = set()
    for file, whole in files.items():
        wanted = {}
        for number, text in enumerate(_refused_texts(whole, file, spoiled[file], in_force, updates) if file in spoiled else ()):
            wanted[f"{_prefix(file)}{number}.yaml"] = f"# from {file}\n{text}"
        ours |= wanted.keys()
        for old in directory.glob(f"{_prefix(file)}*.yaml"):
            if old.name not in wanted:
                old.unlink()
        for name, text in wanted.items():
            write_atomic(directory / name, text)
    drop_refused(directory, in_force)
    # Only now, so that a policy denies all the time.
    drop_refused(directory, {key for keys in spoiled.values() for key in keys if key is not None}, spare=ours)


def held_keys(directory: Path) -> set[Key]:
    """The policies that are held and can be told from others."""
    entries = [entry for path in directory.glob("*.yaml") for entry in parse_file(path.read_text(), str(path)).refused]
    return {entry.key for entry in entries if entry.key is not None}


def drop_refused(directory: Path, keys: Collection[Key], spare: Collection[str] = ()) -> list[Key]:
    """Let go of refused policies with these keys, but for the files in `spare`; returns those that were held."""
    dropped = []
    for path in directory.glob("*.yaml"):
        if path.name in spare:
            continue
        for entry in parse_file(path.read_text(), str(path)).refused:
            if entry.key is not None and entry.key in keys:
                path.unlink(missing_ok=True)
                dropped.append(entry.key)
    return dropped


def _refused_texts(
    whole_text: str, file: str, keys: Collection[Key | None], in_force: Collection[Key], updates: Collection[Guise]
) -> Iterator[str]:
    """Those of these keys (None: of what cannot be told from others), but for new versions of what is in force: that which says which
    object it is, and `updates`.
    """
    known: Collection[Key | Guise | None] = {*in_force, *updates}
    for part in documents(whole_text):
        try:
            whole = items(read(part, file))
            texts = [part.text] if len(whole) < 2 else [dump(plain(node)) for node in whole]
        except ConfigError:
            texts = [part.text]
        for text in texts:
            entries = [entry for entry in parse_file(text, file).refused if entry.policy and entry.key in keys]
            if entries and not any((entry.key if entry.guise is None else entry.guise) in known for entry in entries):
                yield text


def _prefix(file: str) -> str:
    return f"{zlib.crc32(file.encode()):08x}-"
