"""The committed CRDs on a real API server: taken, explained, and as strict as the parser."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings

from mesh.model.manifest import Object, VirtualService, parse_object
from mesh.model.manifest.kinds import SERVED
from tests.cluster.crdserver import Server, running
from tests.model.documents import documents_of
from tests.model.mistakes import GTW, MISTAKES, VS
from tests.model.objects import SPECS, Mistake, document, full

pytestmark = pytest.mark.cluster

CRDS = Path(__file__).parents[2] / "deploy/crds"
VERSIONS = [(key, version) for key in SPECS for version in SERVED[key]]
SLOW = [*HealthCheck]
ACCEPTED, REFUSED = "created (server dry run)", "is invalid"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("crds")) as started:
        started.kubectl("apply", "-f", str(CRDS))
        started.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        started.kubectl("create", "namespace", "shop")
        yield started


def definitions(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(server.kubectl("get", "crd", "-o", "json"))["items"]
    return found


def test_every_definition_is_established_and_structural(server: Server) -> None:
    found = definitions(server)
    assert len(found) == len(SPECS)
    for entry in found:
        conditions = {each["type"]: each["status"] for each in entry["status"]["conditions"]}
        assert conditions["Established"] == conditions["NamesAccepted"] == "True", entry["metadata"]["name"]
        assert conditions.get("NonStructuralSchema", "False") == "False", entry["metadata"]["name"]
        assert entry["status"]["storedVersions"] == ["v1"]


def test_the_definitions_are_applied_again_without_change_by_the_server(server: Server) -> None:
    assert "serverside-applied" in server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))


@pytest.mark.parametrize(
    ("category", "short"),
    [("istio-io", {"virtualservices": "vs", "authorizationpolicies": "ap", "gateways": "gw"}), ("gateway-api", {"gatewayclasses": "gc"})],
)
def test_short_names_and_categories(server: Server, category: str, short: dict[str, str]) -> None:
    lines = [line.split() for line in server.kubectl("api-resources", f"--categories={category}", "--no-headers").splitlines()]
    assert short.items() <= {words[0]: words[1] for words in lines}.items()


def test_explain_reads_well(server: Server) -> None:
    text = server.kubectl("explain", "virtualservice.spec.http.match")
    assert "Requests that the rule is for, any of these; none for all." in text
    assert "withoutHeaders\t<map[string]Object>\n    Headers that must not match; one that is absent passes." in text
    text = server.kubectl("explain", "virtualservice.spec.http.retries.attempts")
    assert "FIELD: attempts <integer>" in text
    assert "How often a failed request is tried again; 0 for never." in text
    text = server.kubectl("explain", "gateways.gateway.networking.k8s.io.spec.listeners.tls.mode")
    assert "ENUM: Terminate Passthrough" in " ".join(text.split())
    assert "Without effect here" in server.kubectl("explain", "destinationrule.spec.workloadSelector")


@pytest.mark.parametrize(("key", "version"), VERSIONS, ids=[f"{key[1]} {version}" for key, version in VERSIONS])
def test_an_object_is_stored_in_every_version_and_reads_back_as_it_was(server: Server, key: tuple[str, str], version: str) -> None:
    value = full(key) | {"apiVersion": version}
    name = f"a-{version.rpartition('/')[2]}"
    value["metadata"]["name"] = name
    server.kubectl("apply", "-f", "-", stdin=json.dumps(value))
    group, kind = key
    where = ["-n", "shop"] if "namespace" in value["metadata"] else []
    got = json.loads(server.kubectl("get", f"{kind}.{version.rpartition('/')[2]}.{group}", name, *where, "-o", "json"))
    (ours,), (theirs,) = parse_object(value, "here").objects, parse_object(got, "there").objects
    # With the defaults that the server has written into it, it means the same.
    assert theirs.spec == ours.spec  # type: ignore[attr-defined]
    assert theirs.metadata.uid


@pytest.fixture(scope="module")
def said_of_mistakes(server: Server) -> list[str]:
    """What the server says of each, all asked for at once; and the server alone, since kubectl would end at the first that it refuses."""
    everything = []
    for number, mistake in enumerate(MISTAKES):
        value = mistake.document
        value["metadata"]["name"] = f"m{number}"
        everything.append(value)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": everything})
    lines = server.kubectl("create", "--dry-run=server", "--validate=false", "-f", "-", stdin=text, check=False).splitlines()
    found: list[list[str]] = [[] for _ in MISTAKES]
    current: list[str] = []
    for line in lines:
        named = re.search(r'"m(\d+)" is invalid|/m(\d+) created', line)
        if named is not None:
            current = found[int(named[1] or named[2])]
        current.append(line)
    return ["\n".join(each) for each in found]


@pytest.mark.parametrize(("number", "mistake"), [*enumerate(MISTAKES)], ids=[str(mistake) for mistake in MISTAKES])
def test_a_mistake_is_refused_unless_it_is_beyond_a_schema(said_of_mistakes: list[str], number: int, mistake: Mistake) -> None:
    said = said_of_mistakes[number]
    (refusal,) = parse_object(mistake.document, "here").refused[0].refusals
    if mistake.webhook or refusal.value == "an unknown field":  # which it only refuses if it is asked to
        assert ACCEPTED in said
        return
    assert REFUSED in said, said
    last = mistake.field.rpartition(".")[2].partition("[")[0]
    assert last in said, said


@pytest.mark.parametrize("cls", sorted({cls for key in SPECS for cls in SERVED[key].values()}, key=lambda cls: cls.__name__))
def test_what_the_parser_accepts_the_server_accepts(server: Server, cls: type[Object]) -> None:
    """Its conditions in CEL too, which the schema's own tests do not judge."""
    found: list[dict[str, Any]] = []

    examples = 200 if cls is VirtualService else 60  # of those fewer keep all rules

    @settings(max_examples=examples, phases=[Phase.generate], database=None, derandomize=True, deadline=None, suppress_health_check=SLOW)
    @given(documents_of(cls))
    def collect(value: dict[str, Any]) -> None:
        metadata = {"name": f"made-{len(found)}", **({"namespace": "shop"} if cls.NAMESPACED else {})}
        if parse_object(value, "here").objects:
            found.append(copy.deepcopy(value) | {"metadata": metadata})

    collect()
    assert len(found) > 2
    everything = {"apiVersion": "v1", "kind": "List", "items": found}
    said = server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(everything), check=False)
    assert said.count(ACCEPTED) == len(found), "\n".join(line for line in said.splitlines() if ACCEPTED not in line)


