"""`culvert logs` and `culvert exec`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from culvert.cli.output import FailedError, UsageError
from culvert.playground.containers import Surroundings, container_log, container_program
from culvert.playground.control import load_spec, read_status
from culvert.playground.launch import enter_private_view, in_netns
from culvert.playground.layout import Layout
from culvert.playground.podspec import ContainerSpec
from culvert.playground.records import PodRecord, load_records

FOLLOW_SECONDS = 0.2
CHUNK = 1 << 16


def run_logs(layout: Layout, pod: str, namespace: str | None, container: str | None, *, follow: bool, tail: int) -> None:
    load_spec(layout)
    path = layout.logs / f"{pod}.log"
    if "/" in pod or pod.startswith("pod.") or not path.exists():
        record, chosen = _find(layout, pod, namespace, container)
        path = container_log(layout, record, chosen.name)
    if not path.exists():
        raise FailedError(f"{pod} has not started yet: nothing was written; see culvert get pods")
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
        os.execvpe(command[0], command, dict(program.env))  # noqa: S606 - the whole point

    try:
        in_netns(program.netns, inside)
    except FileNotFoundError as error:
        what = error.filename or command[0]
        raise FailedError(f"{what} does not exist; programs come from this machine's own file system") from error
    except OSError as error:
        raise FailedError(f"{command[0]}: {error.strerror}") from error


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
        raise FailedError(f"pod {word} does not exist; see culvert get pods")
    if len(found) > 1:
        raise UsageError(f"pod {word} exists in several namespaces; say which with -n")
    containers = found[0].spec().containers + found[0].spec().init_containers
    for candidate in containers:
        if container in (None, candidate.name):
            return found[0], candidate
    raise FailedError(f"pod {word} has no container {container}; it has {', '.join(item.name for item in containers)}")
