"""Reading, namespaces, pods and Services: CV00 to CV02."""

from __future__ import annotations

from typing import Final

from control.analyze.codes.code import ERROR, INFO, WARNING, Code

# Reading

UNREADABLE: Final = Code(
    "CV0001",
    ERROR,
    "A document cannot be read",
    "It is no YAML, says a key twice, or is larger or deeper than is read. Nothing of it counts; if it may be a policy, what it "
    "could cover is denied.",
)
UNKNOWN_KIND: Final = Code(
    "CV0002",
    ERROR,
    "The mesh does not know the kind",
    "The API is one that the mesh reads, but not this kind of it, or the kind is misspelt. Objects of APIs that have nothing to do "
    "with the mesh are not reported.",
)
UNSERVED_VERSION: Final = Code("CV0003", ERROR, "The kind is not served in this version", "Write one of the versions that are named.")
UNREAD_KIND: Final = Code(
    "CV0004",
    WARNING,
    "A kind of Istio's or of the Gateway API's is not read here",
    "What it asks for does not happen. The playground and directories of manifests refuse it; in a cluster it is left alone.",
)
BAD_VALUE: Final = Code("CV0010", ERROR, "A field has a value that is not accepted", "The object is refused whole. Write what is accepted.")
UNKNOWN_FIELD: Final = Code(
    "CV0011", ERROR, "There is no such field", "The object is refused whole. Mind the spelling, and the level at which the field stands."
)
MISSING_FIELD: Final = Code("CV0012", ERROR, "A field is missing that must be there", "The object is refused whole. Add the field.")
BROKEN_RULE: Final = Code(
    "CV0013", ERROR, "Fields do not go together", "Each is good by itself. The object is refused whole until they agree."
)
SAME_NAME: Final = Code(
    "CV0020", ERROR, "Two objects have one name", "None of them can be told to be the one that is meant. Rename or remove all but one."
)
NOT_HONOURED: Final = Code(
    "CV0030", WARNING, "A field has no effect", "It is known and accepted, but nothing here does what it asks. Remove it, or do without."
)

# Namespaces and pods

UNKNOWN_MODE: Final = Code(
    "CV0101",
    WARNING,
    "The data plane mode is none that is known",
    "Pods are enrolled with istio.io/dataplane-mode=ambient alone; with any other word they stay outside the mesh.",
)
TWO_MESHES: Final = Code(
    "CV0102",
    WARNING,
    "A namespace is labelled for sidecars and for ambient",
    "Pods that get a sidecar are left out of the ambient mesh. Remove one of the labels.",
)
SIDECAR_IN_AMBIENT: Final = Code(
    "CV0103",
    WARNING,
    "A pod with a sidecar is labelled for ambient",
    "A pod with a sidecar is not enrolled. Remove the sidecar, or label the pod istio.io/dataplane-mode=none.",
)
NOT_ENROLLED: Final = Code(
    "CV0104",
    INFO,
    "A pod of an ambient namespace stays outside the mesh",
    "Its traffic is neither encrypted nor judged. Label it istio.io/dataplane-mode=none to say that this is meant.",
)
MISSING_NAMESPACE: Final = Code(
    "CV0105", WARNING, "Objects are in a namespace that is not there", "Create the namespace, or mend its name in the objects."
)
NOT_REDIRECTED: Final = Code(
    "CV0106",
    WARNING,
    "A running pod is to be in the mesh and is not",
    "No node agent has taken its traffic: it is neither encrypted nor judged. Look at the agent's log of its node.",
)

# Services

SELECTS_NO_POD: Final = Code(
    "CV0201", WARNING, "A Service selects no pod", "Connections to it fail. Compare its selector with the pods' labels."
)
NO_NAMED_PORT: Final = Code(
    "CV0202",
    WARNING,
    "No pod has the port that targetPort names",
    "The Service has no endpoint on this port. Name a port of the containers.",
)
UNDECLARED_PORT: Final = Code(
    "CV0203",
    INFO,
    "No pod declares the port that targetPort numbers",
    "It works if a container listens there all the same. Declare the port.",
)
UNKNOWN_PROTOCOL: Final = Code(
    "CV0204",
    INFO,
    "A port that is routed does not say what it speaks",
    "The protocol is told by a connection's first bytes, for which a server that speaks first waits in vain. Set appProtocol, or begin the "
    "port's name with http-, grpc- or tcp-.",
)
SAME_ADDRESS: Final = Code(
    "CV0205", ERROR, "Two services have one address", "Connections to it reach one of them only. Give each an address of its own."
)
