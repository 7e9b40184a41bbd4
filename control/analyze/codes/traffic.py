"""Routes, Gateways and DestinationRules: CV05 to CV07."""

from __future__ import annotations

from typing import Final

from control.analyze.codes.code import ERROR, INFO, WARNING, Code

# Where routes lead, and VirtualServices

UNKNOWN_HOST: Final = Code(
    "CV0501",
    ERROR,
    "A route leads to a service that is not there",
    "What goes there fails: with 503 from a VirtualService, with 500 from a route of the Gateway API.",
)
UNKNOWN_PORT: Final = Code(
    "CV0502", ERROR, "A route leads to a port that the service does not have", "What goes there fails. Name a port of the Service."
)
UNKNOWN_SUBSET: Final = Code(
    "CV0503",
    ERROR,
    "A route leads to a subset that nobody defines",
    "What goes there fails with 503. Define it in a DestinationRule of the service's namespace.",
)
HIDDEN_HOST: Final = Code(
    "CV0504",
    WARNING,
    "A route leads to a service that is not exported to it",
    "Add the namespace to exportTo of the service, or route elsewhere.",
)
UNREACHABLE_RULE: Final = Code(
    "CV0505", WARNING, "A rule is never reached", "Rules before it take every request that it matches. Move it up, or narrow those."
)
HOST_BOUND_TWICE: Final = Code(
    "CV0506",
    WARNING,
    "Several VirtualServices are for one host",
    "Their rules are put one after the other, those of the oldest first. Put them into one, or delegate from one to the others.",
)
UNKNOWN_GATEWAY: Final = Code(
    "CV0507", ERROR, "A VirtualService names a Gateway that is not there", "Its rules do not count there. Mend the name."
)
MISSING_DELEGATE: Final = Code(
    "CV0508", ERROR, "A VirtualService delegates to one that is not there", "The rule is left out. Create the delegate, or mend its name."
)
BAD_DELEGATE: Final = Code(
    "CV0509",
    ERROR,
    "A delegation cannot work",
    "A delegate has no hosts of its own, is exported to the namespace that delegates, and matches within what is delegated.",
)
ORPHAN: Final = Code(
    "CV0510", INFO, "Nobody delegates to the VirtualService", "It has no hosts, so that its rules count only by delegation."
)
ROUTES_UNKNOWN_HOST: Final = Code(
    "CV0511",
    WARNING,
    "A VirtualService is for a host that is not there",
    "Its rules never apply. A name without a dot is one of the VirtualService's own namespace.",
)
NO_ROUTER: Final = Code(
    "CV0512",
    WARNING,
    "Rules are for a service that no waypoint routes",
    "Tunnels carry connections and do not look at requests: only Envoys and gRPC clients that take xDS go by the rules. Label the service "
    "or its namespace istio.io/use-waypoint. To a waypoint leads only a service's own address.",
)
UNSEEN: Final = Code(
    "CV0513",
    WARNING,
    "A VirtualService is where the service's waypoint does not look",
    "A waypoint reads those of the service's namespace and of its own, by exact hosts, and clients leave all of it to the waypoint.",
)
OUTRANKED: Final = Code(
    "CV0514", WARNING, "Another route counts instead", "Only one of the objects that are named counts. Remove the others."
)
NOT_SERVED: Final = Code(
    "CV0515",
    WARNING,
    "No Gateway of a VirtualService serves its host",
    "Requests for the host do not get in. Add it to a server of the Gateway, with the VirtualService's namespace or none before it.",
)
NO_EFFECT: Final = Code("CV0516", WARNING, "A route has no effect", "The message says why.")
CANNOT_BE_DONE: Final = Code("CV0517", ERROR, "A part of a route cannot be done", "Requests that it is for are answered with an error.")

# Routes and gateways of the Gateway API

