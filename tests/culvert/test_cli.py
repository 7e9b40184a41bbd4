"""What people type and read: kinds, tables, sentences, exit codes. Nothing here touches a playground that runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from culvert.cli.crds import run_crds
from culvert.cli.objects import check_mode, label_verb, read_texts
from culvert.cli.output import UsageError, count, fitting
from culvert.cli.pods import cannot_run, misplaced
from culvert.cli.show import policy_says
from culvert.cli.up import _spec
from culvert.config import Config
from culvert.playground.documents import Document, ObjectKey
from culvert.playground.editing import LabelChange
from culvert.playground.layout import Layout, node_names
from culvert.playground.outcome import notes_of, policy_notes
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


@pytest.mark.parametrize(
    ("words", "command", "says"),
    [
        ("web -n shop -- curl -s http://x", "curl -s http://x", ""),
        ("web ls", "ls", ""),
        ("-n shop web ls", "ls", ""),
        ("web curl -s http://x", "curl -s http://x", "put -- before the command"),
        ("web curl -n shop", "curl", "put -- before the command"),
        ("web -it -- sh", "-it sh", "-it is no option of culvert exec"),
    ],
)
def test_options_in_the_wrong_place(words: str, command: str, says: str) -> None:
    found = misplaced(words.split(), command.split())
    assert says in found
    assert bool(says) == bool(found)


def test_exit_codes_of_what_does_not_run() -> None:
    assert cannot_run("nope", FileNotFoundError(2, "No such file", b"/bin/nope"))[1] == 127
    text, code = cannot_run("/etc", PermissionError(13, "Permission denied", b"/etc"))
    assert (text, code) == ("/etc cannot be run: Permission denied", 126)


def test_what_became_of_labels() -> None:
    def verb(*words: str) -> str:
        return label_verb({"a": "1"}, [LabelChange.parse(word) for word in words])

    assert [verb("a=1"), verb("a=2"), verb("a-"), verb("b-"), verb("a-", "b=1")] == [
        "not changed",
        "labeled",
        "unlabeled",
        "not changed",
        "labeled",
    ]


def test_a_mode_that_nobody_knows_is_refused() -> None:
    check_mode([LabelChange.parse(f"istio.io/dataplane-mode{end}") for end in ("=ambient", "=none", "-")])
    with pytest.raises(UsageError, match="accepted: ambient, none"):
        check_mode([LabelChange.parse("istio.io/dataplane-mode=sidecar")])


def test_what_policies_say() -> None:
    assert policy_says({"kind": "AuthorizationPolicy"}) == ("ALLOW", "all")
    spec = {"mtls": {"mode": "STRICT"}, "portLevelMtls": {80: {"mode": "DISABLE"}}, "selector": {"matchLabels": {"app": "web"}}}
    assert policy_says({"kind": "PeerAuthentication", "spec": spec}) == ("STRICT,80:DISABLE", "app=web")


def test_a_policy_that_needs_a_waypoint_is_warned_of() -> None:
    body = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "l7", "namespace": "shop"},
        "spec": {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]},
    }
    ((subject, text),) = policy_notes(Document(ObjectKey("AuthorizationPolicy", "security.istio.io", "shop", "l7"), body, "a.yaml:1"))
    assert subject == "AuthorizationPolicy shop/l7"
    assert "never matches" in text


def test_what_has_no_effect_is_told_when_it_is_applied() -> None:
    spec = {"host": "web", "workloadSelector": {"matchLabels": {"app": "a"}}}
    body = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    }
    ((subject, text),) = notes_of(Document(ObjectKey("DestinationRule", "networking.istio.io", "shop", "web"), body, "a.yaml:1"))
    assert (subject, text.partition(":")[0]) == ("DestinationRule shop/web", "spec.workloadSelector has no effect")


def test_definitions_are_written_as_files_or_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_crds(tmp_path / "crds")
    files = sorted((tmp_path / "crds").iterdir())
    assert "virtualservices.networking.istio.io.yaml" in [file.name for file in files]
    capsys.readouterr()
    run_crds(None)
    printed = capsys.readouterr().out
    assert sorted(printed.split("---\n")) == sorted(file.read_text() for file in files)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file"):
        run_crds(tmp_path / "file")


def test_each_path_is_a_layer_of_its_own_and_what_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\r\n")
    (tmp_path / "b.yml").write_text("b: 1\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("c: 1\n"))
    found = read_texts([tmp_path / "b.yml", Path("-"), tmp_path])
    whole = {str(tmp_path / "a.yaml"): "a: 1\n", str(tmp_path / "b.yml"): "b: 1\n"}
    assert found == [{str(tmp_path / "b.yml"): "b: 1\n"}, {"stdin": "c: 1\n"}, whole]
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \x90\n")
    with pytest.raises(UsageError, match=r"a\.yaml:2: this is no text in UTF-8"):
        read_texts([tmp_path])
