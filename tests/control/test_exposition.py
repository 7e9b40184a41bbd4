"""What /metrics says, as Prometheus reads it."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read

from control.ca.metrics import CaMetrics
from control.exposition import IstioCounter, exposition
from control.meters import KubernetesMeter, ValidationMeter
from control.metrics import Metrics

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ISTIO = [
    ("pilot_xds_pushes", {"type": "cds"}),
    ("pilot_total_xds_rejects", {"type": "cds"}),
    ("pilot_xds_cds_reject", {}),
    ("pilot_total_xds_internal_errors", {}),
    ("pilot_push_triggers", {"type": "files"}),
    ("pilot_k8s_reg_events", {"type": "Pod", "event": "add"}),
    ("pilot_k8s_cfg_events", {"type": "Gateway", "event": "update"}),
    ("citadel_server_csr_count", {}),
    ("citadel_server_authentication_failure_count", {}),
    ("citadel_server_success_cert_issuance_count", {}),
    ("galley_validation_passed", {"kind": "Gateway"}),
    ("galley_validation_failed", {"kind": "Gateway"}),
]
"""As Istio's reference calls its counters (pilot-discovery, "exported metrics"); labels are ours."""


@pytest.fixture
def page() -> str:
    metrics = Metrics()
    metrics.push(CDS, 100, 0.01)
    metrics.reject(CDS)
    metrics.internal_errors.inc()
    metrics.triggers.labels("files").inc()
    kubernetes, validation, ca = KubernetesMeter(metrics.registry), ValidationMeter(metrics.registry), CaMetrics(metrics.registry)
    kubernetes.event(core=True, kind="Pod", event="add")
    kubernetes.event(core=False, kind="Gateway", event="update")
    kubernetes.stale("Pod")
    validation.validated("Gateway", passed=True)
    validation.validated("Gateway", passed=False)
    ca.csr.inc()
    ca.issued.inc()
    ca.refused("authentication_failure")
    return metrics.exposition().decode()


@pytest.mark.parametrize(("name", "labels"), ISTIO, ids=[name for name, _ in ISTIO])
def test_counters_have_istios_names(page: str, name: str, labels: dict[str, str]) -> None:
    assert f"# TYPE {name} counter\n" in page
    assert [line.split("{")[0].split()[0] for line in page.splitlines() if line.startswith(name)] == [name]
    (family,) = (family for family in read(page) if family.name == name)
    # The parser calls the samples of every counter as OpenMetrics does, whatever the text calls them.
    assert [(sample.name, sample.labels, sample.value) for sample in family.samples] == [(f"{name}_total", labels, 1.0)]
    assert family.type == "counter"


def test_counters_of_our_own_end_in_total(page: str) -> None:
    assert "# TYPE culvert_xds_cut_off_total counter\n" in page
    assert 'culvert_kubernetes_stale_answers_total{type="Pod"} 1.0\n' in page
    assert "# TYPE process_cpu_seconds_total counter\n" in page


def test_every_family_is_said_once_and_none_when_it_was_made(page: str) -> None:
    named = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE ")]
    assert len(named) == len(set(named))
    assert "_created" not in page
    assert " untyped\n" not in page


def test_no_label_is_taken_for_a_type() -> None:
    registry = CollectorRegistry()
    counter = IstioCounter("galley_validation_failed", "Refused", ["kind"], registry=registry)
    counter.labels("\n# TYPE galley_validation_failed untyped\n").inc()
    page = exposition(registry).decode()
    assert page.splitlines()[1] == "# TYPE galley_validation_failed counter"
    (family,) = read(page)
    assert family.samples[0].labels == {"kind": "\n# TYPE galley_validation_failed untyped\n"}


def test_openmetrics_could_be_told_the_same_names() -> None:
    registry = CollectorRegistry()
    IstioCounter("pilot_push_triggers", "Changes", ["type"], registry=registry).labels("files").inc(2)
    (family,) = read_openmetrics(openmetrics(registry).decode())
    assert [(sample.name, sample.value) for sample in family.samples] == [("pilot_push_triggers", 2.0)]
