"""What people type and read: kinds, tables, sentences, exit codes. Nothing here touches a playground that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from culvert.cli.output import UsageError, count, fitting
from culvert.cli.up import _spec
from culvert.config import Config
from culvert.playground.layout import Layout, node_names
from culvert.playground.spec import PlaygroundSpec

CONFIG = Config(path="/bin", name="culvert", python="python", source=Path("/src"))


@pytest.fixture
def existing(tmp_path: Path) -> Layout:
    layout = Layout("shop", tmp_path / "shop")
    layout.state.mkdir()
    PlaygroundSpec(node_names(3), True, "/bin", "python", "/src", 60).save(layout)
    return layout


def test_up_again_takes_a_playground_as_it_is(existing: Layout) -> None:
    found = _spec(existing, CONFIG, None, mesh=True, certificate_lifetime=None)
    assert (len(found.nodes), found.certificate_lifetime) == (3, 60)


def test_up_with_another_number_of_nodes_says_what_to_do(existing: Layout) -> None:
    with pytest.raises(UsageError, match=r"3 nodes and a mesh.*culvert apply --name shop.*culvert down --name shop.*--name"):
        _spec(existing, CONFIG, 2, mesh=True, certificate_lifetime=None)


def test_up_makes_two_nodes_where_nothing_is(tmp_path: Path) -> None:
    assert len(_spec(Layout("shop", tmp_path), CONFIG, None, mesh=True, certificate_lifetime=None).nodes) == 2


def test_a_narrow_table_leaves_columns_out_and_cuts_none() -> None:
    columns, rows = ["NODE", "RANGES", "PODS"], [["node-1", "10.0.0.0/16,fd00::/64", "5"]]
    assert fitting(columns, rows, ["RANGES"], 80) == {0: 6, 1: 21, 2: 4}
    assert fitting(columns, rows, ["RANGES"], 20) == {0: 6, 2: 4}
    assert fitting(columns, rows, ["RANGES", "PODS"], 4) == {0: 6}


def test_plurals() -> None:
    assert [count(1, "node"), count(2, "node"), count(2, "process")] == ["1 node", "2 nodes", "2 processes"]
