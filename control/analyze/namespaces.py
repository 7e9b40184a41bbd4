"""Namespaces and pods: who is in the mesh, and who only seems to be."""

from __future__ import annotations

from control.analyze.codes import reading as codes
from control.analyze.findings import Findings
from control.analyze.given import Subject, about
from control.analyze.near import near
from control.analyze.runs import Runs
from control.analyze.world import World
from mesh.model.enrolment import EXCLUDED_NAMESPACES, MODE_AMBIENT, MODE_LABEL, MODE_NONE, SIDECAR_ANNOTATION
from mesh.model.manifest import Namespace

INJECTION_LABEL, INJECT = "istio-injection", "sidecar.istio.io/inject"
MODES = (MODE_AMBIENT, MODE_NONE)
MADE_BY_CLUSTERS = ("default", "kube-system", "kube-public", "kube-node-lease")
LABEL = "metadata.labels"


def check(world: World, found: Findings) -> None:
    for namespace in world.namespaces.values():
        _namespace(namespace, found)
    for runs in world.runs:
        _runs(world, runs, found)
    _missing(world, found)


def _namespace(namespace: Namespace, found: Findings) -> None:
    mode = namespace.labels.get(MODE_LABEL)
    _mode(about(namespace), mode, f"{LABEL}[{MODE_LABEL}]", found)
    if mode == MODE_AMBIENT and namespace.labels.get(INJECTION_LABEL) == "enabled":
        message = f"the namespace is labelled {INJECTION_LABEL}=enabled too: its pods get sidecars and stay outside the mesh"
        found.add(codes.TWO_MESHES, about(namespace), f"{LABEL}[{INJECTION_LABEL}]", message, f"remove the label {INJECTION_LABEL}")


def _mode(subject: Subject, mode: str | None, field: str, found: Findings) -> None:
    if mode is None or mode in MODES:
        return
    meant = near(mode, MODES)
    hint = f"did you mean {meant}?" if meant else f"write {MODE_AMBIENT}, or {MODE_NONE} for outside the mesh"
    found.add(codes.UNKNOWN_MODE, subject, field, f"{mode!r} is no data plane mode: it enrols nothing", hint)


def _runs(world: World, runs: Runs, found: Findings) -> None:
    labels = f"{runs.metadata}.labels"
    own = runs.labels.get(MODE_LABEL)
    _mode(runs.subject, own, f"{labels}[{MODE_LABEL}]", found)
    namespace = world.namespaces.get(runs.namespace)
    inherited = namespace.labels.get(MODE_LABEL) if namespace is not None else None
    if own != MODE_AMBIENT and (inherited != MODE_AMBIENT or own == MODE_NONE):
        return
    because = "they are" if own == MODE_AMBIENT else "their namespace is"
    sidecar = next((field for holds, field in _sidecars(runs) if holds), "")
    if sidecar:
        message = f"these pods have a sidecar, which keeps them outside the mesh though {because} labelled {MODE_LABEL}={MODE_AMBIENT}"
        found.add(codes.SIDECAR_IN_AMBIENT, runs.subject, sidecar, message, f"remove the sidecar, or label them {MODE_LABEL}={MODE_NONE}")
    elif not runs.enrolled:
        field = f"{runs.spec}.hostNetwork" if runs.host_network else runs.metadata
        message = f"these pods stay outside the mesh though {because} labelled {MODE_LABEL}={MODE_AMBIENT}: {runs.why}"
        if runs.host_network or runs.namespace in EXCLUDED_NAMESPACES:
            found.add(codes.NOT_ENROLLED, runs.subject, field, message, f"label them {MODE_LABEL}={MODE_NONE} if that is meant")
    elif runs.live and not runs.in_mesh:
        message = f"this pod is to be in the mesh ({runs.why}), but its traffic is not taken"
        hint = f"look at the node agent's log on {runs.stand_in.spec.node_name or 'its node'}"
        found.add(codes.NOT_REDIRECTED, runs.subject, runs.metadata, message, hint)


def _sidecars(runs: Runs) -> tuple[tuple[bool, str], ...]:
    return (
        (runs.labels.get(INJECT) == "true", f"{runs.metadata}.labels[{INJECT}]"),
        (runs.annotations.get(INJECT) == "true" and INJECT not in runs.labels, f"{runs.metadata}.annotations[{INJECT}]"),
        (SIDECAR_ANNOTATION in runs.annotations, f"{runs.metadata}.annotations[{SIDECAR_ANNOTATION}]"),
    )


def _missing(world: World, found: Findings) -> None:
    """Once for each namespace, at the first object that is in it."""
    if world.given.complete or not world.namespaces:
        return
    inside: dict[str, list[Subject]] = {}
    for entry in world.objects.values():
        if entry.namespace:
            inside.setdefault(entry.namespace, []).append(about(entry))
    known = {*world.namespaces, *MADE_BY_CLUSTERS, world.settings.root_namespace}
    for name, subjects in inside.items():
        if name in known:
            continue
        more = f", and {len(subjects) - 1} more" if len(subjects) > 1 else ""
        meant = near(name, world.namespaces)
        hint = f"did you mean {meant}?" if meant else f"add a Namespace {name} to the input"
        message = f"the namespace {name} is not in the input, though {subjects[0].name}{more} would be in it"
        found.add(codes.MISSING_NAMESPACE, subjects[0], "metadata.namespace", message, hint, related=subjects[1:20])
