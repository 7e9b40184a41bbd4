"""`culvert logs` and `culvert exec`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from culvert.cli.output import FailedError, UsageError, fail
from culvert.cli.target import name_option
from culvert.playground.containers import Surroundings, container_log, container_program
from culvert.playground.control import load_spec, read_status
from culvert.playground.launch import enter_private_view, in_netns
from culvert.playground.layout import Layout
from culvert.playground.podspec import ContainerSpec
from culvert.playground.records import PodRecord, load_records

FOLLOW_SECONDS = 0.2
CHUNK = 1 << 16
NOT_RUNNABLE, NO_PROGRAM = 126, 127
HOW = "for example: culvert exec POD -n NAMESPACE -- curl -s http://web"


def run_logs(layout: Layout, pod: str, namespace: str | None, container: str | None, *, follow: bool, tail: int) -> None:
    load_spec(layout)
    path = layout.logs / f"{pod}.log"
    if "/" in pod or pod.startswith("pod.") or not path.exists():
        record, chosen = _find(layout, pod, namespace, container)
        path = container_log(layout, record, chosen.name)
    if not path.exists():
        raise FailedError(f"{pod} has not started yet: nothing was written; see culvert get pods{name_option(layout)}")
    _print(path, follow=follow, tail=tail)


def _print(path: Path, *, follow: bool, tail: int) -> None:
    out = sys.stdout.buffer
    with open(path, "rb") as file:
        if tail >= 0:
            out.write(b"".join(file.readlines()[-tail:] if tail else []))
        while True:
            data = file.read(CHUNK)
            if data:
                out.write(data)
                out.flush()
            elif not follow:
                break
            else:
                time.sleep(FOLLOW_SECONDS)
                if path.stat().st_size < file.tell():  # the log was cut to its bound
                    file.seek(0)
    out.flush()


def run_exec(layout: Layout, pod: str, namespace: str | None, container: str | None, command: list[str]) -> None:
    if os.geteuid() != 0:
        raise UsageError("Entering a pod needs root: try again with sudo.")
    spec = load_spec(layout)
    record, chosen = _find(layout, pod, namespace, container)
    around = Surroundings(layout, spec.nodes, spec.path)
    program = container_program(around, record, record.spec(), chosen, tuple(command))

    def inside() -> None:
        if program.view is not None:
            enter_private_view(program.view)
        os.chdir(program.cwd)
        if program.group is not None:
            os.setgroups([])
            os.setgid(program.group)
        if program.user is not None:
            os.setuid(program.user)
        try:
            os.execvpe(command[0], command, dict(program.env))  # noqa: S606 - the whole point
        except OSError as error:
            fail(*cannot_run(command[0], error))

    try:
        in_netns(program.netns, inside)
    except OSError as error:
        what = f": {os.fsdecode(error.filename)}" if error.filename else ""
        raise FailedError(f"pod {pod} cannot be entered{what}: {error.strerror}") from error


def cannot_run(program: str, error: OSError) -> tuple[str, int]:
    """What to say, and the exit code, as shells have it."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{program} does not exist in the pod; programs come from this machine's own file system", NO_PROGRAM
    return f"{program} cannot be run: {error.strerror}", NOT_RUNNABLE


def misplaced(arguments: list[str], command: list[str]) -> str:
    """What is wrong with how the command was given, "" if nothing is. `arguments` are the words after `exec` as they were typed."""
    if "--" in arguments:
        early = command[: len(command) - (len(arguments) - arguments.index("--") - 1)]
        stray = next((word for word in early if word.startswith("-")), "")
        return f"{stray} is no option of culvert exec, which has -n, -c, --name and --state; {HOW}" if stray else ""
    after = arguments[arguments.index(command[0]) :] if command and command[0] in arguments else arguments
    stray = next((word for word in after if word.startswith("-")), "")
    return f"whether {stray} is for culvert exec or for the command cannot be told: put -- before the command; {HOW}" if stray else ""


def _find(layout: Layout, word: str, namespace: str | None, container: str | None) -> tuple[PodRecord, ContainerSpec]:
    """A pod by name, by `pod/NAME`, by `NAMESPACE/NAME`, or any ready pod of `deploy/NAME`."""
    kind, slash, name = word.rpartition("/")
    records = [record for record in load_records(layout.pods) if namespace in (None, record.namespace)]
    if kind in ("deploy", "deployment", "deployments"):
        found = [record for record in records if record.owner == f"Deployment/{name}"]
        ready = {pod["uid"] for pod in read_status(layout)["pods"] if pod["ready"]}
        found = sorted(found, key=lambda record: (record.uid not in ready, record.deleting, record.name))[:1]
    elif slash and kind not in ("pod", "pods", "po"):
        found = [record for record in records if (record.namespace, record.name) == (kind, name)]
    else:
        found = [record for record in records if record.name == name]
    if not found:
        raise FailedError(f"pod {word} does not exist; see culvert get pods{name_option(layout)}")
    if len(found) > 1:
        raise UsageError(f"pod {word} exists in several namespaces; say which with -n")
    containers = found[0].spec().containers + found[0].spec().init_containers
    for candidate in containers:
        if container in (None, candidate.name):
            return found[0], candidate
    raise FailedError(f"pod {word} has no container {container}; it has {', '.join(item.name for item in containers)}")
