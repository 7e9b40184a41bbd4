"""From applied objects to what should run: owners of pods and services, parsed. Pure; what is not accepted is listed, the rest goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from culvert.playground.documents import Document, ObjectKey
from culvert.playground.fields import Fields, Report
from culvert.playground.podspec import PodSpec, parse_template, template_of
from culvert.playground.rollout import template_hash
from culvert.playground.services import ServiceSpec, parse_service
from culvert.playground.store import source_of
from mesh.model.errors import Refusal

# Objects of these namespaces need no Namespace manifest, as on a cluster.
BUILT_IN_NAMESPACES = ("default", "istio-system", "kube-system", "kube-public")


@dataclass(frozen=True, slots=True)
class Owner:
    """A Deployment, or a bare Pod: then `replicas` is 1 and its pod has the object's own name."""

    key: ObjectKey
    replicas: int
    recreate: bool
    revision: str
    spec: PodSpec
    template: dict[str, Any]
    source: str

    @property
    def bare(self) -> bool:
        return self.key.kind == "Pod"

    @property
    def reference(self) -> str:
        """How pods' records name it; empty for bare pods."""
        return "" if self.bare else f"{self.key.kind}/{self.key.name}"


@dataclass(slots=True)
class Wanted:
    owners: dict[ObjectKey, Owner] = field(default_factory=dict)
    services: dict[ObjectKey, ServiceSpec] = field(default_factory=dict)
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    passed_on: list[Document] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def interpret(documents: Iterable[Document]) -> Wanted:
    """Everything that the playground itself acts on, and the rest for the control plane."""
    wanted = Wanted()
    for document in documents:
        report = Report(source_of(document), str(document.key))
        kind = document.key.kind
        if kind in ("Pod", "Deployment") and document.key.group in ("", "apps"):
            owner = parse_owner(document, report)
            if not report.refusals:
                wanted.owners[document.key] = owner
        elif kind == "Service" and not document.key.group:
            service = parse_service(document.body, report)
            if not report.refusals:
                wanted.services[document.key] = service
        else:
            if kind == "Namespace":
                wanted.namespaces[document.key.name] = Fields(document.body.get("metadata"), "metadata", report).labels("labels")
            wanted.passed_on.append(document)
        wanted.refusals += report.refusals
    return wanted


def parse_owner(document: Document, report: Report) -> Owner:
    """A Pod or a Deployment. Refusals go to the report."""
    metadata, spec, path = template_of(document.body)
    pod = parse_template(metadata, spec, path, report)
    template = {"metadata": _plain(metadata), "spec": _plain(spec)}
    replicas, recreate = 1, True
    if document.key.kind == "Deployment":
        replicas, recreate = _deployment(document, pod, report)
        hashed: object = {"labels": pod.labels, "annotations": pod.annotations, "spec": spec}
    else:
        hashed = spec
    return Owner(document.key, replicas, recreate, template_hash(hashed), pod, template, source_of(document))


def _deployment(document: Document, pod: PodSpec, report: Report) -> tuple[int, bool]:
    fields = Fields(document.body.get("spec"), "spec", report)
    selector = fields.child("selector")
    labels = selector.labels("matchLabels")
    if selector.has("matchExpressions"):
        report.refuse("spec.selector.matchExpressions", selector.take("matchExpressions"), "spec.selector.matchLabels")
    if not labels or any(pod.labels.get(key) != value for key, value in labels.items()):
        report.refuse("spec.selector.matchLabels", labels, "labels that spec.template.metadata.labels has, at least one")
    strategy = fields.child("strategy")
    kind = strategy.string("type", "RollingUpdate", among=("RollingUpdate", "Recreate"))
    strategy.ignore("rollingUpdate")
    if pod.restart_policy != "Always":
        report.refuse("spec.template.spec.restartPolicy", pod.restart_policy, "Always, for the pods of a Deployment")
    replicas = fields.integer("replicas", 1, high=200)
    fields.ignore("template", "minReadySeconds", "progressDeadlineSeconds", "revisionHistoryLimit")
    fields.finish()
    return replicas, kind == "Recreate"


def _plain(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}
