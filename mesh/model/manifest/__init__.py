"""Kubernetes YAML to frozen types, strictly: `tree` reads YAML, `shapes` says how objects are described, `core`, `pods`, `services`
and `security` describe them, `load` makes objects of files.

    objects = parse(text, "shop.yaml")                  # ConfigError if anything in it is refused
    loaded = load_directory([("shop.yaml", text), …])   # objects, and what was refused, object by object
"""

from mesh.model.manifest.core import Key, Metadata, Namespace, Object, OwnerReference, Selector, ServiceAccount, selects
from mesh.model.manifest.load import (
    ACCEPTED_KINDS,
    KINDS,
    POLICY_KINDS,
    Parsed,
    Refused,
    combine,
    load_directory,
    parse,
    parse_file,
    refused_object,
)
from mesh.model.manifest.pods import Container, Deployment, Pod, PodSpec, PodStatus, PodTemplate, Probe
from mesh.model.manifest.security import AuthorizationPolicy, PeerAuthentication
from mesh.model.manifest.services import Service, ServicePort, ServiceSpec

__all__ = [
    "ACCEPTED_KINDS",
    "KINDS",
    "POLICY_KINDS",
    "AuthorizationPolicy",
    "Container",
    "Deployment",
    "Key",
    "Metadata",
    "Namespace",
    "Object",
    "OwnerReference",
    "Parsed",
    "PeerAuthentication",
    "Pod",
    "PodSpec",
    "PodStatus",
    "PodTemplate",
    "Probe",
    "Refused",
    "Selector",
    "Service",
    "ServiceAccount",
    "ServicePort",
    "ServiceSpec",
    "combine",
    "load_directory",
    "parse",
    "parse_file",
    "refused_object",
    "selects",
]
