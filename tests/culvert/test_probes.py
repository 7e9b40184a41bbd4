"""Probes: what counts, and what real servers' answers mean. Connections are made in this namespace instead of a node's."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable

import pytest

from culvert.playground import probes
from culvert.playground.probes import Prober, Target, check
from culvert.playground.probespec import ProbeKind, ProbeSpec


async def exit_code(command: tuple[str, ...], seconds: float) -> int:
    return int(command[0])


TARGET = Target("here", "127.0.0.1", exit_code, {"http": 0})


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "in_netns", lambda netns, function: function())


async def served(reply: bytes, probe: Callable[[int], ProbeSpec]) -> tuple[bool, str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        return await check(probe(server.sockets[0].getsockname()[1]), TARGET)


def http(port: int) -> ProbeSpec:
    return ProbeSpec("readinessProbe", ProbeKind.HTTP, port=port, path="/ok")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", (True, "HTTP 200")),
        (b"HTTP/1.0 302 Found\r\n\r\n", (True, "HTTP 302")),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", (False, "HTTP 404")),
        (b"HTTP/1.1 500 Oops\r\n\r\n", (False, "HTTP 500")),
        (b"SSH-2.0-OpenSSH\r\n", (False, "the reply is not HTTP")),
        (b"", (False, "the reply is not HTTP")),
        (b"x" * 100_000, (False, "the reply is not HTTP")),
    ],
)
def test_http_answers(reply: bytes, expected: tuple[bool, str]) -> None:
    assert asyncio.run(served(reply, http)) == expected


def test_a_port_by_name_a_refusal_and_silence() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as quiet:
            port = quiet.getsockname()[1]
            named = Target("here", "127.0.0.1", exit_code, {"http": port})
            assert await check(ProbeSpec("x", ProbeKind.TCP, port="http"), named) == (True, "connected")
            silent = ProbeSpec("x", ProbeKind.HTTP, port=port, timeout=1)
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await check(silent, named) == (False, "no answer within 1 s")
            assert loop.time() - began < 5
        ok, seen = await check(ProbeSpec("x", ProbeKind.TCP, port=port), TARGET)
        assert not ok
        assert "127.0.0.1" in seen or "refused" in seen

    asyncio.run(run())


@pytest.mark.parametrize(("code", "ok"), [("0", True), ("3", False)])
def test_exec_is_the_exit_code(code: str, ok: bool) -> None:
    assert asyncio.run(check(ProbeSpec("x", ProbeKind.EXEC, command=(code,)), TARGET)) == (ok, f"{code} exited with {code}")


class SkippingLoop(asyncio.SelectorEventLoop):
    """Whose clock goes on to the next timer when there is nothing else to do: nobody waits, and how busy the machine is does not count."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        self._now = 0.0
        look = selector.select

        def select(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            self._now += timeout or 0.0
            return look(timeout and 0)

        selector.select = select  # type: ignore[method-assign]

    def time(self) -> float:
        return self._now


def run_prober(monkeypatch: pytest.MonkeyPatch, answers: str, *, kind: str, failures: int = 1, successes: int = 1) -> list[str]:
    """Feed one probe with answers (`+` and `-`), one per look; returns what was told: ready, not ready, dead."""
    told: list[str] = []
    script = iter(answers)

    async def run() -> None:
        done = asyncio.Event()

        async def look(probe: ProbeSpec, target: Target) -> tuple[bool, str]:
            answer = next(script, None)
            if answer is None:
                done.set()
                await asyncio.sleep(3600)
            return answer == "+", "seen"

        def on_ready(ready: bool, seen: str) -> None:
            state = "ready" if ready else "not ready"
            if told[-1:] != [state]:
                told.append(state)

        def on_dead(why: str) -> None:
            told.append("dead")
            done.set()

        monkeypatch.setattr(probes, "check", look)
        spec = ProbeSpec(kind, ProbeKind.TCP, port=1, failures=failures, successes=successes, period=1)
        chosen = {"startupProbe": (spec, spec, None), "readinessProbe": (None, spec, None), "livenessProbe": (None, None, spec)}[kind]
        task = asyncio.create_task(Prober(chosen, TARGET, on_ready, on_dead).run())
        await asyncio.wait_for(done.wait(), 600)
        task.cancel()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(run())
    return told


@pytest.mark.parametrize(
    ("answers", "failures", "successes", "told"),
    [
        ("--+", 3, 1, ["not ready", "ready"]),
        ("+--+", 3, 1, ["ready"]),
        ("+---+", 3, 1, ["ready", "not ready", "ready"]),
        ("+-+-", 1, 1, ["ready", "not ready", "ready", "not ready"]),
        ("+-+++", 1, 3, ["not ready", "ready"]),
    ],
)
def test_readiness_thresholds(monkeypatch: pytest.MonkeyPatch, answers: str, failures: int, successes: int, told: list[str]) -> None:
    assert run_prober(monkeypatch, answers, kind="readinessProbe", failures=failures, successes=successes) == told


@pytest.mark.parametrize(("answers", "told"), [("++++", ["ready"]), ("+--+--+", ["ready"]), ("+---", ["ready", "dead"])])
def test_liveness_ends_the_container_after_failures_in_a_row(monkeypatch: pytest.MonkeyPatch, answers: str, told: list[str]) -> None:
    assert run_prober(monkeypatch, answers, kind="livenessProbe", failures=3) == told


@pytest.mark.parametrize(("answers", "told"), [("++", ["ready"]), ("--+-+", ["not ready", "ready"]), ("-" * 500, ["not ready", "dead"])])
def test_readiness_is_asked_for_once_startup_succeeded(monkeypatch: pytest.MonkeyPatch, answers: str, told: list[str]) -> None:
    assert run_prober(monkeypatch, answers, kind="startupProbe", failures=3) == told
