"""Whom a policy is for: pods by their labels, or what the traffic is addressed to. The same for every policy of Istio's."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.model.manifest.core import Selector
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import DNS_NAME, NOTHING, Choice, ListOf, Text

GATEWAY_GROUP, NETWORKING_GROUP = "gateway.networking.k8s.io", "networking.istio.io"
TARGETS = {
    ("Gateway", GATEWAY_GROUP),
    ("GatewayClass", GATEWAY_GROUP),
    ("Service", ""),
    ("Service", "core"),
    ("ServiceEntry", NETWORKING_GROUP),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRef:
    kind: str = item(
        Choice(("Gateway", "GatewayClass", "Service", "ServiceEntry")), required=True, about="What kind of object traffic is addressed to."
    )
    name: str = item(DNS_NAME, required=True, about="The object's name, in the policy's own namespace unless its kind lives in none.")
    group: str = item(Choice((GATEWAY_GROUP, NETWORKING_GROUP, "core", "")), "", about="The API group of the kind; empty for Service.")
    namespace: str = item(
        Text("", "no namespace: a policy targets only its own"), "", about="Not to be set: a policy targets only its own."
    )

    RULES = (
        Rule(
            lambda ref: (ref.kind, ref.group) in TARGETS,
            "group",
            "the group that the kind belongs to",
            "self.kind == 'Service' ? !has(self.group) || self.group in ['', 'core'] : "
            f"has(self.group) && self.group == (self.kind == 'ServiceEntry' ? '{NETWORKING_GROUP}' : '{GATEWAY_GROUP}')",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Targeted:
    """The fields of a policy's spec that say whom it is for; nothing of them: everything in its namespace."""

    selector: Selector | None = item(
        Record(Selector), about="The pods of the policy's namespace that it is for; a tunnel enforces it there."
    )
    target_ref: TargetRef | None = item(
        Record(TargetRef), about="The one object whose waypoint enforces the policy; targetRefs can name more."
    )
    target_refs: tuple[TargetRef, ...] = item(
        ListOf(Record(TargetRef), most=16), (), about="The objects whose waypoints enforce the policy."
    )

    @property
    def match_labels(self) -> Mapping[str, str]:
        """The labels of the pods that the policy is for; empty for all."""
        return self.selector.match_labels if self.selector is not None else NOTHING

    @property
    def targets(self) -> tuple[TargetRef, ...]:
        return self.target_refs or ((self.target_ref,) if self.target_ref is not None else ())


ONE_WAY = Rule(
    lambda spec: [spec.selector is not None, spec.target_ref is not None, bool(spec.target_refs)].count(True) <= 1,
    "selector",
    "at most one of selector, targetRef and targetRefs",
    "[has(self.selector), has(self.targetRef), has(self.targetRefs) && size(self.targetRefs) > 0].filter(x, x).size() <= 1",
)
