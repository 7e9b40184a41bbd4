"""What the agent must remember of a namespace that it changed, so that whoever comes after it can put everything back.

One JSON file per namespace in `<run dir>/pods`, written *before* the first change and removed after the last one is undone. The name is the
namespace's cookie, which is unique until the machine restarts; a record of an earlier boot is about a namespace that is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from agent.routing import SYSCTLS, Before
from mesh.io.log import Log

log = Log("records")

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Record:
    """`uid` is the pod's; `netns` and `inode` are how to find the namespace again; `before` is how it was."""

    cookie: int
    uid: str
    netns: str
    inode: int
    before: Before


class Records:
    """The directory of records. Small files; every call blocks for well under a millisecond."""

    def __init__(self, directory: str, boot: str | None = None) -> None:
        self.directory = directory
        self.boot = boot if boot is not None else _boot_id()
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def get(self, cookie: int) -> Record | None:
        """None where there is none, or none of this boot."""
        try:
            with open(self._path(cookie)) as file:
                raw = json.load(file)
            before = raw["before"]
            if raw["boot"] != self.boot:
                return None
            known = Before(_sysctls(before["sysctls"]), tuple(before["rules"]), tuple(before["routes"]))
            return Record(cookie, str(raw["uid"]), str(raw["netns"]), int(raw["inode"]), known)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("a record cannot be read", file=self._path(cookie), error=error)
            return None

    def put(self, record: Record) -> None:
        write_atomically(self._path(record.cookie), json.dumps({"boot": self.boot, **asdict(record)}))

    def remove(self, cookie: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(cookie))

    def __iter__(self) -> Iterator[Record]:
        """All records of this boot; those of an earlier one are removed."""
        for name in sorted(os.listdir(self.directory)):
            stem, extension = os.path.splitext(name)
            if extension != ".json" or not stem.isdigit():
                continue
            record = self.get(int(stem))
            if record is not None:
                yield record
            else:
                self.remove(int(stem))

    def _path(self, cookie: int) -> str:
        return os.path.join(self.directory, f"{cookie}.json")


def write_atomically(path: str, text: str, mode: int = 0o600) -> None:
    """A reader sees the old content or the new, never a part. OSError where the directory does not allow it."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def _sysctls(raw: list[list[str]]) -> tuple[tuple[str, str], ...]:
    """Only names that we write: a record must not make the agent write anywhere else."""
    return tuple((name, str(value)) for name, value in raw if name in SYSCTLS)


def _boot_id() -> str:
    with open(_BOOT_ID) as file:
        return file.read().strip()
