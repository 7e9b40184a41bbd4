"""Which playground a command means: the name that is in the directory, never that of another playground."""

from __future__ import annotations

from pathlib import Path

import pytest

from culvert.cli.output import UsageError
from culvert.cli.target import layout_of, name_option, program
from culvert.playground.layout import STATE_ROOT, Layout, node_names
from culvert.playground.spec import PlaygroundSpec, recorded_name
from culvert.verify.world import CannotVerify, read_cluster


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Of a playground called st."""
    (tmp_path / "kept").mkdir()
    PlaygroundSpec(node_names(1), True, "/bin", "python", "/src").save(Layout("st", tmp_path / "kept"))
    return tmp_path / "kept"


def test_a_state_directory_tells_the_name(state: Path) -> None:
    assert recorded_name(state) == "st"
    assert layout_of(None, state) == layout_of("st", state) == Layout("st", state)
    assert PlaygroundSpec.load(Layout("st", state)) == PlaygroundSpec(node_names(1), True, "/bin", "python", "/src")


def test_what_is_verified_and_rehearsed_is_the_playground_of_that_name(state: Path) -> None:
    Layout("st", state).objects.mkdir()
    assert [node.netns for node in read_cluster(state).nodes] == ["st-node-1"]
    with pytest.raises(CannotVerify, match="no playground in"):
        read_cluster(state / "none")


def test_a_name_that_does_not_agree_with_the_directory_is_refused(state: Path) -> None:
    with pytest.raises(UsageError, match="the state of playground st, not of culvert"):
        layout_of("culvert", state)
    with pytest.raises(UsageError, match="the state of playground st"):
        layout_of("culvert", state, new=True)


def test_a_directory_that_holds_no_playground_means_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no playground keeps its state in"):
        layout_of(None, tmp_path)
    assert layout_of("st", tmp_path) == Layout("st", tmp_path)
    assert layout_of(None, tmp_path, new=True).state == tmp_path


def test_what_is_needed_to_mean_a_playground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CULVERT_NAME", "culvert")
    assert name_option(Layout("culvert", STATE_ROOT / "culvert")) == ""
    assert name_option(Layout("st", STATE_ROOT / "st")) == " --name st"
    assert name_option(Layout("st", tmp_path / "a b")) == f" --name st --state '{tmp_path}/a b'"
    monkeypatch.setenv("CULVERT_NAME", "st")
    assert name_option(Layout("culvert", STATE_ROOT / "culvert")) == " --name culvert"
    assert name_option(Layout("st", STATE_ROOT / "st")) == " --name st"


def test_how_the_command_is_called_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / ".venv" / "bin" / "culvert"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    monkeypatch.setattr("sys.argv", [str(command)])
    monkeypatch.setenv("PATH", str(command.parent))
    assert program() == "culvert"
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == str(command)
    monkeypatch.chdir(tmp_path)
    assert program() == ".venv/bin/culvert"
    monkeypatch.setattr("sys.argv", [str(tmp_path / "culvert" / "__main__.py")])
    monkeypatch.setattr("sys.executable", str(command.with_name("python")))
    assert program() == ".venv/bin/culvert"
    command.unlink()
    assert program() == f"{tmp_path}/.venv/bin/python -m culvert"
