"""The command as a process: what it says and exits with where the machine, or the person, does not let it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from culvert.cli.app import app
from culvert.cli.output import UsageError

ROOT = Path(__file__).resolve().parents[2]
# What is imported late is read before: nobody may not be allowed to read the interpreter's own directory.
AS_NOBODY = """
import contextlib, io, os, sys
from culvert.cli import app, down, objects, pods, show, status, up
from culvert.rehearsal import client
import culvert.demo.tour
with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    for arguments in (["status", "--help"], ["nothing"]):
        with contextlib.suppress(SystemExit):
            app.app(arguments)
    with contextlib.suppress(SystemExit):
        app.fail("nothing")
os.setgid(65534); os.setuid(65534)
sys.exit(app.run())
"""


def culvert(*arguments: str, code: str = "", stdout: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", code] if code else ["-m", "culvert"]), *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False)


def test_a_full_disk_is_one_sentence_and_no_finding() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = culvert("analyze", "--codes", stdout=full)
    finally:
        os.close(full)
    assert (done.returncode, done.stderr) == (2, "error: cannot write: No space left on device\n")


def test_who_reads_no_further_is_told_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = culvert("analyze", "--codes", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("command", ["status", "apply -f README.md", "label ns a b=c", "ca rehearse"])
def test_without_root_it_is_said_that_root_is_needed(tmp_path: Path, command: str) -> None:
    state = tmp_path / "of-root"
    state.mkdir(mode=0o700)
    done = culvert(*command.split(), "--name", "none", "--state", str(state), code=AS_NOBODY)
    assert (done.returncode, "Traceback" in done.stderr, "sudo" in done.stderr) == (2, False, True), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_tour_says_so_before_it_begins() -> None:
    done = culvert("demo", code=AS_NOBODY)
    assert (done.returncode, "sudo" in done.stderr, done.stdout) == (2, True, "")


@pytest.mark.parametrize("command", ["up --timeout -1", "apply -f x --wait --timeout -1"])
def test_no_time_is_less_than_none(command: str) -> None:
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 2
    assert "--timeout" in result.output


def test_all_namespaces_is_what_it_is_without_one() -> None:
    assert isinstance(CliRunner().invoke(app, ["get", "-A", "-n", "a"]).exception, UsageError)
    assert "no playground nobody is up" in str(CliRunner().invoke(app, ["get", "-A", "--name", "nobody"]).exception)


def test_help_says_the_exit_codes_and_how_definitions_are_applied() -> None:
    assert "exit code is 1 where something is not ready" in " ".join(CliRunner().invoke(app, ["status", "--help"]).output.split())
    assert "--server-side" in CliRunner().invoke(app, ["crds", "--help"]).output


def test_the_bookstore_that_is_left_running_has_the_name_of_the_environment() -> None:
    command = [sys.executable, "-m", "culvert.demo"]
    environment = {**os.environ, "CULVERT_NAME": "No!"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "--name No! is not accepted" in done.stderr) == (2, True), done.stderr
