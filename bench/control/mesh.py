"""A mesh of a given size, as objects: services of ten pods each, policies, namespaces, 200 nodes. The same for the same size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from types import MappingProxyType

from mesh.model.manifest import AuthorizationPolicy, Key, Namespace, Node, Object, Pod, Service, parse
from mesh.model.manifest.core import Metadata, OwnerReference
from mesh.model.manifest.pods import Condition, Container, ContainerPort, PodIP, PodSpec, PodStatus
from mesh.model.manifest.services import ServicePort, ServiceSpec

NODES = 200
PODS_PER_SERVICE, PODS_PER_POLICY, SERVICES_PER_NAMESPACE = 10, 20, 10
WHERE = "bench"
READY, NOT_READY = (Condition(type="Ready", status="True"),), (Condition(type="Ready", status="False"),)
CONTAINERS = (Container(name="app", ports=(ContainerPort(container_port=8080, name="http"),)),)
CAPTURED = MappingProxyType({"ambient.istio.io/redirection": "enabled"})
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: APP}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/front/sa/web, cluster.local/ns/front/sa/api]}}]
    to: [{operation: {ports: ["8080"]}}]
"""


@dataclass(frozen=True)
class Size:
    pods: int

    @property
    def services(self) -> int:
        return self.pods // PODS_PER_SERVICE

    @property
    def policies(self) -> int:
        return self.pods // PODS_PER_POLICY

    def namespace_of(self, service: int) -> str:
        return f"team-{service // SERVICES_PER_NAMESPACE}"


def objects(size: Size) -> Iterator[Object]:
    for number in range(NODES):
        labels = MappingProxyType({"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": f"eu-{number % 3}"})
        yield Node(where=WHERE, metadata=Metadata(name=f"node-{number}", labels=labels))
    for number in range(-(-size.services // SERVICES_PER_NAMESPACE)):
        labels = MappingProxyType({"istio.io/dataplane-mode": "ambient"})
        yield Namespace(where=WHERE, metadata=Metadata(name=f"team-{number}", labels=labels))
    for number in range(size.services):
        spec = ServiceSpec(
            selector=MappingProxyType({"app": f"app-{number}"}),
            ports=(ServicePort(port=80, target_port="http", name="http"),),
            cluster_ip=ip_address((10 << 24) + (200 << 16) + number),
        )
        yield Service(where=WHERE, metadata=Metadata(name=f"app-{number}", namespace=size.namespace_of(number)), spec=spec)
    for number in range(size.policies):
        service = number * size.services // size.policies
        text = POLICY.replace("NAMESPACE", size.namespace_of(service)).replace("NAME", f"p-{number}").replace("APP", f"app-{service}")
        (policy,) = parse(text, WHERE)
        assert isinstance(policy, AuthorizationPolicy)
        yield replace(policy, where=WHERE)
    for number in range(size.pods):
        yield pod(size, number)


def pod(size: Size, number: int, *, ready: bool = True) -> Pod:
    service = number % size.services
    digest = f"{service * 2654435761 % 2**32:08x}"
    labels = MappingProxyType({"app": f"app-{service}", "version": "v1", "pod-template-hash": digest})
    owner = OwnerReference(kind="ReplicaSet", name=f"app-{service}-{digest}", controller=True)
    return Pod(
        where=WHERE,
        metadata=Metadata(
            name=f"app-{service}-{digest}-{number:05x}",
            namespace=size.namespace_of(service),
            uid=f"{number:032x}",
            labels=labels,
            annotations=CAPTURED,
            owner_references=(owner,),
        ),
        spec=PodSpec(containers=CONTAINERS, node_name=f"node-{number % NODES}", service_account_name=f"app-{service}"),
        status=PodStatus(
            phase="Running", pod_ips=(PodIP(ip=ip_address((10 << 24) + number + 1)),), conditions=READY if ready else NOT_READY
        ),
    )


def origin(key: Key) -> str:
    return str(key)