UNKNOWN_PARENT: Final = Code("CV0601", ERROR, "A route is attached to what is not there", "It has no effect there. Mend parentRefs.")
UNKNOWN_SECTION: Final = Code(
    "CV0602",
    ERROR,
    "A route is attached to a part that its parent lacks",
    "sectionName is a listener of a Gateway or a port's name of a Service; port is a listener's or the Service's.",
)
NOT_ADMITTED: Final = Code(
    "CV0603",
    ERROR,
    "No listener takes the route",
    "Listeners say which namespaces and kinds may attach in allowedRoutes, and for which hostname they are.",
)
NO_GRANT: Final = Code(
    "CV0604",
    ERROR,
    "A reference into another namespace is not granted",
    "It leads nowhere: a route's share of requests is answered 500, of connections closed, and nothing is copied. Create a ReferenceGrant "
    "there that allows it.",
)
CONSUMER: Final = Code(
    "CV0605",
    INFO,
    "A route counts for clients of its own namespace only",
    "It is attached to a Service of another namespace. For every client, put it into the Service's namespace.",
)
NO_WEIGHT: Final = Code("CV0606", ERROR, "Every backend of a rule has weight 0", "Requests are answered 500. Give one a weight.")
UNKNOWN_BACKEND: Final = Code("CV0607", ERROR, "A backend is of a kind that is none", "Its share of requests fails. Backends are Services.")
UNATTACHED: Final = Code("CV0608", WARNING, "A route is attached to nothing", "Name a Gateway, or a Service of the mesh, in parentRefs.")
UNKNOWN_CLASS: Final = Code("CV0610", ERROR, "A Gateway is of a class that is not there", "Nobody makes it work. Mend gatewayClassName.")
LISTENER_CONFLICT: Final = Code(
    "CV0611", ERROR, "Listeners are in each other's way", "On one port there is one protocol, and each host once. Change one of them."
)
MISSING_CERTIFICATE: Final = Code("CV0612", ERROR, "A listener's certificate is not there", "Create the Secret, or mend its name.")
SELECTS_NO_GATEWAY: Final = Code(
    "CV0613", WARNING, "A Gateway selects no pod", "Nobody listens for it. Compare its selector with the labels of the gateway's pods."
)
NO_INGRESS: Final = Code(
    "CV0614",
    INFO,
    "Ingress gateways are not served here",
    "Another control plane may serve them. Traffic that its gateways let in is taken as that of any client outside the mesh.",
)

# DestinationRules

RULE_OF_UNKNOWN_HOST: Final = Code(
    "CV0701",
    WARNING,
    "A DestinationRule is for a host that is not there",
    "It never applies. A name without a dot is one of the rule's own namespace.",
)
RULE_ELSEWHERE: Final = Code(
    "CV0702",
    WARNING,
    "A DestinationRule is where it is not looked up",
    "Waypoints look in their own namespace, the service's and the root namespace, at what is exported to their own. Elsewhere it is only "
    "for gRPC clients and Envoys of its namespace, and for services without a waypoint.",
)
EMPTY_SUBSET: Final = Code("CV0703", WARNING, "A subset has no endpoint", "What goes to it fails. Compare its labels with the pods'.")
RULES_CONFLICT: Final = Code(
    "CV0704", WARNING, "Two DestinationRules for one host disagree", "The oldest one's policy counts. Put them into one."
)
PLAINTEXT_DISABLED: Final = Code(
    "CV0705",
    WARNING,
    "DISABLE does not disable mutual TLS",
    "Between pods of the mesh it is the tunnels' business. To let plaintext in, use a PeerAuthentication.",
)
NO_IDENTITY: Final = Code(
    "CV0706",
    WARNING,
    "ISTIO_MUTUAL towards what is outside the mesh",
    "There is nobody at the other end to prove an identity: traffic is plaintext. Use SIMPLE or MUTUAL, or enrol the pods.",
)
TLS_TO_PLAINTEXT: Final = Code(
    "CV0707",
    WARNING,
    "TLS towards a port of the mesh that speaks plaintext",
    "The tunnel encrypts already. The server would have to speak TLS itself: set the port's appProtocol to https, or remove tls.",
)
