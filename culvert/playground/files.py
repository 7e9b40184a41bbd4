"""Files that others watch: written whole or not at all, and only when they say something new."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, text: str, mode: int = 0o600) -> bool:
    """Replace the file by a rename. False if it already says exactly this."""
    try:
        if path.read_text() == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    # A leading dot keeps the half-written file out of the sight of whoever reads the directory.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    os.replace(temporary, path)
    return True


def write_in_place(path: Path, text: str, mode: int = 0o644) -> bool:
    """Rewrite the same inode, for a file that is bind-mounted: a rename would leave the mounts with the old one.

    The new text goes in by one write and the rest is cut off after it, so that a reader in between sees whole new lines first.
    """
    data = text.encode()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        if os.pread(fd, len(data) + 1, 0) == data:
            return False
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
    return True


def write_json(path: Path, value: Any, mode: int = 0o600) -> bool:
    return write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n", mode)


def read_json(path: Path) -> Any:
    """The file's content, or None if it does not exist or is not JSON (a crash of the machine, not of a writer of ours)."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def keep_only(directory: Path, names: set[str]) -> bool:
    """Remove every file of the directory that is not named. True if one was."""
    removed = False
    for entry in os.scandir(directory):
        if entry.name not in names and not entry.name.startswith("."):
            os.unlink(entry.path)
            removed = True
    return removed


def trim_log(path: Path, limit: int) -> None:
    """Bound a log that a process appends to: past `limit` bytes, the newer half moves to the front of the same file.

    Lines written during the move may be lost; the alternative, a pipe through the supervisor, would stop the pod when that is down.
    """
    try:
        if path.stat().st_size <= limit:
            return
        with open(path, "rb+") as file:
            file.seek(-(limit // 2), os.SEEK_END)
            tail = file.read()
            tail = tail[tail.find(b"\n") + 1 :]
            file.truncate(0)
            file.seek(0)
            file.write(tail)
    except FileNotFoundError:
        return
