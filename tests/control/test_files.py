"""Directories of manifests: when a file counts, and that nothing that goes wrong there opens anything. Times are given, nobody sleeps."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from control.sources import SourceState, files
from control.sources.files import IMPATIENCE, SETTLE, Directories, FilesSource
from mesh.model.manifest import Parsed, Refused

OLD = 1_000.0
NOW = 2_000.0


def namespace(name: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n"


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = Directories([path])
        self.files: dict[str, Parsed] = {}
        self.now = 0.0

    def write(self, name: str, text: str, when: float = OLD) -> None:
        (self.path / name).write_text(text)
        os.utime(self.path / name, (when, when))

    def scan(self, later: float = 1.0) -> tuple[bool, bool]:
        """(changed, not settled), `later` seconds after the last scan; the files' clock says NOW."""
        self.now += later
        unsettled = self.found.scan(NOW, self.now)
        changes = self.found.take()
        self.files |= changes
        return bool(changes), unsettled

    @property
    def names(self) -> list[str]:
        return [entry.name for _, file in sorted(self.files.items()) for entry in file.objects]

    @property
    def refused(self) -> list[Refused]:
        return [entry for file in self.files.values() for entry in file.refused]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_files_are_read_once_and_again_when_they_change(directory: Directory) -> None:
    directory.write("a.yaml", namespace("one"))
    assert directory.scan() == (True, False)
    assert directory.scan() == (False, False)
    directory.write("a.yaml", namespace("three"), OLD + 1)
    assert directory.scan() == (True, False)
    assert directory.names == ["three"]


def test_only_manifests_are_read(directory: Directory) -> None:
    for name in ("a.yaml", "b.yml", "c.json", ".d.yaml", "e.yaml~", "f.txt", "yaml"):
        directory.write(name, namespace(name[0] if name[0] != "." else "d"))
    (directory.path / "g.yaml").mkdir()
    directory.scan()
    assert directory.names == ["a", "b", "c"]


def test_a_file_that_is_being_written_waits_and_its_old_content_counts(directory: Directory) -> None:
    directory.write("a.yaml", namespace("old"))
    directory.scan()
    directory.write("a.yaml", namespace("half-wri"), NOW)
    assert directory.scan() == (False, True)
    assert directory.names == ["old"]
    directory.write("a.yaml", namespace("new"), NOW - 2 * SETTLE)
    assert directory.scan() == (True, False)
    assert directory.names == ["new"]


def test_a_file_that_never_rests_is_read_in_the_end(directory: Directory) -> None:
    directory.write("a.yaml", namespace("busy"), NOW)
    assert directory.scan() == (False, True)
    assert not directory.found.complete
    assert directory.scan(IMPATIENCE + 0.1) == (True, False)
    assert directory.names == ["busy"]
    assert directory.found.complete


@pytest.mark.parametrize(
    "half", ["", "{apiVersion: v1, kind: Namesp", namespace("one"), "--- [\n"], ids=["empty", "half", "fewer", "broken"]
)
def test_of_a_file_that_never_rests_nothing_is_gone(directory: Directory, half: str) -> None:
    """Whoever writes it in place may be in the middle of that whenever it is read."""
    directory.write("a.yaml", namespace("one") + "---\n" + namespace("two"))
    directory.scan()
    directory.write("a.yaml", half, NOW)
    for _ in range(3):
        assert directory.scan(IMPATIENCE + 0.1) == (False, True)
    assert directory.names == ["one", "two"]
    directory.write("a.yaml", namespace("one") + "---\n" + namespace("two") + "---\n" + namespace("three"), NOW + 0.01)
    assert directory.scan(IMPATIENCE + 0.1) == (True, False)
    assert directory.names == ["one", "two", "three"]
    directory.write("a.yaml", half, OLD + 1)
    assert directory.scan() == (True, False)
    assert directory.names == (["one"] if half == namespace("one") else [])


