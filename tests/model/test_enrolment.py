"""Which pods are in the mesh: the table."""

from __future__ import annotations

import pytest

from mesh.model.enrolment import MODE_LABEL, SIDECAR_ANNOTATION, decide

ON, OFF = {MODE_LABEL: "ambient"}, {MODE_LABEL: "none"}
SIDECAR = {SIDECAR_ANNOTATION: "{}"}


@pytest.mark.parametrize(
    ("labels", "namespace_labels", "changes", "enrolled", "why"),
    [
        ({}, {}, {}, False, "neither the pod nor its namespace"),
        (ON, {}, {}, True, "the pod is labelled"),
        ({}, ON, {}, True, "its namespace is labelled"),
        (OFF, ON, {}, False, "the pod is labelled istio.io/dataplane-mode=none"),
        (ON, OFF, {}, True, "the pod is labelled"),
        ({}, OFF, {}, False, "neither"),
        ({MODE_LABEL: "Ambient"}, {}, {}, False, "the pod is labelled istio.io/dataplane-mode=Ambient"),
        ({MODE_LABEL: "sidecar"}, ON, {}, True, "its namespace is labelled"),
        (ON, {}, {"host_network": True}, False, "hostNetwork"),
        (ON, {}, {"annotations": SIDECAR}, False, "sidecar"),
        (ON, {}, {"namespace": "kube-system"}, False, "kube-system"),
        (ON, {}, {"phase": "Succeeded"}, False, "finished"),
        (ON, {}, {"phase": "Failed"}, False, "finished"),
        (ON, {}, {"phase": "Pending"}, True, "the pod is labelled"),
        (ON, {}, {"tunnel": True}, False, "the node tunnel itself"),
    ],
)
def test_decision(labels: dict[str, str], namespace_labels: dict[str, str], changes: dict[str, object], enrolled: bool, why: str) -> None:
    facts: dict[str, object] = {"namespace": "shop", "annotations": {}, "host_network": False, "phase": "Running"} | changes
    decided = decide(labels=labels, namespace_labels=namespace_labels, **facts)  # type: ignore[arg-type]
    assert decided.enrolled is enrolled
    assert why in decided.why
