"""How a container becomes a program: its command, environment, directory, user and namespaces. Pure but for a look at directories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from culvert.playground.addresses import node_wire_addresses
from culvert.playground.environment import command_line, container_environment
from culvert.playground.launch import Program, View
from culvert.playground.layout import Layout
from culvert.playground.podspec import ContainerSpec, PodSpec
from culvert.playground.records import PodRecord


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all containers of a playground share. `path` is their PATH."""

    layout: Layout
    nodes: tuple[str, ...]
    path: str


def container_log(layout: Layout, record: PodRecord, container: str) -> Path:
    return layout.logs / f"{keeper_name(record, container)}.log"


def keeper_name(record: PodRecord, container: str) -> str:
    return f"pod.{record.namespace}.{record.name}.{container}"


def container_program(
    around: Surroundings, record: PodRecord, spec: PodSpec, container: ContainerSpec, command: tuple[str, ...] = (), log: Path | None = None
) -> Program:
    """The container's own program, or another `command` beside it (probes, `culvert exec`)."""
    number = around.nodes.index(record.node) + 1
    env = container_environment(container, spec, record, str(node_wire_addresses(number)[0]), around.path)
    return Program(
        argv=command or command_line(container, env),
        env=env,
        netns=record.netns,
        log=log or container_log(around.layout, record, container.name),
        cwd=container.working_dir or _working_directory(record),
        view=View(around.layout.hosts / record.uid, around.layout.resolver, record.name),
        user=container.user,
        group=container.group,
    )


def _working_directory(record: PodRecord) -> str:
    """An image has a working directory; here it is the directory of the manifest."""
    directory = Path(record.source.rpartition(":")[0]).parent
    return str(directory) if directory.is_absolute() and directory.is_dir() else "/"
