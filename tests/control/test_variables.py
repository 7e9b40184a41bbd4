"""What can be told to the control plane, and how it says so."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from control.app import ControlPlane
from control.config import from_environment, variables
from control.variables import misspelt, usage
from mesh.model.errors import ConfigError
from tests.control.plane import Plane

ROOT = Path(__file__).parents[2]
GOOD = {"CULVERT_MANIFESTS": "/a", "CULVERT_CA_DIR": "/ca", "CULVERT_NODE_TOKENS": "/tokens"}


def named_in(*paths: Path) -> set[str]:
    """Every variable of ours that these files name."""
    texts = (file.read_text() for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))
    return {name for text in texts for name in re.findall(r"\b(?:CULVERT(?:_[A-Z]+)+|CLUSTER_ID|LOG_LEVEL|LOG_FORMAT)\b", text)}


def test_every_variable_that_is_read_is_described_and_none_else() -> None:
    assert variables().keys() == named_in(ROOT / "control" / "config.py", ROOT / "control" / "sources" / "consul" / "settings.py")


def test_help_is_a_page_of_them() -> None:
    done = subprocess.run([sys.executable, "-m", "control", "--help"], env={}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == usage(variables())
    assert "\nCULVERT_MANIFESTS\n    directories of YAML files, separated by colons." in done.stdout


def test_there_are_no_arguments() -> None:
    done = subprocess.run([sys.executable, "-m", "control", "-v"], env={}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "culvert control: no argument is taken; python -m control --help tells the environment variables\n"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("CULVERT_MANIFETS", "CULVERT_MANIFESTS"),
        ("CULVERT_NODE_TOKEN", "CULVERT_NODE_TOKENS"),
        ("CULVERT_KUBERNETES_CONTEX", "CULVERT_KUBERNETES_CONTEXT"),
    ],
)
def test_a_misspelt_variable_is_refused(wrong: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"{wrong}: .* accepted: {meant}"):
        from_environment({**GOOD, wrong: "x"})


def test_variables_of_others_are_none_of_ours() -> None:
    rooms = [ROOT / room for room in ("agent", "ztunnel", "waypoint", "culvert", "mesh", "tests/cluster", "tests/tools", "tests/e2e")]
    others = named_in(*rooms) | {"CULVERT_CONTROL_SERVICE_HOST", "CULVERT_CONTROL_PORT_15012_TCP_ADDR", "MANIFESTS"}
    assert {"CULVERT_NAME", "CULVERT_TOOLS", "CULVERT_RUN_DIR"} <= others
    assert list(misspelt(others, variables())) == []


def test_tokens_that_are_not_there(tmp_path: Path) -> None:
    config = Plane(tmp_path).plane.config
    assert config.node_tokens is not None
    for token in config.node_tokens.iterdir():
        token.unlink()
    config.node_tokens.rmdir()

    async def main() -> None:
        plane = ControlPlane(config)
        with pytest.raises(ConfigError, match=rf"CULVERT_NODE_TOKENS: '{config.node_tokens}' is not accepted; accepted: a directory"):
            await plane.start()
        await plane.close()

    asyncio.run(main())
