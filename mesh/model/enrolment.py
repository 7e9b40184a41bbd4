"""Which pods are in the mesh: the decision, from a pod's and its namespace's labels. Istio's rules and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MODE_LABEL = "istio.io/dataplane-mode"
MODE_AMBIENT = "ambient"
MODE_NONE = "none"
SIDECAR_ANNOTATION = "sidecar.istio.io/status"
REDIRECTION_ANNOTATION = "ambient.istio.io/redirection"
FINISHED_PHASES = frozenset({"Succeeded", "Failed"})
EXCLUDED_NAMESPACES = frozenset({"kube-system"})


class Enrolment(NamedTuple):
    """`why` is half a sentence for people, also for a yes."""

    enrolled: bool
    why: str


def decide(
    *,
    namespace: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    namespace_labels: Mapping[str, str],
    host_network: bool,
    phase: str,
    tunnel: bool = False,
    excluded: frozenset[str] = EXCLUDED_NAMESPACES,
) -> Enrolment:
    """`tunnel` says that the pod is the node tunnel itself. An unknown value of the mode label enrols nothing, as in Istio."""
    if phase in FINISHED_PHASES:
        return Enrolment(False, f"the pod is finished ({phase})")
    own, inherited = labels.get(MODE_LABEL), namespace_labels.get(MODE_LABEL)
    if own != MODE_AMBIENT and (inherited != MODE_AMBIENT or own == MODE_NONE):
        return Enrolment(
            False,
            f"neither the pod nor its namespace is labelled {MODE_LABEL}={MODE_AMBIENT}"
            if own is None
            else f"the pod is labelled {MODE_LABEL}={own}",
        )
    if host_network:
        return Enrolment(False, "the pod uses the node's network (hostNetwork)")
    if namespace in excluded:
        return Enrolment(False, f"the namespace {namespace} is excluded from the mesh")
    if SIDECAR_ANNOTATION in annotations:
        return Enrolment(False, f"the pod has a sidecar (annotation {SIDECAR_ANNOTATION})")
    if tunnel:
        return Enrolment(False, "the pod is the node tunnel itself")
    return Enrolment(
        True,
        f"the pod is labelled {MODE_LABEL}={MODE_AMBIENT}"
        if own == MODE_AMBIENT
        else f"its namespace is labelled {MODE_LABEL}={MODE_AMBIENT}",
    )