def test_a_new_file_that_changes_while_it_is_read_is_read_in_the_end(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where others are renamed over it all the time, whose times are old."""
    count = 0

    def read(path: str) -> tuple[Parsed, files.Stamp | None]:
        nonlocal count
        count += 1
        directory.write(".next", namespace(f"n{count}"), OLD + count)
        (directory.path / ".next").rename(path)
        return read_file(path)

    read_file = files._read
    monkeypatch.setattr(files, "_read", read)
    directory.write("a.yaml", namespace("n0"))
    assert directory.scan() == (False, True)
    assert directory.scan(IMPATIENCE / 2) == (False, True)
    assert not directory.found.complete
    assert directory.scan(IMPATIENCE) == (True, False)
    assert directory.names == ["n3"]
    assert directory.found.complete


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str) -> tuple[Parsed, files.Stamp | None]:
        os.unlink(path)
        os.mkfifo(path)
        return read_file(path)

    read_file = files._read
    monkeypatch.setattr(files, "_read", read)
    directory.write("a.yaml", namespace("one"))
    directory.scan()
    assert [entry.policy for entry in directory.refused] == [True]


def test_a_bug_of_the_parser_refuses_one_file(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(text: str, path: str) -> Parsed:
        if "bad" in text:
            raise RuntimeError
        return parse_file(text, path)

    parse_file = files.parse_file
    monkeypatch.setattr(files, "parse_file", parse)
    directory.write("a.yaml", namespace("good"))
    directory.write("b.yaml", namespace("bad"))
    directory.scan()
    assert directory.names == ["good"]
    assert [(entry.policy, "a bug of ours" in entry.refusals[0].value) for entry in directory.refused] == [(True, True)]


def test_a_file_that_is_away_for_a_moment_still_counts(directory: Directory) -> None:
    directory.write("a.yaml", namespace("one"))
    directory.scan()
    (directory.path / "a.yaml").unlink()
    assert directory.scan() == (False, True)
    assert directory.names == ["one"]
    directory.write("a.yaml", namespace("two"), OLD + 1)
    assert directory.scan(SETTLE / 2) == (True, False)
    assert directory.names == ["two"]
    (directory.path / "a.yaml").unlink()
    directory.scan()
    assert directory.scan(2 * SETTLE) == (True, False)
    assert directory.names == []


def test_a_directory_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "mounted")
    directory.path.mkdir()
    directory.write("a.yaml", namespace("one"))
    directory.scan()
    directory.path.rename(tmp_path / "unmounted")
    assert directory.scan() == (False, False)
    assert directory.scan() == (False, False)
    assert directory.names == ["one"]


def test_an_empty_directory_in_the_place_of_one_with_manifests_changes_nothing(tmp_path: Path) -> None:
    """As the mount point when the volume is gone."""
    directory = Directory(tmp_path / "mounted")
    directory.path.mkdir()
    directory.write("a.yaml", namespace("one"))
    directory.scan()
    directory.path.rename(tmp_path / "unmounted")
    directory.path.mkdir()
    (directory.path / "README").write_text("nothing is mounted here")
    for _ in range(3):
        assert directory.scan() == (False, False)
        assert directory.names == ["one"]
    directory.write("b.yaml", namespace("two"))
    directory.scan()
    directory.scan()
    assert directory.names == ["two"], "with manifests it counts as it is"
    (directory.path / "b.yaml").unlink()
    directory.scan()
    directory.scan()
    assert directory.names == [], "and so does taking the last one out of it"


def test_a_volume_that_comes_back_is_read_again(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "mounted")
    directory.path.mkdir()
    directory.write("a.yaml", namespace("one"))
    directory.scan()
    directory.path.rename(tmp_path / "unmounted")
    directory.path.mkdir()
    directory.scan()
    directory.path.rmdir()
    (tmp_path / "unmounted").rename(directory.path)
    assert directory.scan() == (False, False)
    (directory.path / "a.yaml").unlink()
    directory.scan()
    assert directory.scan() == (True, False)
    assert directory.names == []


def test_until_a_directory_is_there_nothing_is_complete(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "later")
    directory.scan()
    assert not directory.found.complete
    directory.path.mkdir()
    directory.scan()
    assert directory.found.complete


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"apiVersion: v1 \xe9"], ids=["UTF-16", "Latin-1"])
def test_what_is_no_text_is_refused_and_may_be_a_policy(directory: Directory, data: bytes) -> None:
    (directory.path / "a.yaml").write_bytes(data)
    os.utime(directory.path / "a.yaml", (OLD, OLD))
    directory.scan()
    (refused,) = directory.refused
    assert refused.policy
    assert refused.namespace is None
    assert refused.file == str(directory.path / "a.yaml")


def test_a_pipe_is_refused_and_not_waited_for(directory: Directory) -> None:
    os.mkfifo(directory.path / "a.yaml")
    directory.scan()
    assert directory.refused[0].refusals[0].accepted == "a regular file"


def test_a_link_to_nothing_is_as_good_as_absent(directory: Directory) -> None:
    (directory.path / "a.yaml").symlink_to("nowhere")
    directory.write("b.yaml", namespace("b"))
    assert directory.scan() == (True, False)
    assert directory.names == ["b"]
    assert directory.found.complete


def test_a_link_that_led_to_a_file_keeps_what_that_held_until_the_link_is_gone(
    directory: Directory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    volume = tmp_path_factory.mktemp("volume") / "mounted"
    volume.mkdir()
    link = directory.path / "a.yaml"
    for text, names in ((namespace("a"), ["a"]), ("a: [", [])):
        (volume / "a.yaml").write_text(text)
        os.utime(volume / "a.yaml", (OLD, OLD))
        link.symlink_to(volume / "a.yaml")
        directory.scan()
        assert directory.names == names
        volume.rename(volume.parent / "away")
        assert directory.scan() == (False, True), "for a moment it may be about to go"
        assert directory.found.unreadable == []
        assert directory.scan() == (False, False)
        assert (directory.names, directory.found.unreadable) == (names, [str(link)])
        assert bool(directory.refused) == (not names)
        (volume.parent / "away").rename(volume)
        assert directory.scan() == (False, False)
        assert directory.found.unreadable == []
        volume.rename(volume.parent / "away")
        directory.scan()
        directory.scan()
        link.unlink()
        directory.scan()
        assert directory.scan() == (True, False)
        assert (directory.files[str(link)], directory.found.unreadable) == (Parsed(), [])
        (volume.parent / "away").rename(volume)


def test_a_byte_order_mark_is_no_content(directory: Directory) -> None:
    directory.write("a.yaml", "\ufeff" + namespace("a"))
    directory.scan()
    assert directory.names == ["a"]


class Heard:
    """What a source handed over."""

    def __init__(self) -> None:
        self.files: dict[str, Parsed] = {}
        self.event = asyncio.Event()

    def put(self, origin: str, parsed: Parsed) -> None:
        self.files[origin] = parsed
        self.event.set()

    def remove(self, origin: str) -> None:
        self.put(origin, Parsed())

    def changed(self) -> None:
        self.event.set()

    async def something(self) -> None:
        await self.event.wait()
        self.event.clear()


def test_changes_are_noticed_by_themselves(tmp_path: Path) -> None:
    async def main() -> None:
        source, heard = FilesSource([tmp_path]), Heard()
        path = str(tmp_path / "a.yaml")
        task = asyncio.create_task(source.run(heard))
        async with asyncio.timeout(5):
            await heard.something()
            assert source.state == SourceState(synced=True)
            (tmp_path / ".a.yaml").write_text(namespace("one"))
            (tmp_path / ".a.yaml").rename(path)
            await heard.something()
            assert [entry.name for entry in heard.files[path].objects] == ["one"]
            with open(path, "a") as file:
                file.write("---\n")
                file.flush()
                await asyncio.sleep(0.05)
                file.write(namespace("two"))
            await heard.something()
            assert [entry.name for entry in heard.files[path].objects] == ["one", "two"]
            (tmp_path / "a.yaml").unlink()
            await heard.something()
            assert heard.files[path] == Parsed()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_a_directory_that_is_lost_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "mounted"
        path.mkdir()
        source, heard = FilesSource([path]), Heard()
        task = asyncio.create_task(source.run(heard))
        async with asyncio.timeout(5):
            while not source.state.synced:
                await heard.something()
            path.rename(tmp_path / "unmounted")
            while not source.state.error:
                await heard.something()
            assert source.state.synced
            assert source.state.stale_since is not None
            assert source.state.error == f"cannot be read, what they held stays in force: {path}"
            (tmp_path / "unmounted").rename(path)
            while source.state.error:
                await heard.something()
            assert source.state == SourceState(synced=True)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
