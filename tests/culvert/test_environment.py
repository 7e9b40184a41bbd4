"""A container's environment."""

from __future__ import annotations

import pytest

from culvert.playground.environment import command_line, container_environment, expand
from culvert.playground.podspec import ContainerSpec, EnvVar, PodSpec
from culvert.playground.records import PodRecord

RECORD = PodRecord(
    uid="u1",
    namespace="shop",
    name="web-1",
    node="node-2",
    addresses=("10.244.2.2", "fd00::2"),
    netns="x-node-2-web-1.shop",
    owner="Deployment/web",
    revision="abc",
    source="/srv/shop/web.yaml:12",
    template={},
    created=1.0,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-2"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
    ],
)
def test_expansion_as_kubernetes_does_it(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


def test_variables_see_those_before_them_and_win_over_what_an_image_sets() -> None:
    env = (EnvVar("A", "1"), EnvVar("B", "$(A)$(C)"), EnvVar("C", "3"), EnvVar("HOME", "/srv"))
    container = ContainerSpec("main", ("run", "--b=$(B)"), env=env)
    values = container_environment(container, PodSpec((container,)), RECORD, "172.30.0.12", "/bin")
    assert {key: values[key] for key in ("A", "B", "C", "HOME", "PATH", "HOSTNAME")} == {
        "A": "1",
        "B": "1$(C)",
        "C": "3",
        "HOME": "/srv",
        "PATH": "/bin",
        "HOSTNAME": "web-1",
    }
    assert command_line(container, values) == ("run", "--b=1$(C)")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-1"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u1"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "node-2"),
        ("spec.serviceAccountName", "clerk"),
        ("status.podIP", "10.244.2.2"),
        ("status.podIPs", "10.244.2.2,fd00::2"),
        ("status.hostIP", "172.30.0.12"),
    ],
)
def test_field_references(path: str, value: str) -> None:
    container = ContainerSpec("main", ("run",), env=(EnvVar("X", field_path=path),))
    pod = PodSpec((container,), labels={"app": "web"}, service_account="clerk")
    assert container_environment(container, pod, RECORD, "172.30.0.12", "/bin")["X"] == value
