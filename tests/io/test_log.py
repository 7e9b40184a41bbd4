"""Log lines: their form, their levels, and that a reader who stalls costs lines and never the loop."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

import pytest

from mesh.io.log import Levels, LineSink, Log, setup, text_line


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    flags = logging.logThreads, logging.logProcesses, logging.logMultiprocessing, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing, logging.raiseExceptions = flags


def test_json_lines_carry_fields_and_tracebacks(pipe: tuple[int, int]) -> None:
    _, sink = setup("info", "json", LineSink(pipe[1]))
    log = Log("test.json")
    log.info("hello", peer="10.0.0.1", count=3, odd=OSError("x"), text='quote " and\nnewline')
    log.debug("not this one")
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("failed")
    lines = [json.loads(line) for line in os.read(pipe[0], 65536).splitlines()]
    assert [line["message"] for line in lines] == ["hello", "failed"]
    assert lines[0]["level"] == "info"
    assert lines[0]["scope"] == "test.json"
    assert (lines[0]["peer"], lines[0]["count"], lines[0]["odd"], lines[0]["text"]) == ("10.0.0.1", 3, "x", 'quote " and\nnewline')
    assert "ValueError: boom" in lines[1]["traceback"]
    sink.close()


def test_text_lines_are_one_line_each() -> None:
    line = text_line(logging.INFO, "xds", "connected", {"address": "a b", "note": "x\ty", "none": None, "n": 1}, 0.0)
    assert line == b'1970-01-01T00:00:00.000000Z\tinfo\txds\tconnected\taddress="a b"\tnote="x\\ty"\tn=1\n'


def test_levels_are_set_by_scope_and_reset() -> None:
    levels = Levels("warn")
    levels.set("info,test.a=debug,test.b=off")
    assert str(levels) == "info,test.a=debug,test.b=off"
    assert logging.getLogger("test.a").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("test.b").isEnabledFor(logging.CRITICAL)
    levels.reset()
    assert str(levels) == "warn"
    assert not logging.getLogger("test.a").isEnabledFor(logging.INFO)


@pytest.mark.parametrize("spec", ["loud", "info,test=loud", "=info", ""])
def test_a_bad_level_changes_nothing(spec: str) -> None:
    levels = Levels("info")
    with pytest.raises(ValueError, match="expected"):
        levels.set(spec)
    assert str(levels) == "info"


def test_a_stalled_reader_costs_lines_that_are_counted(pipe: tuple[int, int]) -> None:
    sink = LineSink(pipe[1], limit=4096)
    line = b"x" * 1023 + b"\n"
    for _ in range(100):
        sink.write(line)
    assert sink.pending <= 4096
    assert sink.dropped == 100 - 64 - 4  # the pipe holds 64 KiB, the sink 4
    received = b""
    while sink.pending or not received:
        received += os.read(pipe[0], 65536)
        sink.flush()
    received += os.read(pipe[0], 65536)
    assert received.startswith(line * 68)
    assert json.loads(received.splitlines()[-1])["lost"] == 32
    assert os.get_blocking(pipe[1])  # the description that others share was left alone
    sink.close()


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    sink = LineSink(writer)
    os.close(reader)
    sink.write(b"x\n")
    assert sink.dropped == 1
    sink.close()
    os.close(writer)
