"""Istio's certificate service: a node asks for certificates of the identities of pods that run on it, and of no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from control.authority import Authority
from control.metrics import Metrics
from control.tokens import NodeTokens
from mesh.io.log import Log
from mesh.model.errors import PeerError
from mesh.model.identity import Identity, parse_spiffe
from mesh.pb import ca_pb2

log = Log("ca")

SERVICE = "istio.v1.auth.IstioCertificateService"
OPAQUE = "request authenticate failure"  # what a caller is told; the log knows why

# Whether a pod with this identity runs on the node.
RunsOn = Callable[[str, Identity], bool]


class CertificateService:
    def __init__(self, authority: Authority, tokens: NodeTokens, runs_on: RunsOn, longest: float, metrics: Metrics) -> None:
        self._authority = authority
        self._tokens = tokens
        self._runs_on = runs_on
        self._longest = longest
        self._metrics = metrics

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        method = grpc.unary_unary_rpc_method_handler(
            self.create,
            request_deserializer=ca_pb2.IstioCertificateRequest.FromString,
            response_serializer=ca_pb2.IstioCertificateResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": method})

    async def create(
        self, request: ca_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> ca_pb2.IstioCertificateResponse:
        self._metrics.csr.inc()
        node = self._tokens.node_of(context.invocation_metadata())  # type: ignore[arg-type]
        if node is None:
            return await self._refuse(context, "authentication_failure", "no token, or none of a node", peer=context.peer())
        wanted = request.metadata.fields["ImpersonatedIdentity"].string_value if "ImpersonatedIdentity" in request.metadata.fields else ""
        identity = parse_spiffe(wanted)
        if identity is None:
            return await self._refuse(context, "bad_identity", "ImpersonatedIdentity is no SPIFFE id", node=node, identity=wanted)
        if not self._runs_on(node, identity):
            return await self._refuse(context, "not_on_node", "no pod with this identity runs on the node", node=node, identity=wanted)
        try:
            chain = self._authority.sign(request.csr, identity, request.validity_duration, self._longest)
        except PeerError as error:
            self._metrics.csr_failed.labels("csr_error").inc()
            log.warning("certificate refused", node=node, identity=wanted, error=error.detail)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.detail)
        self._metrics.issued.inc()
        log.info("certificate issued", node=node, identity=wanted)
        return ca_pb2.IstioCertificateResponse(cert_chain=chain)

    async def _refuse(
        self, context: grpc.aio.ServicerContext[object, object], kind: str, why: str, **fields: str
    ) -> ca_pb2.IstioCertificateResponse:
        self._metrics.csr_failed.labels(kind).inc()
        log.warning("certificate refused", error=why, **fields)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, OPAQUE)
        raise AssertionError("abort raises")
