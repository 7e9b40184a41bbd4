"""Where the programs are that `make tools` built (tests/tools/build.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "CULVERT_TOOLS"
DEFAULT = "~/.cache/culvert/tools"


def directory() -> Path:
    return Path(os.environ.get(VARIABLE) or DEFAULT).expanduser()


def find(name: str) -> Path:
    """A program, or a folder such as `grpc-js`. The test fails in one line where it was not built: a skip would hide that it never ran."""
    path = directory() / name
    if not path.exists():
        pytest.fail(f"{name} is not built in {directory()}: make tools", pytrace=False)
    return path
