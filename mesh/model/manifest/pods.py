"""Pods and Deployments. What the mesh or a playground acts on is typed; the rest of Kubernetes' pod schema is taken as it comes."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import ANYTHING, UNREAD, Object
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import (
    ANNOTATIONS,
    DNS_LABEL,
    DNS_NAME,
    IP,
    LABELS,
    NOTHING,
    PORT,
    PORT_NAME,
    PORT_OR_NAME,
    STRING,
    Choice,
    Flag,
    Integer,
    ListOf,
    Text,
)
from mesh.model.workload import IPAddress

PROTOCOL = Choice(("TCP", "UDP", "SCTP"))
STRINGS = ListOf(STRING)
SECONDS = Integer(0, 2**31 - 1)
ENV_NAME = Text(r"[^=\s\x00-\x1f]+", "a name without '=' and blanks")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar:
    name: str = item(ENV_NAME, required=True)
    value: str = item(STRING, "")
    value_from: Any = item(ANYTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPort:
    container_port: int = item(PORT, required=True)
    name: str = item(PORT_NAME, "")
    protocol: str = item(PROTOCOL, "TCP")
    host_port: int | None = item(PORT)
    host_ip: str = item(STRING, "", name="hostIP")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpHeader:
    name: str = item(STRING, required=True)
    value: str = item(STRING, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpGet:
    port: int | str = item(PORT_OR_NAME, required=True)
    path: str = item(STRING, "/")
    host: str = item(STRING, "")
    scheme: str = item(Choice(("HTTP", "HTTPS")), "HTTP")
    http_headers: tuple[HttpHeader, ...] = item(ListOf(Record(HttpHeader)), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSocket:
    port: int | str = item(PORT_OR_NAME, required=True)
    host: str = item(STRING, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exec:
    command: tuple[str, ...] = item(ListOf(STRING, 1), required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcProbe:
    port: int = item(PORT, required=True)
    service: str = item(STRING, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Times in seconds. Exactly one way to probe."""

    http_get: HttpGet | None = item(Record(HttpGet))
    tcp_socket: TcpSocket | None = item(Record(TcpSocket))
    exec: Exec | None = item(Record(Exec))
    grpc: GrpcProbe | None = item(Record(GrpcProbe))
    initial_delay_seconds: int = item(SECONDS, 0)
    period_seconds: int = item(Integer(1, 2**31 - 1), 10)
    timeout_seconds: int = item(Integer(1, 2**31 - 1), 1)
    success_threshold: int = item(Integer(1, 2**31 - 1), 1)
    failure_threshold: int = item(Integer(1, 2**31 - 1), 3)
    termination_grace_period_seconds: int | None = item(SECONDS)

    RULES = (
        Rule(
            lambda probe: [probe.http_get, probe.tcp_socket, probe.exec, probe.grpc].count(None) == 3,
            "",
            "exactly one of httpGet, tcpSocket, exec, grpc",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    name: str = item(DNS_LABEL, required=True)
    image: str = item(STRING, "")
    image_pull_policy: str = item(Choice(("Always", "IfNotPresent", "Never")), "IfNotPresent")
    command: tuple[str, ...] = item(STRINGS, ())
    args: tuple[str, ...] = item(STRINGS, ())
    env: tuple[EnvVar, ...] = item(ListOf(Record(EnvVar)), ())
    env_from: Any = item(ANYTHING)
    ports: tuple[ContainerPort, ...] = item(ListOf(Record(ContainerPort)), ())
    working_dir: str = item(STRING, "")
    readiness_probe: Probe | None = item(Record(Probe))
    liveness_probe: Probe | None = item(Record(Probe))
    startup_probe: Probe | None = item(Record(Probe))
    restart_policy: str = item(Choice(("Always", "OnFailure", "Never")), "")
    resources: Any = item(ANYTHING)
    resize_policy: Any = item(UNREAD)
    volume_mounts: Any = item(ANYTHING)
    volume_devices: Any = item(UNREAD)
    security_context: Any = item(ANYTHING)
    lifecycle: Any = item(ANYTHING)
    stdin: bool = item(Flag(), False)
    stdin_once: bool = item(Flag(), False)
    tty: bool = item(Flag(), False)
    termination_message_path: str = item(STRING, "")
    termination_message_policy: str = item(STRING, "")


CONTAINERS = ListOf(Record(Container), unique="name")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSpec:
    containers: tuple[Container, ...] = item(ListOf(Record(Container), 1, unique="name"), required=True)
    init_containers: tuple[Container, ...] = item(CONTAINERS, ())
    ephemeral_containers: Any = item(UNREAD)
    service_account_name: str = item(DNS_NAME, "")
    service_account: str = item(DNS_NAME, "")
    automount_service_account_token: bool | None = item(Flag())
    node_name: str = item(DNS_NAME, "")
    node_selector: Mapping[str, str] = item(LABELS, NOTHING)
    host_network: bool = item(Flag(), False)
    host_pid: bool = item(Flag(), False, name="hostPID")
    host_ipc: bool = item(Flag(), False, name="hostIPC")
    host_users: bool | None = item(Flag())
    host_aliases: Any = item(ANYTHING)
    hostname: str = item(DNS_LABEL, "")
    subdomain: str = item(DNS_NAME, "")
    restart_policy: str = item(Choice(("Always", "OnFailure", "Never")), "Always")
    termination_grace_period_seconds: int = item(SECONDS, 30)
    active_deadline_seconds: int | None = item(SECONDS)
    volumes: Any = item(ANYTHING)
    security_context: Any = item(ANYTHING)
    image_pull_secrets: Any = item(UNREAD)
    affinity: Any = item(UNREAD)
    tolerations: Any = item(UNREAD)
    topology_spread_constraints: Any = item(UNREAD)
    scheduler_name: str = item(STRING, "")
    scheduling_gates: Any = item(UNREAD)
    priority: int | None = item(Integer())
    priority_class_name: str = item(STRING, "")
    preemption_policy: str = item(STRING, "")
    runtime_class_name: str = item(STRING, "")
    readiness_gates: Any = item(UNREAD)
    resource_claims: Any = item(UNREAD)
    resources: Any = item(ANYTHING)
    overhead: Any = item(UNREAD)
    os: Any = item(UNREAD)
    dns_policy: str = item(Choice(("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")), "ClusterFirst")
    dns_config: Any = item(UNREAD)
    enable_service_links: bool | None = item(Flag())
    set_hostname_as_fqdn: bool | None = item(Flag(), name="setHostnameAsFQDN")
    share_process_namespace: bool | None = item(Flag())

    RULES = (
        Rule(
            lambda spec: not (spec.service_account_name and spec.service_account) or spec.service_account_name == spec.service_account,
            "serviceAccount",
            "the same as serviceAccountName, or nothing",
        ),
    )

    @property
    def account(self) -> str:
        """The service account that the pod runs as."""
        return self.service_account_name or self.service_account or "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodIP:
    ip: IPAddress = item(IP, required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    type: str = item(STRING, required=True)
    status: str = item(Choice(("True", "False", "Unknown")), required=True)
    reason: str = item(STRING, "")
    message: str = item(STRING, "")
    last_probe_time: Any = item(UNREAD)
    last_transition_time: Any = item(UNREAD)
    last_update_time: Any = item(UNREAD)
    observed_generation: Any = item(UNREAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodStatus:
    phase: str = item(Choice(("Pending", "Running", "Succeeded", "Failed", "Unknown")), "Pending")
    pod_ip: IPAddress | None = item(IP, name="podIP")
    pod_ips: tuple[PodIP, ...] = item(ListOf(Record(PodIP), most=16), (), name="podIPs")
    conditions: tuple[Condition, ...] = item(ListOf(Record(Condition)), ())
    host_ip: str = item(STRING, "", name="hostIP")
    host_ips: Any = item(UNREAD, name="hostIPs")
    start_time: Any = item(UNREAD)
    container_statuses: Any = item(UNREAD)
    init_container_statuses: Any = item(UNREAD)
    ephemeral_container_statuses: Any = item(UNREAD)
    extended_resource_claim_status: Any = item(UNREAD)
    resource_claim_statuses: Any = item(UNREAD)
    allocated_resources: Any = item(UNREAD)
    resources: Any = item(ANYTHING)
    qos_class: str = item(STRING, "")
    message: str = item(STRING, "")
    reason: str = item(STRING, "")
    nominated_node_name: str = item(STRING, "")
    observed_generation: Any = item(UNREAD)
    resize: str = item(STRING, "")

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        return tuple(entry.ip for entry in self.pod_ips) or ((self.pod_ip,) if self.pod_ip is not None else ())

    @property
    def ready(self) -> bool:
        return any(condition.type == "Ready" and condition.status == "True" for condition in self.conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod(Object):
    KIND = "Pod"
    API_VERSIONS = ("v1",)

    spec: PodSpec = item(Record(PodSpec), required=True)
    status: PodStatus = item(Record(PodStatus), PodStatus())


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateMetadata:
    """As `Metadata`, but nothing is required: the pods made from it get names of their own."""

    name: str = item(STRING, "")
    namespace: str = item(DNS_LABEL, "")
    labels: Mapping[str, str] = item(LABELS, NOTHING)
    annotations: Mapping[str, str] = item(ANNOTATIONS, NOTHING)
    creation_timestamp: Any = item(UNREAD)
    finalizers: Any = item(UNREAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTemplate:
    metadata: TemplateMetadata = item(Record(TemplateMetadata), TemplateMetadata())
    spec: PodSpec = item(Record(PodSpec), required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSelector:
    match_labels: Mapping[str, str] = item(LABELS, NOTHING)
    match_expressions: Any = item(ANYTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    selector: LabelSelector = item(Record(LabelSelector), required=True)
    template: PodTemplate = item(Record(PodTemplate), required=True)
    replicas: int = item(Integer(0, 2**31 - 1), 1)
    strategy: Any = item(UNREAD)
    min_ready_seconds: int = item(SECONDS, 0)
    revision_history_limit: int = item(SECONDS, 10)
    progress_deadline_seconds: int = item(SECONDS, 600)
    paused: bool = item(Flag(), False)

    RULES = (
        Rule(
            lambda spec: all(spec.template.metadata.labels.get(key) == value for key, value in spec.selector.match_labels.items()),
            "selector",
            "labels that spec.template.metadata.labels carries",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment(Object):
    KIND = "Deployment"
    API_VERSIONS = ("apps/v1",)

    spec: DeploymentSpec = item(Record(DeploymentSpec), required=True)
    status: Any = item(UNREAD)