def test_the_examples_are_accepted(server: Server) -> None:
    for name in ("bookstore", "outsider", "istio-system"):
        server.kubectl("create", "namespace", name)
    found = [
        entry
        for path in sorted((CRDS.parents[1] / "examples").rglob("*.yaml"))
        for entry in yaml.safe_load_all(path.read_text())
        if (entry["apiVersion"].partition("/")[0], entry["kind"]) in SPECS
    ]
    assert len({entry["kind"] for entry in found}) > 10
    said = server.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(found), check=False)
    assert said.count(ACCEPTED) == len(found), said


def test_an_unknown_field_is_refused_as_kubectl_asks_for_it(server: Server) -> None:
    value = document(VS, {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}], "retry": {}}]})
    said = server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(value), check=False)
    assert 'unknown field "spec.http[0].retry"' in said


def test_a_message_of_a_rule_says_what_is_accepted(server: Server) -> None:
    spec = {"gatewayClassName": "istio-waypoint", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}]}
    said = server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(document(GTW, spec)), check=False)
    assert "spec.listeners: Invalid value" in said
    assert "accepted: the protocol HBONE alone at a waypoint" in said


def test_a_class_stays_with_its_controller(server: Server) -> None:
    value = full(("gateway.networking.k8s.io", "GatewayClass"))
    value["metadata"]["name"] = "stays"
    server.kubectl("apply", "-f", "-", stdin=json.dumps(value))
    value["spec"]["controllerName"] = "other.example/control"
    assert "it never changes" in server.kubectl("apply", "-f", "-", stdin=json.dumps(value), check=False)


def test_columns_show_the_conditions(server: Server) -> None:
    server.kubectl("apply", "-f", "-", stdin=json.dumps(full(GTW)))
    condition = {"type": "Programmed", "status": "True", "reason": "Programmed", "lastTransitionTime": "2026-01-31T12:00:00Z"}
    status = {"addresses": [{"value": "10.0.0.1"}], "conditions": [condition]}
    patch = json.dumps({"status": status})
    server.kubectl("patch", "gateways.gateway.networking.k8s.io", "a", "-n", "shop", "--subresource=status", "--type=merge", "-p", patch)
    server.kubectl("wait", "--for=condition=Programmed", "gateways.gateway.networking.k8s.io/a", "-n", "shop", "--timeout=5s")
    (line,) = server.kubectl("get", "gateways.gateway.networking.k8s.io", "a", "-n", "shop", "--no-headers").splitlines()
    assert line.split()[:4] == ["a", "culvert", "10.0.0.1", "True"]
    bad = json.dumps({"status": {"conditions": [condition, condition]}})
    said = server.kubectl(
        "patch", "gateways.gateway.networking.k8s.io", "a", "-n", "shop", "--subresource=status", "--type=merge", "-p", bad, check=False
    )
    assert "Duplicate value" in said
