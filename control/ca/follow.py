"""Telling nodes at once that their certificates must be renewed, and hearing that they have: mesh/pb/trust.proto.

    node                                              CA
      what it holds                          ---->
                                             <----    the token that certificates must be from
      CreateCertificate for each             ---->    (each answer carries its token)
      what it holds: none from before        ---->
                                             <----    the next token, when the CA changes
      ...

Nothing is queued: a node that does not read gets the newest token when it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from control.auth import Authenticator, TooManyAsk
from control.auth.places import NoPlace, Places
from control.ca.holders import MAX_PROBLEM, Report, holder_of
from control.ca.keeper import Keeper
from control.ca.metrics import CaMetrics
from mesh.io.log import Log
from mesh.pb import trust_pb2

log = Log("ca")

SERVICE = "culvert.ca.v1.Trust"
MAX_STREAMS, KEPT_FOR_TUNNELS = 4096, 2048


class FollowService:
    def __init__(self, keeper: Keeper, authenticator: Authenticator, metrics: CaMetrics) -> None:
        self._keeper = keeper
        self._authenticator = authenticator
        self._metrics = metrics
        self.places = Places(MAX_STREAMS, KEPT_FOR_TUNNELS)

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        method = grpc.stream_stream_rpc_method_handler(
            self.follow,
            request_deserializer=trust_pb2.Held.FromString,
            response_serializer=trust_pb2.Announcement.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Follow": method})

    async def follow(self, reports: AsyncIterator[trust_pb2.Held], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            caller = await self._authenticator.authenticate(context.invocation_metadata())  # type: ignore[arg-type]
        except TooManyAsk as full:
            self._metrics.turned_away.labels("callers").inc()
            log.warning("no time for a follower", peer=context.peer(), error=str(full))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(full))
        if caller is None:
            log.warning("a follower was refused: no credential that proves anybody", peer=context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is required")
        assert caller is not None
        keeper = self._keeper
        try:
            self.places.take(caller)
        except NoPlace as full:
            self._metrics.turned_away.labels(full.bound).inc()
            log.warning("no place for a follower", caller=str(caller), error=str(full))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(full))
        changed = asyncio.Event()
        number = keeper.holders.join(holder_of(caller), context.peer())
        keeper.listeners.add(changed)
        loop = asyncio.get_running_loop()
        reader = loop.create_task(self._read(number, reports))
        writer = loop.create_task(self._write(changed, context))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            (reader if reader.done() else writer).result()
        finally:
            # First: gRPC may cancel a call twice, and the second time ends what is awaited here.
            self.places.give_back(caller)
            keeper.listeners.discard(changed)
            keeper.holders.leave(number)
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, number: int, reports: AsyncIterator[trust_pb2.Held]) -> None:
        keeper = self._keeper
        async for held in reports:
            problem = "".join(character if character.isprintable() else "?" for character in held.problem[:MAX_PROBLEM])
            report = Report(held.token[:MAX_PROBLEM], held.certificates, held.waiting, problem)
            keeper.holders.report(number, report, keeper.authority.token, keeper.clock())

    async def _write(self, changed: asyncio.Event, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        told = ""
        while True:
            changed.clear()
            token = self._keeper.authority.token
            if token != told:
                await context.write(trust_pb2.Announcement(token=token))
                told = token
            await changed.wait()
