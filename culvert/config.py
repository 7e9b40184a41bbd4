"""What the command line takes from its environment. Only this file reads it."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Config:
    path: str
    """PATH. Where containers' programs and our tools are looked for; the system's directories are added. Default: those."""

    name: str
    """CULVERT_NAME. The playground that commands mean when --name is not given. Default: culvert."""

    python: str
    """The interpreter that runs us, for the mesh's own processes."""

    source: Path
    """The directory that holds our packages, so that a checkout runs as an installed distribution does."""

    def tool(self, name: str) -> str | None:
        return shutil.which(name, path=self.path)


def kubeconfig() -> Path:
    """KUBECONFIG, of which the first file counts that is there. Default: ~/.kube/config."""
    given = os.environ.get("KUBECONFIG", "")  # noqa: TID251 - this is the file that may
    files = [Path(part) for part in given.split(os.pathsep) if part]
    return next((file for file in files if file.exists()), files[0] if files else Path.home() / ".kube" / "config")


def from_environment() -> Config:
    given = os.environ.get("PATH", "").split(os.pathsep)  # noqa: TID251 - this is the file that may
    path = os.pathsep.join(dict.fromkeys(part for part in [*given, *DEFAULT_PATH.split(":")] if part))
    name = os.environ.get("CULVERT_NAME", "culvert")  # noqa: TID251 - this is the file that may
    return Config(path=path, name=name, python=sys.executable, source=Path(__file__).resolve().parents[1])
