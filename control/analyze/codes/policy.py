"""Policies, mutual TLS and telemetry: CV08 to CV10."""

from __future__ import annotations

from typing import Final

from control.analyze.codes.code import ERROR, INFO, WARNING, Code

# AuthorizationPolicies and tokens

SELECTS_NOTHING: Final = Code(
    "CV0801", WARNING, "A policy selects no pod", "It protects nothing. Compare its selector with the labels of the pods of its namespace."
)
MISSING_TARGET: Final = Code(
    "CV0802", ERROR, "A policy targets what is not there", "It covers nothing. Targets are of the policy's own namespace."
)
NEEDS_WAYPOINT: Final = Code(
    "CV0803",
    ERROR,
    "A policy asks about requests where there is no waypoint",
    "A tunnel cannot judge them. An ALLOW rule allows nothing, a DENY rule denies without looking at the request. Target the Service with "
    "targetRefs, and give it a waypoint.",
)
TARGET_WITHOUT_WAYPOINT: Final = Code(
    "CV0804",
    ERROR,
    "What a policy targets has no waypoint",
    "The pods behind it are denied. Label the Service or its namespace istio.io/use-waypoint.",
)
NEVER_MATCHES: Final = Code("CV0805", WARNING, "A rule can never match", "In an ALLOW it allows nothing, in a DENY it denies nothing.")
UNKNOWN_PRINCIPAL: Final = Code("CV0806", WARNING, "No workload has the identity", "Mind trust domain, namespace and service account.")
UNKNOWN_ACCOUNT: Final = Code(
    "CV0807", WARNING, "A policy names a service account that is not there", "Mend the name, or create the account."
)
UNKNOWN_NAMESPACE: Final = Code(
    "CV0808", WARNING, "A policy names a namespace that is not there", "Mend the name, or create the namespace."
)
DENIES_ALL: Final = Code(
    "CV0809", WARNING, "A policy denies everything that it covers", "No other policy allows anything there. Add an ALLOW policy with rules."
)
DRY_RUN: Final = Code("CV0810", INFO, "A policy is a dry run", "It is counted and not enforced. Remove istio.io/dry-run to enforce it.")
NO_AUDIT: Final = Code(
    "CV0811", WARNING, "AUDIT has no effect", "Nothing is written: a tunnel has no audit log, a waypoint marks its access log."
)
CUSTOM_DENIES: Final = Code("CV0812", ERROR, "CUSTOM denies what it is to ask about", "There is no authorizer to ask. Use ALLOW and DENY.")
TOKENS_DENY: Final = Code(
    "CV0813",
    ERROR,
    "A RequestAuthentication denies what it is to check",
    "Tokens are looked at by waypoints only. Name the Service in targetRefs, and give it a waypoint.",
)
OUTSIDE: Final = Code(
    "CV0814", WARNING, "A policy selects pods outside the mesh", "There is no tunnel to enforce it: everything is let in. Enrol the pods."
)
NO_KEYS: Final = Code(
    "CV0815",
    ERROR,
    "The keys of an issuer cannot be had",
    "Every token of the issuer is refused. Write jwksUri, or jwks with at least one key that signatures can be verified with; keys are not "
    "discovered by the issuer's name.",
)
NO_REQUESTS: Final = Code(
    "CV0816",
    WARNING,
    "A policy asks about requests on a port that has none",
    "The port speaks no HTTP. There an ALLOW rule allows nothing, and a DENY rule denies without looking at what it asks. Set the port's "
    "appProtocol if it is HTTP after all.",
)
WAYPOINT_OUT: Final = Code(
    "CV0817",
    ERROR,
    "A policy keeps a waypoint out",
    "At the pods the waypoint is the peer, not its client: what comes through it is denied. Let the waypoint's identity in there, and say "
    "who may be its client in a policy that targets the Service.",
)
CLIENT_UNSEEN: Final = Code(
    "CV0818",
    ERROR,
    "A policy denies clients that it does not see",
    "What comes through a waypoint has the waypoint's identity at the pods: a DENY by identity there lets every client of the waypoint in. "
    "Say it in a policy that targets the Service, which the waypoint enforces.",
)
BYPASSED: Final = Code(
    "CV0819",
    WARNING,
    "Routes of another service lead around a policy",
    "A waypoint asks the policies of the service that a request is addressed to, not of the one that a route sends it on to. Say the same "
    "in a policy for the other service; or let in nobody but the own waypoint's identity at the pods, by an ALLOW policy with a selector.",
)

# Mutual TLS

SHADOWED: Final = Code(
    "CV0901", WARNING, "Another PeerAuthentication counts instead", "Of several for the same pods the oldest counts. Remove the others."
)
UNUSED_PORT_MODE: Final = Code(
    "CV0902", WARNING, "A port's mode is for a port that no pod has", "Modes are by the pods' own ports, not by those of a Service."
)
DISABLE_IS_PERMISSIVE: Final = Code(
    "CV0903", INFO, "DISABLE is the same as PERMISSIVE", "Tunnels always take mutual TLS, and plaintext beside it."
)

# Telemetry

UNKNOWN_PROVIDER: Final = Code("CV1001", WARNING, "A Telemetry names a provider that is not there", "Nothing is sent to it. Mend the name.")
NO_TELEMETRY: Final = Code(
    "CV1002",
    WARNING,
    "A Telemetry is for what no waypoint serves",
    "Requests are logged and traced by waypoints only; tunnels have metrics of connections that it does not change.",
)
