"""What is written into the status of resources. Described for schemas alone: nothing here, or anywhere, reads a condition."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.gatewayapi.common import CONTROLLER, GROUP_NAME, KIND_NAME, SECTION, ParentRef
from mesh.model.manifest.record import Record, item
from mesh.model.manifest.shapes import Choice, Integer, ListOf, Opaque, Shape, Text

TIME = Text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[-+][0-9]{2}:[0-9]{2})", "a time", 40)
REASON = Text(r"[A-Za-z](?:[A-Za-z0-9_,:]*[A-Za-z0-9_])?", "a word in CamelCase", 1024)
CONDITION_TYPE = Text(r"(?:[a-z0-9.-]+/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?", "a condition's type", 316)
GENERATION = Integer(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    type: str = item(CONDITION_TYPE, required=True, about="What is said of: Accepted, ResolvedRefs, Programmed, Enforced and so on.")
    status: str = item(Choice(("True", "False", "Unknown")), required=True, about="Whether it is so.")
    reason: str = item(REASON, required=True, about="Why, in one word.")
    message: str = item(Text(longest=32768), "", about="Why, in a sentence.")
    last_transition_time: str = item(TIME, required=True, about="Since when.")
    observed_generation: int = item(GENERATION, about="The generation of the object that it was said of.")


CONDITIONS = ListOf(Record(Condition), most=32, unique="type")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageType:
    name: str = item(Text(longest=256), "", about="Its name.")
    code: str = item(Text(longest=64), "", about="Its code.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationMessage:
    type: MessageType | None = item(Record(MessageType), about="Which message it is.")
    level: str = item(Choice(("UNKNOWN", "ERROR", "WARNING", "INFO")), "UNKNOWN", about="How grave it is.")
    documentation_url: str = item(Text(longest=2048), "", about="Where more is said of it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioStatus:
    conditions: tuple[Condition, ...] = item(CONDITIONS, (), about="What became of the object, one condition of each type.")
    validation_messages: tuple[ValidationMessage, ...] = item(
        ListOf(Record(ValidationMessage), most=256), (), about="What an analysis found in the object."
    )
    observed_generation: int = item(GENERATION, about="The generation of the object that the status is about.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntryAddress:
    value: str = item(Text(longest=64), required=True, about="The address.")
    host: str = item(Text(longest=253), "", about="The host that it was handed out for.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntryStatus(IstioStatus):
    addresses: tuple[ServiceEntryAddress, ...] = item(
        ListOf(Record(ServiceEntryAddress), most=512), (), about="Virtual addresses that were handed out."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentStatus:
    parent_ref: ParentRef = item(Record(ParentRef), required=True, about="The parent, as the route names it.")
    controller_name: str = item(CONTROLLER, required=True, about="Who says so.")
    conditions: tuple[Condition, ...] = item(CONDITIONS, (), about="What became of the route there.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    parents: tuple[ParentStatus, ...] = item(
        ListOf(Record(ParentStatus), most=32), required=True, about="What each controller says of each parent."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    name: str = item(Text(longest=256), required=True, about="The feature's name.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayClassStatus:
    conditions: tuple[Condition, ...] = item(CONDITIONS, (), about="Whether the class was accepted.")
    supported_features: tuple[Feature, ...] = item(
        ListOf(Record(Feature), most=128, unique="name"), (), about="What gateways of the class can do."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusAddress:
    type: str = item(Text(longest=253), "IPAddress", about="What the value is: IPAddress or Hostname.")
    value: str = item(Text(r"(?s).+", "an address", 253), required=True, about="The address.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedKind:
    group: str = item(GROUP_NAME, "gateway.networking.k8s.io", about="The API group of the routes.")
    kind: str = item(KIND_NAME, required=True, about="The kind of the routes.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    name: str = item(SECTION, required=True, about="The listener's name.")
    supported_kinds: tuple[AttachedKind, ...] = item(
        ListOf(Record(AttachedKind), most=8), (), about="Kinds of routes that can be attached."
    )
    attached_routes: int = item(Integer(0, 2**31 - 1), required=True, about="How many routes are attached.")
    conditions: tuple[Condition, ...] = item(CONDITIONS, (), about="Whether the listener works.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus:
    addresses: tuple[StatusAddress, ...] = item(ListOf(Record(StatusAddress), most=16), (), about="Under which addresses it is reached.")
    conditions: tuple[Condition, ...] = item(CONDITIONS, (), about="Whether the gateway works.")
    listeners: tuple[ListenerStatus, ...] = item(
        ListOf(Record(ListenerStatus), most=64, unique="name"), (), about="Whether each listener works."
    )
    attached_listener_sets: int = item(Integer(0, 2**31 - 1), about="How many ListenerSets are attached.")


@dataclass(frozen=True)
class Written(Opaque):
    """A status: the parser takes whatever is there and keeps nothing of it; the schema has what is `described`."""

    kept: bool = False
    described: Shape | None = None


def status(cls: type[Any], about: str) -> Any:
    """The field of an object's status."""
    return item(Written(described=Record(cls)), about=about)
