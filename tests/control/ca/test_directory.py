"""A state in a directory: whole or not at all, whatever happens while it is saved, and one winner of every race."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from control.ca.directory import DirectoryStore, publish
from control.ca.rotation import Gate, demand, introduce, switch
from control.ca.state import State, from_files, to_files
from control.ca.store import Conflict, MemoryStore
from mesh.model.errors import ConfigError
from tests.control.ca.support import a_state

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def one() -> State:
    return replace(a_state(), held=frozenset({"shop/cart-1"}), confirmed=frozenset({"node-1"}))


@pytest.fixture(scope="module")
def introduced(one: State) -> State:
    return introduce(one, a_state().current, 2000)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "ca")


def test_every_phase_comes_back_as_it_was(one: State, introduced: State, store: DirectoryStore) -> None:
    version = ""
    for state in (one, introduced, switch(introduced, Gate((), 0, 0), 3000)):
        version = store.write(state, version)
        found = store.read()
        assert found is not None
        assert (found.state, found.version) == (state, version)


def test_nothing_is_there_before_the_first_save(store: DirectoryStore) -> None:
    assert store.read() is None


def test_keys_are_for_the_owner_alone(one: State, store: DirectoryStore, tmp_path: Path) -> None:
    store.write(one, "")
    for path in (tmp_path / "ca" / "current").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700
    key = tmp_path / "ca" / "current" / "intermediate.key"
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        store.read()


def test_openssl_reads_what_is_kept(one: State, store: DirectoryStore, tmp_path: Path) -> None:
    """An operator needs no tool of ours to look."""
    store.write(one, "")
    command = ["openssl", "verify", "-CAfile", "root.pem", "intermediate.pem"]
    assert subprocess.run(command, cwd=tmp_path / "ca" / "current", capture_output=True, check=False).returncode == 0


def test_the_roots_key_may_be_taken_away_and_put_back(one: State, store: DirectoryStore, tmp_path: Path) -> None:
    version = store.write(one, "")
    path = tmp_path / "ca" / "current" / "root.key"
    key = path.read_bytes()
    path.unlink()
    found = store.read()
    assert found is not None
    assert (found.state.current.root_key, found.state.current.key) == ("", one.current.key)
    store.write(demand(found.state, 1), version)
    assert not path.exists()
    path.write_bytes(key)
    path.chmod(0o600)
    again = store.read()
    assert again is not None
    assert again.state.current == one.current


def test_who_comes_second_is_told(one: State, store: DirectoryStore) -> None:
    version = store.write(one, "")
    with pytest.raises(Conflict):
        store.write(one, "")
    store.write(demand(one, 1), version)
    with pytest.raises(Conflict):
        store.write(demand(one, 2), version)


def test_a_store_in_memory_keeps_the_same_contract(one: State) -> None:
    async def main() -> None:
        store = MemoryStore("memory")
        assert await store.load() is None
        version = await store.save(one, "")
        with pytest.raises(Conflict):
            await store.save(one, "")
        found = await store.load()
        assert found is not None
        assert (found.state, found.version) == (one, version)

    asyncio.run(main())


def test_of_many_writers_each_version_has_one(one: State, store: DirectoryStore) -> None:
    store.write(one, "")

    def count(_: int) -> None:
        while True:
            found = store.read()
            assert found is not None
            try:
                store.write(demand(found.state, 1), found.version)
            except Conflict:
                continue
            return

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(count, range(24)))
    found = store.read()
    assert found is not None
    assert found.state.epoch == 24


@pytest.mark.slow
def test_killed_at_any_line_of_a_save_there_is_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.control.ca.crashes", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert all(int(lines) > 60 for lines in done.stdout.split())


FULL = """
import sys
from pathlib import Path
from control.ca.directory import DirectoryStore, publish
from control.ca.rotation import demand
sys.path.insert(0, ".")
from tests.control.ca.support import a_state
disk = Path(sys.argv[1])
store = DirectoryStore(disk / "ca")
first = a_state()
version = store.write(first, "")
(disk / "root-cert.pem").write_text("as before")
ballast = disk / "ballast"
with ballast.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError as error:
        assert error.errno == 28, error
for _ in range(3):
    try:
        store.write(demand(first, 1), version)
    except OSError as error:
        assert error.errno == 28, error
    else:
        raise AssertionError("the disk is not full")
    found = store.read()
    assert found.state == first and found.version == version
    assert {entry.name for entry in (disk / "ca").iterdir()} == {"current", "lock", version}
try:
    publish(disk / "root-cert.pem", "y" * 10000)
except OSError as error:
    assert error.errno == 28, error
else:
    raise AssertionError("the disk is not full")
assert (disk / "root-cert.pem").read_text() == "as before"
assert len(list(disk.iterdir())) == 3
ballast.unlink()
store.write(demand(first, 1), version)
assert store.read().state.epoch == 1
print("done")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """In a mount namespace of its own, which ends with the process."""
    script = f"mount -t tmpfs -o size=128k,mode=700 tmpfs {tmp_path} && exec {sys.executable} -W error -c '{FULL}' {tmp_path}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


BROKEN = {
    "no state.json": (lambda files: files.pop("state.json"), "state.json"),
    "half a state.json": (lambda files: files.update({"state.json": files["state.json"][:40]}), "state.json"),
    "another format": (
        lambda files: files.update({"state.json": files["state.json"].replace(b'"format": 1', b'"format": 2')}),
        "another version",
    ),
    "no root": (lambda files: files.pop("root.pem"), "root.pem"),
    "a root that is none": (lambda files: files.update({"root.pem": b"hello"}), "root.pem"),
    "half a root": (lambda files: files.update({"root.pem": files["root.pem"].replace(b"A", b"", 1)}), "root.pem"),
    "epoch is a text": (
        lambda files: files.update({"state.json": files["state.json"].replace(b'"epoch": 0', b'"epoch": "0"')}),
        "epoch|int",
    ),
    "not text": (lambda files: files.update({"intermediate.pem": b"\xff\xfe"}), "state.json"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_refused_whole(one: State, case: str) -> None:
    spoil, words = BROKEN[case]
    files = to_files(one)
    spoil(files)
    with pytest.raises(ConfigError, match=words) as raised:
        from_files(files, "the CA")
    assert "PRIVATE" not in str(raised.value)


def test_a_copy_without_its_links_is_refused(one: State, store: DirectoryStore, tmp_path: Path) -> None:
    store.write(one, "")
    command = ["cp", "-rL", str(tmp_path / "ca"), str(tmp_path / "restored")]
    subprocess.run(command, check=True)
    with pytest.raises(ConfigError, match="no link"):
        DirectoryStore(tmp_path / "restored").read()
    subprocess.run(["cp", "-a", str(tmp_path / "ca"), str(tmp_path / "good")], check=True)
    found = DirectoryStore(tmp_path / "good").read()
    assert found is not None
    assert found.state == one


def test_a_published_file_is_written_only_where_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    publish(path, "one")
    before = path.stat()
    publish(path, "one")
    assert path.stat().st_ino == before.st_ino
    publish(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o644)


def test_a_change_by_another_is_noticed_at_once(one: State, store: DirectoryStore) -> None:
    async def main() -> None:
        version = await store.save(one, "")
        waiting = asyncio.create_task(store.changed(version))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await DirectoryStore(Path(store.where)).save(demand(one, 1), version)
        async with asyncio.timeout(0.5):  # told, not looked: that would be later
            await waiting
        await store.close()

    asyncio.run(main())
