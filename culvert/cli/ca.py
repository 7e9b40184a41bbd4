"""`culvert ca`: the certificate authority of a running control plane, looked at, changed, and put through a drill."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from culvert.cli.output import FAILED, FailedError, UsageError, console, note, print_json, print_table
from culvert.cli.target import layout_of, name_option

if TYPE_CHECKING:
    from culvert.playground.layout import Layout
    from culvert.rehearsal.drill import Phase
    from culvert.rehearsal.load import Load

app = typer.Typer(no_args_is_help=True, help="The certificate authority: what it signs with, who has renewed, and changing it.")

Name = Annotated[
    str | None, typer.Option("--name", help="Which playground. Default: the one whose state is in --state; else $CULVERT_NAME or culvert.")
]
State = Annotated[Path | None, typer.Option("--state", help="Its state directory. Default: /run/culvert/NAME.")]
Socket = Annotated[Path | None, typer.Option("--socket", help="Where the CA takes commands, instead of a playground's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
POLL = 0.2  # seconds
GREEN = {"renewed": "green", "signs": "green", "not renewed": "yellow", "retiring": "yellow"}


@app.command()
def show(as_json: Json = False, name: Name = None, state: State = None, socket: Socket = None) -> None:
    """Roots, what signs, who has renewed for the last change, and what the next step waits for."""
    from culvert.rehearsal.client import ask

    _show(ask(_socket(name, state, socket), "show"), as_json=as_json)


@app.command()
def renew(
    what: Annotated[str, typer.Argument(help="leaves: every node renews its certificates. intermediate: the CA has another one, too.")],
    wait: Annotated[float, typer.Option("--wait", help="Seconds to wait until all have renewed.")] = 30.0,
    name: Name = None,
    state: State = None,
    socket: Socket = None,
) -> None:
    """Have all certificates renewed now, without waiting for half of their life."""
    if what not in ("leaves", "intermediate"):
        raise UsageError(f"{what} cannot be renewed so; accepted: leaves, intermediate; for the root see: culvert ca root --help")
    path = _socket(name, state, socket)
    _await(path, _ask(path, f"renew-{what}"), wait)


@app.command()
def root(
    step: Annotated[str, typer.Argument(help="introduce, switch, retire: the steps, in this order. abandon: take back the first.")],
    force: Annotated[bool, typer.Option("--force", help="Do not wait for who has not renewed: its connections may fail.")] = False,
    wait: Annotated[float, typer.Option("--wait", help="Seconds to wait until all have renewed for the step.")] = 30.0,
    name: Name = None,
    state: State = None,
    socket: Socket = None,
) -> None:
    """Change the root, step by step. Each may be repeated; a step that would break connections is refused."""
    if step not in ("introduce", "switch", "retire", "abandon"):
        raise UsageError(f"{step} is no step; accepted: introduce, switch, retire, abandon")
    if force and step not in ("switch", "retire"):
        raise UsageError("--force is for the steps that wait for others: switch and retire")
    path = _socket(name, state, socket)
    _await(path, _ask(path, step, **({"force": True} if force else {})), wait)


@app.command()
def rehearse(
    as_json: Json = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of load after each phase has ended.")] = 2.0,
    patience: Annotated[float, typer.Option("--patience", min=1, help="Seconds until a phase that does not end is given up.")] = 60.0,
    pairs: Annotated[int, typer.Option("--pairs", min=1, max=64, help="Pairs of pods on different nodes that talk.")] = 8,
    name: Name = None,
    state: State = None,
) -> None:
    """A drill in a running playground, under load: replaces leaves, intermediate and root; no connection may fail."""
    import asyncio

    from culvert.rehearsal.report import document, troubles

    layout = layout_of(name, state)
    _ready(layout)
    try:
        phases, load = asyncio.run(_rehearse(layout, seconds, patience, pairs))
    except KeyboardInterrupt:
        note(f"the drill ends here, and the CA is left as it is; look with: culvert ca show{name_option(layout)}")
        raise
    found = document(phases, load)
    if as_json:
        print_json(found)
    else:
        for text in load.left_out:
            note(f"left out: {text}")
        for text in troubles(phases):
            note(text)
        if phases[-1].problem:
            note(f"the CA is left as it is; look with: culvert ca show{name_option(layout)}")
    if not found["ok"]:
        raise typer.Exit(FAILED)


async def _rehearse(layout: Layout, seconds: float, patience: float, pairs: int) -> tuple[list[Phase], Load]:
    from culvert.rehearsal.client import SOCKET
    from culvert.rehearsal.drill import BEFORE, Options, run
    from culvert.rehearsal.load import Load
    from culvert.rehearsal.load import pairs as choose
    from culvert.rehearsal.report import line
    from culvert.verify.world import read_cluster

    load = Load(choose(read_cluster(layout.state).pods, pairs), workers=2, held=2, phase=BEFORE)
    try:
        await load.start()
        if not load.pairs:
            why = "; ".join(load.left_out) or "there are no two pods of the mesh on different nodes"
            raise UsageError(f"nothing can be rehearsed: {why}")
        note(f"{len(load.pairs)} pairs of pods talk: two new connections at a time each, and two that stay")
        phases = await run(layout.ca / SOCKET, load, Options(seconds, patience), lambda phase: note(line(phase)))
    finally:
        await load.stop()
    return phases, load


def _ready(layout: Layout) -> None:
    """Raises UsageError where the drill cannot begin."""
    from culvert.playground.control import load_spec
    from culvert.rehearsal.client import SOCKET, ask

    if not load_spec(layout).mesh:
        raise UsageError(f"playground {layout.name} has no mesh")
    shown = ask(layout.ca / SOCKET, "show")
    if shown["phase"] != "steady":
        raise UsageError(
            f"a change of root is under way ({shown['phase']}): finish it first, with: culvert ca root{name_option(layout)} ..."
        )


def _socket(name: str | None, state: Path | None, socket: Path | None) -> Path:
    from culvert.rehearsal.client import SOCKET

    if socket is not None and (name or state):
        raise UsageError("--socket means a CA by itself; leave out --name and --state, or leave out --socket")
    return socket or layout_of(name, state).ca / SOCKET


def _ask(path: Path, command: str, **fields: object) -> dict[str, Any]:
    from culvert.rehearsal.client import ask

    return ask(path, command, **fields)


def _await(path: Path, shown: dict[str, Any], seconds: float) -> None:
    """Wait until everybody has renewed, and show where things are. Raises FailedError."""
    from culvert.rehearsal.client import awaited

    deadline = time.monotonic() + seconds
    while (behind := [holder["holder"] for holder in awaited(shown)]) and time.monotonic() < deadline:
        time.sleep(POLL)
        shown = _ask(path, "show")
    _show(shown, as_json=False)
    if behind:
        raise FailedError(f"not renewed after {seconds:g} s: {', '.join(behind)}; the CA goes on waiting for them")


def _show(shown: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    now = time.time()
    console().print(f"{shown['trustDomain']}: {shown['kept']}; {shown['phase']}, leaves live {shown['longestLeaf']} s at most")
    rows = [["root", *_row(each, now), each["role"]] for each in shown["roots"]]
    rows += [["intermediate", *_row(each, now), "signs" if not number else ""] for number, each in enumerate(shown["signing"][:-1])]
    print_table(["WHAT", "SUBJECT", "KEY", "EXPIRES", "ROLE"], rows, GREEN, ["KEY"])
    if shown["holders"]:
        console().print()
        print_table(["HOLDER", "STATE", "CERTIFICATES", "PROBLEM"], [_holder(each) for each in shown["holders"]], GREEN)
    if shown["gate"] is not None:
        gate = shown["gate"]
        note("the next step may be taken" if gate["open"] else f"the next step waits: {gate['reason']}")
        if gate["forgotten"]:
            note(_forgotten(gate["forgotten"]))
    for kind, text in shown["problems"].items():
        note(f"problem ({kind}): {text}")


def _forgotten(names: list[str]) -> str:
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"not waited for: {len(names)} who are gone, by what all sources have said for some minutes: {shown}"


def _row(each: dict[str, Any], now: float) -> list[str]:
    return [each["subject"], each["key"], _left(each["notAfter"] - now)]


def _left(seconds: float) -> str:
    if seconds <= 0:
        return "expired"
    if seconds < 120:
        return f"in {seconds:.0f} s"
    return f"in {seconds / 3600:.0f} h" if seconds < 2 * 86400 else f"in {seconds / 86400:.0f} d"


def _holder(each: dict[str, Any]) -> list[object]:
    count = "-" if each["certificates"] is None else each["certificates"]
    return [each["holder"], "renewed" if each["renewed"] else "not renewed", count, each["problem"]]
