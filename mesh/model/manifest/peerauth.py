"""PeerAuthentication of security.istio.io, v1 and v1beta1 (which are the same)."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.model.manifest.core import Object, Selector
from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.security import API_VERSIONS, PORT_TEXT
from mesh.model.manifest.shapes import NOTHING, Choice, MapOf
from mesh.model.manifest.status import IstioStatus, status

MODE = Choice(("UNSET", "DISABLE", "PERMISSIVE", "STRICT"))


def _has_labels(selector: Selector | None) -> bool:
    return selector is not None and bool(selector.match_labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualTls:
    mode: str = item(MODE, "UNSET", about="STRICT denies plaintext; UNSET takes the mode of the namespace, then of the mesh.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthenticationSpec:
    selector: Selector | None = item(Record(Selector), about="The pods that it is for; absent, all of its namespace.")
    mtls: MutualTls = item(Record(MutualTls), MutualTls(), about="What is demanded of peers, but on the ports below.")
    port_level_mtls: Mapping[int, MutualTls] = item(
        MapOf(PORT_TEXT, Record(MutualTls), 1024), NOTHING, about="Modes of single ports of the pods, by port number in quotes."
    )

    RULES = (
        Rule(
            lambda spec: not spec.port_level_mtls or _has_labels(spec.selector),
            "portLevelMtls",
            "a selector with labels beside it: port modes are of workloads",
            "!has(self.portLevelMtls) || size(self.portLevelMtls) == 0 || "
            "(has(self.selector) && has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0)",
        ),
    )

    @property
    def match_labels(self) -> Mapping[str, str]:
        return self.selector.match_labels if self.selector is not None else NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication(Object):
    """Says whether pods take plaintext, or only peers whose identity mutual TLS proves."""

    KIND = "PeerAuthentication"
    API_VERSIONS = API_VERSIONS

    spec: PeerAuthenticationSpec = item(
        Record(PeerAuthenticationSpec), PeerAuthenticationSpec(), about="Which pods demand mutual TLS, and on which ports."
    )
    status: Any = status(IstioStatus, "What became of the policy.")
