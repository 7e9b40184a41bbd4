"""What runs, or will: pods, and what makes pods. For the resolution each is one pod that is there, ready, and enrolled as it should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from control.analyze.given import Foreign, Given, Subject, about
from mesh.model.enrolment import FINISHED_PHASES, MODE_LABEL, REDIRECTION_ANNOTATION, decide
from mesh.model.manifest import Container, Deployment, Metadata, Namespace, Pod, PodSpec, PodStatus
from mesh.model.manifest.pods import Condition, ContainerPort, PodIP
from mesh.model.manifest.shapes import NOTHING
from mesh.model.workload import IPAddress

FIRST_ADDRESS = int(IPv4Address("100.64.0.0"))
"""Of the addresses that pods get here which have none yet. Nobody sees them."""
READY = (Condition(type="Ready", status="True"),)
ENABLED = "enabled"


@dataclass(frozen=True, slots=True)
class Runs:
    """Pods that are all alike. `ports`: names and numbers of their TCP ports. `metadata` and `spec`: where in the object theirs stand.

    `enrolled`: whether they are to be in the mesh; None where the labels of their namespace are not known. `why` says why. `stand_in` is
    what the resolution gets; `live`: it is a pod of a cluster, as it is.
    """

    subject: Subject
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    account: str
    host_network: bool
    ports: tuple[tuple[str, int], ...]
    metadata: str
    spec: str
    stand_in: Pod
    live: bool = False
    enrolled: bool | None = None
    why: str = ""

    @property
    def in_mesh(self) -> bool | None:
        """Whether a tunnel has their traffic; None where that is not known."""
        return self.annotations.get(REDIRECTION_ANNOTATION) == ENABLED if self.live else self.enrolled


def runs_of(given: Given, namespaces: Mapping[str, Namespace]) -> list[Runs]:
    return [_enrolled(made, namespaces, given.complete) for made in _makers(given)]


def _enrolled(made: Runs, namespaces: Mapping[str, Namespace], complete: bool) -> Runs:
    namespace = namespaces.get(made.namespace)
    found = decide(
        namespace=made.namespace,
        labels=made.labels,
        annotations=made.annotations,
        namespace_labels=namespace.labels if namespace is not None else NOTHING,
        host_network=made.host_network,
        phase="Running",
    )
    known = namespace is not None or complete or MODE_LABEL in made.labels
    made = replace(made, enrolled=found.enrolled if known else None, why=found.why)
    if made.live or not made.enrolled:
        return made
    metadata = made.stand_in.metadata
    redirected = replace(metadata, annotations={**metadata.annotations, REDIRECTION_ANNOTATION: ENABLED})
    return replace(made, stand_in=replace(made.stand_in, metadata=redirected))


def _makers(given: Given) -> Iterator[Runs]:
    count = 0
    for entry in given.objects:
        count += 1
        address = IPv4Address(FIRST_ADDRESS + count)
        if isinstance(entry, Pod) and entry.status.phase not in FINISHED_PHASES:
            live = entry.key in given.live
            pod = entry if entry.status.addresses else replace(entry, status=_status(address))
            yield _made(about(entry), pod, "metadata", "spec", live=live)
        elif isinstance(entry, Deployment):
            template = entry.spec.template
            labels, annotations = template.metadata.labels, template.metadata.annotations
            metadata = Metadata(name=f"{entry.name}~", namespace=entry.namespace, labels=labels, annotations=annotations)
            pod = Pod(where=entry.where, metadata=metadata, spec=template.spec, status=_status(address))
            yield _made(about(entry), pod, "spec.template.metadata", "spec.template.spec")
    for foreign in given.foreign:
        if foreign.template is not None:
            count += 1
            pod = _pod_of(foreign, foreign.template, IPv4Address(FIRST_ADDRESS + count))
            yield _made(foreign.subject, pod, f"{foreign.path}.metadata", f"{foreign.path}.spec")


def _made(subject: Subject, pod: Pod, metadata: str, spec: str, *, live: bool = False) -> Runs:
    # Init containers that go on running are sidecars: their ports count as well.
    lasting = (entry for entry in pod.spec.init_containers if entry.restart_policy == "Always")
    ports = (port for container in (*pod.spec.containers, *lasting) for port in container.ports)
    return Runs(
        subject=subject,
        namespace=pod.namespace,
        labels=pod.labels,
        annotations=pod.annotations,
        account=pod.spec.account,
        host_network=pod.spec.host_network,
        ports=tuple((port.name, port.container_port) for port in ports if port.protocol == "TCP"),
        metadata=metadata,
        spec=spec,
        stand_in=pod,
        live=live,
    )


def _status(address: IPAddress) -> PodStatus:
    return PodStatus(phase="Running", pod_ips=(PodIP(ip=address),), conditions=READY)


# What the mesh does not read was not parsed: what can be made out of it counts.


def _pod_of(foreign: Foreign, template: Mapping[str, Any], address: IPAddress) -> Pod:
    metadata, spec = _mapping(template.get("metadata")), _mapping(template.get("spec"))
    containers = tuple(
        Container(name=str(entry.get("name", "")), ports=tuple(_ports(entry))) for entry in map(_mapping, _list(spec.get("containers")))
    )
    return Pod(
        where=foreign.subject.where,
        metadata=Metadata(
            name=f"{foreign.name}~{foreign.kind}",
            namespace=foreign.subject.namespace,
            labels=_texts(metadata.get("labels")),
            annotations=_texts(metadata.get("annotations")),
        ),
        spec=PodSpec(
            containers=containers,
            service_account_name=str(spec.get("serviceAccountName") or ""),
            host_network=spec.get("hostNetwork") is True,
        ),
        status=_status(address),
    )


def _ports(container: Mapping[str, Any]) -> Iterator[ContainerPort]:
    for port in map(_mapping, _list(container.get("ports"))):
        number = port.get("containerPort")
        if isinstance(number, int):
            yield ContainerPort(container_port=number, name=str(port.get("name") or ""), protocol=str(port.get("protocol") or "TCP"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> dict[str, str]:
    return {key: text for key, text in _mapping(value).items() if isinstance(key, str) and isinstance(text, str)}
