"""Files that others watch, and logs that stay bounded."""

from __future__ import annotations

from pathlib import Path

from culvert.playground.files import keep_only, read_json, trim_log, write_atomic, write_in_place, write_json


def test_a_file_that_says_the_same_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert write_atomic(path, "one")
    inode = path.stat().st_ino
    assert not write_atomic(path, "one")
    assert path.stat().st_ino == inode
    assert write_atomic(path, "two")
    assert path.read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_in_place_keeps_the_inode_and_leaves_no_tail(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    write_in_place(path, "a long first text\n")
    inode = path.stat().st_ino
    assert write_in_place(path, "short\n")
    assert (path.read_text(), path.stat().st_ino) == ("short\n", inode)
    assert not write_in_place(path, "short\n")


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none") is None
    (tmp_path / "bad").write_text("{")
    assert read_json(tmp_path / "bad") is None
    write_json(tmp_path / "good", {"a": [1]})
    assert read_json(tmp_path / "good") == {"a": [1]}


def test_keep_only_removes_the_rest_but_not_what_is_being_written(tmp_path: Path) -> None:
    for name in ("a", "b", ".a.123"):
        (tmp_path / name).touch()
    assert keep_only(tmp_path, {"a"})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".a.123", "a"]
    assert not keep_only(tmp_path, {"a"})


def test_a_log_past_its_bound_keeps_its_newer_half_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "ab") as writer:
        writer.write(b"".join(b"line %03d\n" % number for number in range(100)))
        writer.flush()
        trim_log(path, 500)
        assert path.read_bytes().startswith(b"line 073\n")
        writer.write(b"next\n")
    assert path.read_bytes().endswith(b"line 099\nnext\n")
    assert path.stat().st_size <= 500
    size = path.stat().st_size
    trim_log(path, 500)
    assert path.stat().st_size == size
    trim_log(tmp_path / "none", 500)
