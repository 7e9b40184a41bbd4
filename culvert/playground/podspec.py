"""A pod template as the playground runs it: parsed once, strictly, into frozen types.

A container's command runs on this machine's own file system, so `image` and what belongs to images is read past; everything else
that a kubelet would act on is either done or refused, never skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from culvert.playground.fields import Fields, Report
from culvert.playground.probespec import ProbeSpec, parse_probe

RESTART_POLICIES = ("Always", "OnFailure", "Never")
# What `valueFrom.fieldRef.fieldPath` may name; labels and annotations are `metadata.labels['key']`.
FIELD_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.podIP",
    "status.podIPs",
    "status.hostIP",
)
# Scheduling and image matters: they change nothing on one machine.
IGNORED_IN_POD = (
    "dnsPolicy",
    "enableServiceLinks",
    "automountServiceAccountToken",
    "imagePullSecrets",
    "priorityClassName",
    "schedulerName",
    "tolerations",
    "topologySpreadConstraints",
)
FILE_SYSTEM = "nothing: containers of the playground run on this machine's own file system"
REFUSED_IN_POD = {
    "hostNetwork": "false: a pod of the playground has its own network namespace",
    "volumes": FILE_SYSTEM,
    "affinity": "nothing, or nodeName: pods are spread over the nodes",
    "nodeSelector": "nothing, or nodeName: pods are spread over the nodes",
    "hostAliases": "nothing: /etc/hosts holds the services",
}
REFUSED_IN_CONTAINER = {
    "volumeMounts": FILE_SYSTEM,
    "envFrom": "nothing: use env",
    "lifecycle": "nothing: use a command that handles SIGTERM",
}
IGNORED_IN_CONTAINER = ("image", "imagePullPolicy", "resources", "terminationMessagePath", "terminationMessagePolicy")


@dataclass(frozen=True, slots=True)
class EnvVar:
    """Either a literal (with `$(VAR)` not yet expanded) or a field path."""

    name: str
    value: str = ""
    field_path: str = ""


@dataclass(frozen=True, slots=True)
class ContainerPort:
    name: str
    port: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One process. `user` and `group` are numeric ids, None for root."""

    name: str
    command: tuple[str, ...]
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    readiness: ProbeSpec | None = None
    liveness: ProbeSpec | None = None
    startup: ProbeSpec | None = None
    user: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class PodSpec:
    """`grace` is in seconds, between SIGTERM and SIGKILL."""

    containers: tuple[ContainerSpec, ...]
    init_containers: tuple[ContainerSpec, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"
    node_name: str = ""
    restart_policy: str = "Always"
    grace: int = 30

    def named_port(self, name: str) -> int | None:
        for container in self.containers:
            for port in container.ports:
                if port.name == name:
                    return port.port
        return None


def parse_template(metadata: object, spec: object, path: str, report: Report) -> PodSpec:
    """The pod that a Pod's or a template's `metadata` and `spec` describe. Refusals go to the report; `path` is where `spec` is."""
    meta = Fields(metadata, path.removesuffix("spec") + "metadata", report)
    fields = Fields(spec, path, report)
    security = fields.child("securityContext")
    user, group = _run_as(security, None, None)
    inits = tuple(_container(child, user, group, report) for child in fields.children("initContainers"))
    containers = tuple(_container(child, user, group, report) for child in fields.children("containers"))
    if not containers:
        report.refuse(fields.at("containers"), [], "at least one container")
    names = [container.name for container in (*inits, *containers)]
    for name in {name for name in names if names.count(name) > 1}:
        report.refuse(fields.at("containers"), name, "a name that no other container of the pod has")
    account = fields.string("serviceAccountName")
    old_account = fields.string("serviceAccount")
    result = PodSpec(
        containers=containers,
        init_containers=inits,
        labels=meta.labels("labels"),
        annotations=meta.labels("annotations"),
        service_account=account or old_account or "default",
        node_name=fields.string("nodeName"),
        restart_policy=fields.string("restartPolicy", "Always", among=RESTART_POLICIES),
        grace=fields.integer("terminationGracePeriodSeconds", 30, high=3600),
    )
    for name, accepted in REFUSED_IN_POD.items():
        _refuse(fields, name, accepted)
    fields.ignore(*IGNORED_IN_POD)
    fields.finish()
    return result


def _container(fields: Fields, user: int | None, group: int | None, report: Report) -> ContainerSpec:
    name = fields.string("name", "container", required=True)
    command, arguments = fields.strings("command"), fields.strings("args")
    if not command:
        report.refuse(fields.at("command"), list(command), "the program to run: there is no image here whose entry point could be used")
    user, group = _run_as(fields.child("securityContext"), user, group)
    result = ContainerSpec(
        name=name,
        command=command + arguments,
        working_dir=fields.string("workingDir"),
        env=tuple(_variable(child) for child in fields.children("env")),
        ports=tuple(_port(child) for child in fields.children("ports")),
        readiness=parse_probe(fields, "readinessProbe"),
        liveness=parse_probe(fields, "livenessProbe"),
        startup=parse_probe(fields, "startupProbe"),
        user=user,
        group=group,
    )
    for probe in (result.readiness, result.liveness, result.startup):
        known = {port.name for port in result.ports}
        if probe is not None and isinstance(probe.port, str) and probe.port not in known:
            report.refuse(
                f"{fields.path}.{probe.field}.port",
                probe.port,
                "a number or one of the container's port names: " + ", ".join(sorted(known)),
            )
    for other, accepted in REFUSED_IN_CONTAINER.items():
        _refuse(fields, other, accepted)
    fields.ignore(*IGNORED_IN_CONTAINER)
    fields.finish()
    return result


def _refuse(fields: Fields, name: str, accepted: str) -> None:
    """A field that a cluster would act on and the playground cannot. An empty one asks for nothing."""
    value = fields.take(name)
    if value:
        fields.report.refuse(fields.at(name), value, accepted)


def _run_as(fields: Fields, user: int | None, group: int | None) -> tuple[int | None, int | None]:
    wanted_user = fields.integer("runAsUser", -1) if fields.has("runAsUser") else -1
    wanted_group = fields.integer("runAsGroup", -1) if fields.has("runAsGroup") else -1
    # Confinement of an image's file system and capabilities: there is no image, and the playground is no place for untrusted code.
    fields.ignore("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "seccompProfile", "allowPrivilegeEscalation", "capabilities")
    fields.ignore("readOnlyRootFilesystem", "privileged")
    fields.finish()
    return (wanted_user if wanted_user >= 0 else user), (wanted_group if wanted_group >= 0 else group)


def _variable(fields: Fields) -> EnvVar:
    name = fields.string("name", required=True)
    value = fields.string("value")
    source = fields.child("valueFrom")
    reference = source.child("fieldRef")
    reference.ignore("apiVersion")
    path = reference.string("fieldPath")
    if path and path not in FIELD_PATHS and not path.startswith(("metadata.labels['", "metadata.annotations['")):
        accepted = " or ".join((*FIELD_PATHS, "metadata.labels['key']", "metadata.annotations['key']"))
        reference.report.refuse(reference.at("fieldPath"), path, accepted)
    reference.finish()
    source.finish()
    fields.finish()
    return EnvVar(name, value, path)


def _port(fields: Fields) -> ContainerPort:
    result = ContainerPort(
        name=fields.string("name"),
        port=fields.integer("containerPort", 1, 1, 65535),
        protocol=fields.string("protocol", "TCP", among=("TCP", "UDP")),
    )
    fields.finish()
    return result


def template_of(manifest: Mapping[str, Any]) -> tuple[object, object, str]:
    """Metadata, spec and the path of the spec, of a Pod or of what holds a pod template."""
    if manifest.get("kind") == "Pod":
        return manifest.get("metadata"), manifest.get("spec"), "spec"
    template = (manifest.get("spec") or {}).get("template")
    if not isinstance(template, Mapping):
        return {}, template, "spec.template"
    return template.get("metadata"), template.get("spec"), "spec.template.spec"
