"""Istio's certificate service. Who calls is proved by the authenticator; for whom it may ask follows from that alone:

    a node's tunnel (`impersonates`)   identities of pods that run on its node, named by the metadata key ImpersonatedIdentity
    anybody else                       its own identity, and nothing else

Whoever is refused is told nothing that it could learn from; the log says why. Signing runs on the event loop: a signature takes a fraction
of a millisecond, and the library holds Python's lock meanwhile, so that threads would only add to it (docs/decisions/0013 has the figures).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from control.auth import Authenticator, Caller
from control.ca.authority import CannotSign
from control.ca.holders import holder_of
from control.ca.keeper import Keeper
from control.ca.metrics import CaMetrics
from control.ca.rates import Rates
from mesh.io.log import Log
from mesh.model.errors import PeerError
from mesh.model.identity import Identity, parse_spiffe
from mesh.pb import ca_pb2

log = Log("ca")

SERVICE = "istio.v1.auth.IstioCertificateService"
IMPERSONATED = "ImpersonatedIdentity"
TOKEN = "culvert-trust"  # noqa: S105 - trailing metadata: what the certificate is from, see mesh/pb/trust.proto
OPAQUE = "request authenticate failure"  # what a caller is told; the log knows why
MAX_SHOWN = 200  # characters of what a caller says, in a log line

# Whether a pod with this identity runs on the node.
RunsOn = Callable[[str, Identity], bool]


class Denied(Exception):  # noqa: N818 - a word of the protocol, not an accident
    """The caller may not have what it asks for. `kind` is the metric's label."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class CertificateService:
    def __init__(
        self, keeper: Keeper, authenticator: Authenticator, runs_on: RunsOn, metrics: CaMetrics, rates: Rates | None = None
    ) -> None:
        self._keeper = keeper
        self._authenticator = authenticator
        self._runs_on = runs_on
        self._metrics = metrics
        self._rates = rates or Rates()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        method = grpc.unary_unary_rpc_method_handler(
            self.create,
            request_deserializer=ca_pb2.IstioCertificateRequest.FromString,
            response_serializer=ca_pb2.IstioCertificateResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": method})

    async def create(
        self, request: ca_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ca_pb2.IstioCertificateResponse:
        self._metrics.csr.inc()
        caller = await self._authenticator.authenticate(context.invocation_metadata())  # type: ignore[arg-type]
        if caller is None:
            self._metrics.unauthenticated.inc()
            return await self._refuse(
                context, "authentication_failure", OPAQUE, "no credential that proves anybody", {"peer": context.peer()}
            )
        wanted = request.metadata.fields[IMPERSONATED].string_value if IMPERSONATED in request.metadata.fields else ""
        told = {"caller": str(caller), "identity": wanted[:MAX_SHOWN]}
        holder, now = holder_of(caller), self._keeper.clock()
        if not self._rates.take(holder, time.monotonic()):
            why = "it asks for too many certificates"
            return await self._refuse(context, "rate", "too many requests", why, told, grpc.StatusCode.RESOURCE_EXHAUSTED)
        try:
            identity = self._permitted(caller, wanted)
        except Denied as denied:
            if denied.kind == "bad_identity":
                self._metrics.bad_identity.inc()
            return await self._refuse(context, denied.kind, OPAQUE, str(denied), told)
        authority = self._keeper.authority
        try:
            issued = authority.sign(request.csr, identity, request.validity_duration, self._keeper.settings.longest, self._keeper.now())
        except CannotSign as error:
            self._metrics.sign_errors.inc()
            return await self._refuse(context, "expired", error.detail, error.detail, told, grpc.StatusCode.UNAVAILABLE)
        except PeerError as error:
            self._metrics.bad_csr.inc()
            return await self._refuse(context, "csr_error", error.detail, error.detail, told, grpc.StatusCode.INVALID_ARGUMENT)
        self._metrics.issued.inc()
        self._keeper.holders.issued(holder, issued.not_after, now)
        log.info("certificate issued", caller=str(caller), identity=identity, serial=f"{issued.serial:x}", not_after=int(issued.not_after))
        context.set_trailing_metadata(((TOKEN, authority.token),))
        return ca_pb2.IstioCertificateResponse(cert_chain=issued.chain)

    def _permitted(self, caller: Caller, wanted: str) -> Identity:
        """The identity to sign for. Raises Denied."""
        domain = self._keeper.settings.trust_domain
        own = Identity(domain, caller.namespace, caller.account) if caller.namespace and caller.account else None
        if not wanted:
            if own is None:
                raise Denied("bad_identity", f"{IMPERSONATED} is missing, and the credential is of no service account")
            return own
        identity = parse_spiffe(wanted)
        if identity is None:
            raise Denied("bad_identity", f"{IMPERSONATED} is no SPIFFE id")
        if identity == own:
            return identity
        if not caller.impersonates:
            raise Denied("not_itself", "it is no node's tunnel: it may have its own identity only")
        if not caller.node or identity.trust_domain != domain or not self._runs_on(caller.node, identity):
            raise Denied("not_on_node", "no pod with this identity runs on the node")
        return identity

    async def _refuse(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        kind: str,
        told: str,
        why: str,
        fields: Mapping[str, str],
        code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED,
    ) -> ca_pb2.IstioCertificateResponse:
        self._metrics.csr_failed.labels(kind).inc()
        log.warning("certificate refused", kind=kind, error=why, **fields)
        await context.abort(code, told)
        raise AssertionError("abort raises")
