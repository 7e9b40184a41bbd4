"""What routes and gateways share: references, selectors, sessions. Names and limits are the Gateway API's own."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mesh.model.manifest.gatewayapi import GROUP
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import DNS_LABEL, LABEL_KEY, LABEL_VALUE, LABELS, NOTHING, PORT, Choice, Integer, ListOf, Text
from mesh.model.manifest.words import GATEWAY_DURATION, NAME

_NAME = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
GROUP_NAME = Text(rf"(?:{_NAME}(?:\.{_NAME})*)?", "an API group, empty for the core API", 253)
KIND_NAME = Text(r"[a-zA-Z](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?", "a kind of up to 63 letters, digits and '-'", 63)
SECTION = Text(rf"{_NAME}(?:\.{_NAME})*", "a name of up to 253 lower-case letters, digits, '-' and '.'", 253)
CONTROLLER = Text(rf"{_NAME}(?:\.{_NAME})*/[A-Za-z0-9/._~%!$&'()*+,;=:-]+", "<domain>/<path> of a controller", 253)
SERVICE_GROUPS = ("", "core")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRef:
    """What a route is attached to: a Gateway, or, in a mesh, a Service or ServiceEntry. `namespace` empty: the route's own."""

    group: str = item(GROUP_NAME, GROUP, about="The API group of the parent; empty for a Service.")
    kind: str = item(KIND_NAME, "Gateway", about="The parent's kind: Gateway, or, for traffic inside the mesh, Service or ServiceEntry.")
    namespace: str = item(DNS_LABEL, "", about="The parent's namespace, if not the route's own.")
    name: str = item(NAME, required=True, about="The parent's name.")
    section_name: str = item(SECTION, "", about="A listener of the Gateway, or a named port of the Service.")
    port: int | None = item(PORT, about="A port of the parent; absent, every one.")

    @property
    def parent(self) -> tuple[str, str, str, str]:
        return (self.group, self.kind, self.namespace, self.name)


PARENTS = ListOf(Record(ParentRef), most=32)


