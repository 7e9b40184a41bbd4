"""Istio's certificate service. Who calls is proved by the authenticator; for whom it may ask follows from that alone:

    a node's tunnel (`impersonates`)   identities of pods that run on its node, named by the metadata key ImpersonatedIdentity
    anybody else                       its own identity, and nothing else

Whoever is refused is told nothing that it could learn from; the log says why.

The method takes one message, and is served as one that takes a stream of them, which is the same on the wire: so the message is read when
its caller is known. gRPC would read it first, as large as any message may be, from everybody who can connect.

Signing runs on the event loop: with an ECDSA key it is a fifth of a millisecond, of which a thread could take over half at a quarter's
cost. With a large RSA key, which only a mounted CA has, it takes milliseconds, and has threads of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

import grpc
import grpc.aio

from control.auth import Authenticator, Caller, Metadata, TooManyAsk
from control.ca.authority import Authority, CannotSign, Issued
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
MAX_PENDING = 1000  # requests that wait for a slow key
MAX_READING = 8  # requests of one holder that are read at a time; the others are not, and wait for their turn
READ = 10.0  # seconds until one of them is there
MAX_SHOWN = 200  # characters of what a caller says, in a log line

# Whether a pod with this identity runs on the node.
RunsOn = Callable[[str, Identity], bool]


class Denied(Exception):  # noqa: N818 - a word of the protocol, not an accident
    """No certificate. `kind` is the metric's label; `why` is for the log; `told` and `code` are for the caller."""

    def __init__(self, kind: str, why: str, told: str = OPAQUE, code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED) -> None:
        super().__init__(why)
        self.kind = kind
        self.told = told
        self.code = code


class CertificateService:
    def __init__(
        self, keeper: Keeper, authenticator: Authenticator, runs_on: RunsOn, metrics: CaMetrics, rates: Rates | None = None
    ) -> None:
        self._keeper = keeper
        self._authenticator = authenticator
        self._runs_on = runs_on
        self._metrics = metrics
        self._rates = rates or Rates()
        self._threads = ThreadPoolExecutor(thread_name_prefix="signing")
        self._pending = 0
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by holder, while anybody waits

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        method = grpc.stream_unary_rpc_method_handler(
            self.create,
            request_deserializer=ca_pb2.IstioCertificateRequest.FromString,
            response_serializer=ca_pb2.IstioCertificateResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": method})

    async def create(
        self, requests: AsyncIterator[ca_pb2.IstioCertificateRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> ca_pb2.IstioCertificateResponse:
        self._metrics.csr.inc()
        told = {"peer": context.peer()}  # for the log: more is known as it goes
        try:
            chain, token = await self._issue(requests, context.invocation_metadata(), told)  # type: ignore[arg-type]
        except Denied as denied:
            self._metrics.refused(denied.kind)
            log.warning("certificate refused", kind=denied.kind, error=str(denied), **told)
            await context.abort(denied.code, denied.told)
        context.set_trailing_metadata(((TOKEN, token),))
        return ca_pb2.IstioCertificateResponse(cert_chain=chain)

    async def _issue(
        self, requests: AsyncIterator[ca_pb2.IstioCertificateRequest], metadata: Metadata, told: dict[str, str]
    ) -> tuple[Sequence[str], str]:
        """A chain, and the token that it is from. Raises Denied."""
        keeper = self._keeper
        try:
            caller = await self._authenticator.authenticate(metadata)
        except TooManyAsk as error:
            raise Denied("callers", str(error), str(error), grpc.StatusCode.UNAVAILABLE) from error
        if caller is None:
            raise Denied("authentication_failure", "no credential that proves anybody")
        told |= {"caller": str(caller)}
        holder = holder_of(caller)
        if not self._rates.take(holder, time.monotonic()):
            raise Denied("rate", "it asks for too many certificates", "too many requests", grpc.StatusCode.RESOURCE_EXHAUSTED)
        request = await self._read(requests, holder)
        wanted = request.metadata.fields[IMPERSONATED].string_value if IMPERSONATED in request.metadata.fields else ""
        told |= {"identity": wanted[:MAX_SHOWN]}
        identity = self._permitted(caller, wanted)
        authority = keeper.authority
        try:
            issued = await self._sign(authority, request, identity)
        except CannotSign as error:
            raise Denied("expired", error.detail, error.detail, grpc.StatusCode.UNAVAILABLE) from error
        except PeerError as error:
            raise Denied("csr_error", error.detail, error.detail, grpc.StatusCode.INVALID_ARGUMENT) from error
        self._metrics.issued.inc()
        keeper.holders.issued(holder, issued.not_after, keeper.clock())
        log.info("certificate issued", caller=str(caller), identity=identity, serial=f"{issued.serial:x}", not_after=int(issued.not_after))
        return issued.chain, authority.token

    async def _read(self, requests: AsyncIterator[ca_pb2.IstioCertificateRequest], holder: str) -> ca_pb2.IstioCertificateRequest:
        """The one message. Raises Denied where it does not come in time."""
        turns = self._turns.setdefault(holder, asyncio.Semaphore(MAX_READING))
        try:
            async with asyncio.timeout(READ), turns:
                request = await anext(requests, None)
        except TimeoutError as error:
            raise Denied("csr_error", f"no request in {READ:g} s", "no request", grpc.StatusCode.DEADLINE_EXCEEDED) from error
        if request is None:
            raise Denied("csr_error", "no request", "no request", grpc.StatusCode.INVALID_ARGUMENT)
        return request

    async def _sign(self, authority: Authority, request: ca_pb2.IstioCertificateRequest, identity: Identity) -> Issued:
        """Raises PeerError, CannotSign, Denied."""
        arguments = (request.csr, identity, request.validity_duration, self._keeper.settings.longest, self._keeper.now())
        if not authority.slow:
            return authority.sign(*arguments)
        if self._pending >= MAX_PENDING:
            raise Denied("busy", f"{MAX_PENDING} requests wait already", "too many requests", grpc.StatusCode.RESOURCE_EXHAUSTED)
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, authority.sign, *arguments)
        finally:
            self._pending -= 1

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
