"""The directory of pods: strict files, atomic replacement, and nothing concluded from what cannot be read."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from agent.pods import MAX_FILE, DirectoryPods, parse_pod
from mesh.model.errors import ConfigError

GOOD = {
    "uid": "u1",
    "name": "reviews-1",
    "namespace": "shop",
    "serviceAccount": "reviews",
    "netns": "/run/netns/x",
    "labels": {"app": "reviews"},
    "annotations": {},
    "namespaceLabels": {"istio.io/dataplane-mode": "ambient"},
    "hostNetwork": False,
    "phase": "Running",
    "ips": ["10.244.1.5", "fd00::5"],
}


def put(directory: Path, uid: str, **changes: object) -> None:
    path = directory / f"{uid}.json"
    path.with_suffix(".tmp").write_text(json.dumps(GOOD | {"uid": uid} | changes))
    path.with_suffix(".tmp").rename(path)


def test_a_pod() -> None:
    pod = parse_pod(json.dumps(GOOD), "u1.json")
    assert (pod.uid, pod.name, pod.namespace, pod.service_account, pod.ips) == (
        "u1",
        "reviews-1",
        "shop",
        "reviews",
        ("10.244.1.5", "fd00::5"),
    )
    assert pod.enrolment.enrolled
    assert not parse_pod(json.dumps(GOOD | {"hostNetwork": True}), "u1.json").enrolment.enrolled


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"uid": "../etc"}, "uid"),
        ({"uid": "u2"}, "uid"),
        ({"name": ""}, "name"),
        ({"name": "x" * 254}, "name"),
        ({"namespace": 5}, "namespace"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"hostNetwork": "false"}, "hostNetwork"),
        ({"ips": "10.0.0.1"}, "ips"),
        ({"label": {}}, "label"),
    ],
)
def test_a_pod_that_is_refused_names_the_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_pod(json.dumps(GOOD | change), "u1.json")
    assert [refusal.field for refusal in raised.value.refusals] == [field]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_pod(text, "u1.json")


def test_reading_and_reading_again(tmp_path: Path) -> None:
    source = DirectoryPods(str(tmp_path))
    assert source.snapshot() is None
    assert source.read()
    assert source.snapshot() == {}
    assert not source.read()
    put(tmp_path, "u1")
    put(tmp_path, "u2")
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / ".u3.json").write_text("being written")
    assert source.read()
    assert sorted(source.snapshot() or ()) == ["u1", "u2"]
    put(tmp_path, "u1", phase="Succeeded")
    assert source.read()
    (tmp_path / "u2.json").unlink()
    assert source.read()
    pods = source.snapshot()
    assert pods is not None
    assert {uid: pod.phase for uid, pod in pods.items()} == {"u1": "Succeeded"}


def test_a_file_that_breaks_keeps_its_pod(tmp_path: Path) -> None:
    put(tmp_path, "u1")
    source = DirectoryPods(str(tmp_path))
    source.read()
    (tmp_path / "u1.json").write_text("{")
    (tmp_path / "u2.json").write_text("x" * (MAX_FILE + 1))
    assert not source.read()
    assert list(source.snapshot() or ()) == ["u1"]
    assert source.unreadable() == {"u1", "u2"}
    put(tmp_path, "u2")
    assert source.read()
    assert source.unreadable() == {"u1"}
    (tmp_path / "u1.json").unlink()
    assert source.read()
    assert (list(source.snapshot() or ()), source.unreadable()) == (["u2"], frozenset())


def test_a_directory_that_is_away_takes_no_pod_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "pods"
    source = DirectoryPods(str(directory))
    assert not source.read()
    assert source.snapshot() is None
    directory.mkdir()
    put(directory, "u1")
    assert source.read()
    shutil.move(directory, tmp_path / "elsewhere")
    assert not source.read()
    assert list(source.snapshot() or ()) == ["u1"]


def test_changes_are_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        source, changed = DirectoryPods(str(tmp_path)), asyncio.Event()
        task = asyncio.create_task(source.run(changed.set))
        for step in (
            lambda: None,
            lambda: put(tmp_path, "u1"),
            lambda: put(tmp_path, "u1", phase="Failed"),
            lambda: os.unlink(tmp_path / "u1.json"),
        ):
            changed.clear()
            step()
            async with asyncio.timeout(2):  # far less than the look without an event
                await changed.wait()
        assert source.snapshot() == {}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_directory_that_comes_later_is_found(tmp_path: Path) -> None:
    async def main() -> None:
        directory = tmp_path / "pods"
        source, changed = DirectoryPods(str(directory)), asyncio.Event()
        task = asyncio.create_task(source.run(changed.set))
        await asyncio.sleep(0.01)
        directory.mkdir()
        put(directory, "u1")
        async with asyncio.timeout(2):
            await changed.wait()
        assert list(source.snapshot() or ()) == ["u1"]
        task.cancel()

    asyncio.run(main())