def _apart(refs: tuple[ParentRef, ...]) -> bool:
    """Of one parent either all of it is named, once, or parts of it, none twice."""
    parts: dict[tuple[str, str, str, str], list[tuple[str, int | None]]] = {}
    for ref in refs:
        parts.setdefault(ref.parent, []).append((ref.section_name, ref.port))
    return all(len(found) == len(set(found)) and (len(found) == 1 or ("", None) not in found) for found in parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """What every route's spec begins with."""

    parent_refs: tuple[ParentRef, ...] = item(PARENTS, (), about="What the route is attached to: Gateways, or Services of the mesh.")
    use_default_gateways: str = item(
        Choice(("All", "None")), "", about="Whether it is attached to default Gateways.", unsupported="no Gateway is a default here"
    )


PARENTS_APART = Rule(
    lambda spec: _apart(spec.parent_refs),
    "parentRefs",
    "each parent once, or with a sectionName or port of its own each time",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRef:
    """An object of the same namespace."""

    group: str = item(GROUP_NAME, required=True, about="Its API group; empty for the core API.")
    kind: str = item(KIND_NAME, required=True, about="Its kind.")
    name: str = item(NAME, required=True, about="Its name.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """An object, perhaps of another namespace: then a ReferenceGrant there must allow it."""

    group: str = item(GROUP_NAME, required=True, about="Its API group; empty for the core API.")
    kind: str = item(KIND_NAME, required=True, about="Its kind.")
    name: str = item(NAME, required=True, about="Its name.")
    namespace: str = item(DNS_LABEL, "", about="Its namespace, if not the same.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    group: str = item(GROUP_NAME, "", about="Its API group; empty for a Secret.")
    kind: str = item(KIND_NAME, "Secret", about="Its kind.")
    name: str = item(NAME, required=True, about="Its name.")
    namespace: str = item(DNS_LABEL, "", about="Its namespace, if not the same; a ReferenceGrant there must allow it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where requests go, as a plain reference."""

    group: str = item(GROUP_NAME, "", about="Its API group; empty for a Service.")
    kind: str = item(KIND_NAME, "Service", about="Its kind.")
    name: str = item(NAME, required=True, about="Its name.")
    namespace: str = item(DNS_LABEL, "", about="Its namespace, if not the route's; a ReferenceGrant there must allow it.")
    port: int | None = item(PORT, about="Its port; a Service must have one.")


PORT_OF_SERVICE = Rule(
    lambda backend: backend.kind != "Service" or backend.group not in SERVICE_GROUPS or backend.port is not None,
    "port",
    "a port, since it is a Service",
    "self.kind != 'Service' || !(self.group in ['', 'core']) || has(self.port)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRef(Backend):
    weight: int = item(Integer(0, 1_000_000), 1, about="Its share: the weight over the sum of all weights; 0 for none.")

    RULES: ClassVar[tuple[Rule, ...]] = (PORT_OF_SERVICE,)


OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    key: str = item(LABEL_KEY, required=True, about="The label that is asked about.")
    operator: str = item(Choice(OPERATORS), required=True, about="What is asked: In, NotIn, Exists or DoesNotExist.")
    values: tuple[str, ...] = item(ListOf(LABEL_VALUE, most=256), (), about="Values for In and NotIn.")

    RULES = (
        Rule(
            lambda entry: bool(entry.values) == (entry.operator in ("In", "NotIn")),
            "values",
            "values with In and NotIn, and with nothing else",
            "(has(self.values) && size(self.values) > 0) == (self.operator in ['In', 'NotIn'])",
        ),
    )

    def holds(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.key)
        match self.operator:
            case "In":
                return found in self.values
            case "NotIn":
                return found not in self.values
            case "Exists":
                return found is not None
            case _:
                return found is None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSelector:
    """Kubernetes' own: all labels and all requirements must hold; without any, everything is selected."""

    match_labels: Mapping[str, str] = item(LABELS, NOTHING, about="Labels that must be there, all of them.")
    match_expressions: tuple[Requirement, ...] = item(
        ListOf(Record(Requirement), most=64), (), about="Further requirements, all of which must hold."
    )

    def selects(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            entry.holds(labels) for entry in self.match_expressions
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieConfig:
    lifetime_type: str = item(Choice(("Permanent", "Session")), "Session", about="Whether the cookie outlives the browser's session.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPersistence:
    """Times in seconds."""

    session_name: str = item(Text(longest=128), "", about="The name of the cookie or header.")
    absolute_timeout: float | None = item(GATEWAY_DURATION, about="How long a session may last.")
    idle_timeout: float | None = item(GATEWAY_DURATION, about="How long a session may be idle.")
    type: str = item(Choice(("Cookie", "Header")), "Cookie", about="What carries the session.")
    cookie_config: CookieConfig | None = item(Record(CookieConfig), about="More about the cookie.")

    RULES = (
        Rule(
            lambda session: (
                session.absolute_timeout is not None or session.cookie_config is None or session.cookie_config.lifetime_type != "Permanent"
            ),
            "absoluteTimeout",
            "an absoluteTimeout with a Permanent cookie",
            "!has(self.cookieConfig) || self.cookieConfig.lifetimeType != 'Permanent' || has(self.absoluteTimeout)",
        ),
        Rule(
            lambda session: session.cookie_config is None or session.type == "Cookie",
            "cookieConfig",
            "cookieConfig with the type Cookie only",
            "!has(self.cookieConfig) || self.type == 'Cookie'",
        ),
    )


NO_SESSIONS = "sessions are not kept by routes; consistentHash of a DestinationRule keeps a client at one endpoint"


def named_once(rules: tuple[object, ...]) -> bool:
    names = [name for name in (getattr(rule, "name", "") for rule in rules) if name]
    return len(names) == len(set(names))


RULES_NAMED_ONCE = Rule(
    lambda spec: named_once(spec.rules),
    "rules",
    "a different name for each rule",
    "!has(self.rules) || self.rules.all(one, !has(one.name) || self.rules.exists_one(other, has(other.name) && one.name == other.name))",
)
