"""Kubernetes' objects to frozen types, strictly, from YAML files and from an API server's JSON.

`tree` reads YAML; `shapes`, `words` and `record` say how objects are described; `core`, `pods`, `services`, `endpoints`, the policies and
the packages `istio` and `gatewayapi` describe them; `kinds` lists them; `load` makes objects; `schema` makes OpenAPI of the descriptions.

    objects = parse(text, "shop.yaml")                  # ConfigError if anything in it is refused
    loaded = load_directory([("shop.yaml", text), …])   # objects, and what was refused, object by object
    loaded = parse_object({"apiVersion": …}, "origin")  # the same of one object that is decoded already
"""

from mesh.model.manifest.core import Key, Metadata, Namespace, Node, Object, OwnerReference, Selector, ServiceAccount, selects
from mesh.model.manifest.endpoints import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from mesh.model.manifest.gatewayapi.gateways import Gateway, GatewayClass
from mesh.model.manifest.gatewayapi.grants import ReferenceGrant
from mesh.model.manifest.gatewayapi.grpc import GRPCRoute
from mesh.model.manifest.gatewayapi.http import HTTPRoute
from mesh.model.manifest.gatewayapi.l4 import TCPRoute, TLSRoute
from mesh.model.manifest.istio.destinationrule import DestinationRule
from mesh.model.manifest.istio.gateway import IstioGateway
from mesh.model.manifest.istio.serviceentry import ServiceEntry
from mesh.model.manifest.istio.telemetry import Telemetry
from mesh.model.manifest.istio.virtualservice import VirtualService
from mesh.model.manifest.istio.workloadentry import WorkloadEntry
from mesh.model.manifest.kinds import GROUPS, KINDS, POLICY_GROUP, POLICY_KINDS, type_of
from mesh.model.manifest.load import combine, load_directory, parse, parse_file, parse_object, refused_object
from mesh.model.manifest.peerauth import PeerAuthentication
from mesh.model.manifest.pods import Container, Deployment, Pod, PodSpec, PodStatus, PodTemplate, Probe
from mesh.model.manifest.record import unguarded, unsupported
from mesh.model.manifest.refused import Guise, Parsed, Refused, guises
from mesh.model.manifest.requestauth import RequestAuthentication
from mesh.model.manifest.security import AuthorizationPolicy
from mesh.model.manifest.services import Service, ServicePort, ServiceSpec

__all__ = [
    "GROUPS",
    "KINDS",
    "POLICY_GROUP",
    "POLICY_KINDS",
    "AuthorizationPolicy",
    "Container",
    "Deployment",
    "DestinationRule",
    "Endpoint",
    "EndpointConditions",
    "EndpointPort",
    "EndpointSlice",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "Guise",
    "HTTPRoute",
    "IstioGateway",
    "Key",
    "Metadata",
    "Namespace",
    "Node",
    "Object",
    "OwnerReference",
    "Parsed",
    "PeerAuthentication",
    "Pod",
    "PodSpec",
    "PodStatus",
    "PodTemplate",
    "Probe",
    "ReferenceGrant",
    "Refused",
    "RequestAuthentication",
    "Selector",
    "Service",
    "ServiceAccount",
    "ServiceEntry",
    "ServicePort",
    "ServiceSpec",
    "TCPRoute",
    "TLSRoute",
    "Telemetry",
    "VirtualService",
    "WorkloadEntry",
    "combine",
    "guises",
    "load_directory",
    "parse",
    "parse_file",
    "parse_object",
    "refused_object",
    "selects",
    "type_of",
    "unguarded",
    "unsupported",
]
