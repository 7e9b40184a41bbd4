"""Pod templates: what is taken, and that everything else is refused with its path."""

from __future__ import annotations

from typing import Any

import pytest

from culvert.playground.fields import Report
from culvert.playground.podspec import EnvVar, PodSpec, parse_template
from culvert.playground.probespec import ProbeKind


def parse(spec: dict[str, Any]) -> tuple[PodSpec, list[str]]:
    report = Report("a.yaml:1", "Pod default/p")
    result = parse_template({"labels": {"app": "p"}}, spec, "spec", report)
    return result, [refusal.field for refusal in report.refusals]


def container(**more: Any) -> dict[str, Any]:
    return {"name": "main", "image": "any", "command": ["server"], **more}


def test_a_whole_pod() -> None:
    spec, refused = parse(
        {
            "serviceAccountName": "shop",
            "nodeName": "node-2",
            "terminationGracePeriodSeconds": 3,
            "securityContext": {"runAsUser": 1000},
            "containers": [
                container(
                    args=["--port", "8080"],
                    workingDir="/srv",
                    env=[{"name": "A", "value": "1"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    ports=[{"name": "http", "containerPort": 8080}],
                    readinessProbe={"httpGet": {"path": "/ok", "port": "http"}, "periodSeconds": 2},
                    livenessProbe={"exec": {"command": ["true"]}},
                )
            ],
        }
    )
    assert refused == []
    main = spec.containers[0]
    assert (spec.service_account, spec.node_name, spec.grace, main.user) == ("shop", "node-2", 3, 1000)
    assert main.command == ("server", "--port", "8080")
    assert main.env == (EnvVar("A", "1"), EnvVar("IP", field_path="status.podIP"))
    assert main.readiness is not None
    assert (main.readiness.kind, main.readiness.port, main.readiness.path, main.readiness.period) == (ProbeKind.HTTP, "http", "/ok", 2)
    assert main.liveness is not None
    assert main.liveness.command == ("true",)
    assert spec.named_port("http") == 8080
    assert spec.named_port("grpc") is None


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"containers": []}, ["spec.containers"]),
        ({"containers": [{"name": "x", "image": "y"}]}, ["spec.containers[0].command"]),
        ({"containers": [container(), container()]}, ["spec.containers"]),
        ({"containers": [container()], "volumes": [{"name": "v"}]}, ["spec.volumes"]),
        ({"containers": [container()], "hostNetwork": True}, ["spec.hostNetwork"]),
        ({"containers": [container(colour="red")]}, ["spec.containers[0].colour"]),
        ({"containers": [container(command=["a", 1])]}, ["spec.containers[0].command", "spec.containers[0].command"]),
        (
            {"containers": [container(env=[{"name": "A", "valueFrom": {"secretKeyRef": {}}}])]},
            ["spec.containers[0].env[0].valueFrom.secretKeyRef"],
        ),
        ({"containers": [container(readinessProbe={"periodSeconds": 1})]}, ["spec.containers[0].readinessProbe"]),
        ({"containers": [container(readinessProbe={"tcpSocket": {"port": "nope"}})]}, ["spec.containers[0].readinessProbe.port"]),
        ({"containers": [container(ports=[{"containerPort": 70000}])]}, ["spec.containers[0].ports[0].containerPort"]),
        ({"containers": [container()], "restartPolicy": "Sometimes"}, ["spec.restartPolicy"]),
        ("not a mapping", ["spec", "spec.containers"]),
    ],
)
def test_what_is_refused(spec: Any, fields: list[str]) -> None:
    assert parse(spec)[1] == fields


def test_a_refusal_names_what_would_be_accepted() -> None:
    report = Report("a.yaml:7", "Pod default/p")
    parse_template({}, {"containers": [container(ports=[{"containerPort": 0}])]}, "spec.template.spec", report)
    assert str(report.refusals[0]) == (
        "a.yaml:7: Pod default/p: spec.template.spec.containers[0].ports[0].containerPort: 0 is not accepted; "
        "accepted: a number from 1 to 65535"
    )
