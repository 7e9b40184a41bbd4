"""`culvert up`: requirements, manifests, supervisor, and then the truth about what is ready, as it becomes so."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from culvert.cli.objects import read_texts
from culvert.cli.output import FAILED, FailedError, UsageError, count, note, show_refusals
from culvert.cli.refused import ASK_SECONDS, explain, warn_of
from culvert.cli.target import must_be_here, name_option, program
from culvert.config import Config, from_environment
from culvert.playground.apply import apply, next_generation
from culvert.playground.consul import ConsulOptions, checked
from culvert.playground.control import ensure_supervisor, exclusive, supervisor_process, wait_status
from culvert.playground.layout import Layout, node_names
from culvert.playground.readiness import Readiness, readiness
from culvert.playground.requirements import missing
from culvert.playground.spec import PlaygroundSpec
from mesh.model.errors import ConfigError

DEFAULT_NODES = 2


def run_up(
    layout: Layout,
    files: list[Path],
    nodes: int | None,
    *,
    mesh: bool,
    timeout: float,
    certificate_lifetime: int | None,
    consul: ConsulOptions | None = None,
) -> None:
    """`consul`: None where nothing is said of one."""
    must_be_here(layout)
    config = from_environment()
    problems = missing(config, mesh=mesh)
    if problems:
        raise UsageError("\n       ".join(problems))
    layers = read_texts(files)
    began = time.monotonic()
    with exclusive(layout):
        spec = _spec(layout, config, nodes, mesh=mesh, certificate_lifetime=certificate_lifetime, consul=consul)
        for directory in layout.directories(spec.nodes):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec.save(layout)
        applied, refusals = apply(layout, *layers) if layers else ([], [])
        show_refusals(refusals)
        running = supervisor_process(layout) is not None
        size = count(len(spec.nodes), "node")
        note(f"playground {layout.name}: {size}, {'mesh' if mesh else 'no mesh'}{', already running' if running else ''}")
        generation = next_generation(layout)
        ensure_supervisor(layout, spec)
    try:
        final = Progress().follow(layout, generation, timeout)
    except KeyboardInterrupt:
        note(f"the playground goes on coming up. {_next(layout)}; take it away with: {program()} down{name_option(layout)}")
        raise
    if not final.done:
        raise FailedError(f"not everything is ready after {timeout:g} s:\n  " + "\n  ".join(final.waiting_for) + f"\n{_next(layout)}")
    explained = explain(layout, refusals, ASK_SECONDS)
    for outcome in explained:
        note(str(outcome))
    warn_of(layout, (item.key for item in applied))
    note(f"ready in {time.monotonic() - began:.1f} s: {final.summary}. {_next(layout)}")
    if refusals:
        note(f"{count(len(explained), 'object')} refused; see them again with: culvert get refused{name_option(layout)}")
        sys.exit(FAILED)


def _spec(
    layout: Layout,
    config: Config,
    nodes: int | None,
    *,
    mesh: bool,
    certificate_lifetime: int | None,
    consul: ConsulOptions | None = None,
) -> PlaygroundSpec:
    """What `up` asks for. A playground that exists keeps its nodes, its certificates' lifetime and its Consul, unless told otherwise."""
    if consul is not None and not mesh:
        raise UsageError("--consul is where the mesh reads services; leave out --no-mesh, or leave out --consul")
    existing = PlaygroundSpec.load(layout)
    reads = consul if consul is not None else existing.consul if existing is not None else ConsulOptions()
    life = existing.certificate_lifetime if existing is not None and certificate_lifetime is None else certificate_lifetime
    names = node_names(nodes or DEFAULT_NODES) if nodes is not None or existing is None else existing.nodes
    wanted = PlaygroundSpec(names, mesh, config.path, config.python, str(config.source), life, reads)
    if existing is not None and (existing.nodes, existing.mesh) != (wanted.nodes, wanted.mesh):
        has = f"{count(len(existing.nodes), 'node')} and {'a' if existing.mesh else 'no'} mesh"
        raise UsageError(f"playground {layout.name} exists with {has}; {_away(layout)}")
    if existing is not None and existing.certificate_lifetime != life:
        has = "the default" if existing.certificate_lifetime is None else f"{existing.certificate_lifetime} s"
        raise UsageError(f"playground {layout.name} has certificates that live {has}; {_away(layout)}")
    if existing is not None and existing.consul != reads:
        has = f"reads services from Consul at {existing.consul.address}" if existing.consul else "reads services from no Consul"
        raise UsageError(f"playground {layout.name} {has}, or with other files; {_away(layout)}")
    return wanted


def consul_options(address: str | None, token_file: Path | None, ca_file: Path | None) -> ConsulOptions | None:
    """None where no Consul is asked for. UsageError for what cannot be one."""
    if address is None:
        if token_file is not None or ca_file is not None:
            raise UsageError("--consul-token-file and --consul-ca-file say how to ask a Consul; say which one, with --consul")
        return None
    for path in (token_file, ca_file):
        if path is not None and not path.is_file():
            raise UsageError(f"{path} is no file")
    options = ConsulOptions(address, *(str(path.resolve()) if path is not None else "" for path in (token_file, ca_file)))
    try:
        return checked(options)
    except ConfigError as error:
        refusal = error.refusals[0]
        option = {"CULVERT_CONSUL_CA_FILE": "--consul-ca-file"}.get(refusal.field, "--consul")
        raise UsageError(f"{option}: {refusal.value} is not accepted; accepted: {refusal.accepted}") from error


def _away(layout: Layout) -> str:
    option = name_option(layout)
    return (
        f"apply manifests to it as it is with: culvert apply{option} -f ...; "
        f"take it away first with: culvert down{option}; or make another beside it with --name"
    )


def _next(layout: Layout) -> str:
    return f"Look with: {program()} status{name_option(layout)}"


class Progress:
    """Says each thing once when it is ready; on a terminal also what is still awaited, in one line that moves."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._console = Console(stderr=True, highlight=False)
        self.last = Readiness(ready=(), waiting_for=("the supervisor",), summary="")

    def follow(self, layout: Layout, generation: int, seconds: float) -> Readiness:
        with self._console.status("starting") as spinner:

            def look(found: dict[str, Any]) -> bool:
                self.last = readiness(found)
                for line in self.last.ready:
                    if line not in self._said:
                        self._said.add(line)
                        self._console.print(f"  {line}", markup=False)
                waiting = self.last.waiting_for
                spinner.update(f"waiting for {len(waiting)}: {waiting[0]}" if waiting else "")
                return self.last.done

            try:
                wait_status(layout, generation, look, seconds)
            except TimeoutError:
                pass
        return self.last
