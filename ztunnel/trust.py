"""Keeping up with the CA: it announces what certificates must be from, we renew what is from anything else, and say when all is.

So a CA can be changed in seconds: it takes the next step of a change when every node has said that it is ready for it
(mesh/pb/trust.proto). A CA without this service, Istio's, is asked again only after a while: its certificates are renewed at half of their
life, as ever.

Ready means one thing more: the control plane itself will show a certificate from the new root. Where the file that proves it to us
holds some of the mesh's roots but not the new one, we would lose it, so we say that this is missing, and look again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

from mesh.io.log import Log
from mesh.io.tls import split_pem
from mesh.wire.xds import Backoff
from ztunnel.ca import CertificateAuthority
from ztunnel.certificates import Certificates

TYPE_CHECKING = False
if TYPE_CHECKING:
    import grpc.aio

log = Log("ca")

METHOD = "/culvert.ca.v1.Trust/Follow"
SETTLE = 0.05  # seconds in which changes of what we hold become one report
LOOK = 1.0  # seconds between looks at a root file that lacks something
UNKNOWN = 600.0  # seconds until a CA without this service is asked again


class Follower:
    """Keeps `certificates` to what the CA announces, until cancelled. `root_file`: what proves the CA's own server to us; None: the
    system.
    """

    def __init__(self, ca: CertificateAuthority, certificates: Certificates, root_file: Path | None) -> None:
        self.connected = False
        self._ca = ca
        self._certificates = certificates
        self._root_file = root_file
        self._backoff = Backoff()
        self._news = asyncio.Event()
        certificates.changed = self._news.set

    async def run(self) -> None:
        while True:
            unknown, why = await self._one_stream()
            self.connected = False
            self._certificates.announce("")
            delay = UNKNOWN if unknown else self._backoff.fail()
            if unknown:
                log.info("the CA announces nothing: certificates are renewed at half of their life", address=self._ca.target.address)
            else:
                log.debug("the CA is not followed", error=why, retry_in=f"{delay:g}s")
            await asyncio.sleep(delay)

    async def _one_stream(self) -> tuple[bool, str]:
        """Follow until the stream ends: whether the CA has no such service, and what ended it."""
        import grpc.aio

        channel: grpc.aio.Channel | None = None
        try:
            channel = self._ca.channel()
            code, details = await self._follow(channel)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
        except (OSError, ValueError) as error:
            return False, str(error)
        except Exception as error:
            log.exception("a bug ends one stream")
            return False, repr(error)
        if code is grpc.StatusCode.UNAVAILABLE:
            self._ca.drop(channel)  # the next one is made with the root file as it then is
        return code is grpc.StatusCode.UNIMPLEMENTED, f"{code.name}: {details}"

    async def _follow(self, channel: grpc.aio.Channel) -> tuple[grpc.StatusCode, str]:
        """Until the stream ends: how. Raises AioRpcError; OSError and ValueError of the token file."""
        import grpc.aio

        from mesh.io.grpc import metadata
        from mesh.pb import trust_pb2

        method: Any = channel.stream_stream(
            METHOD,
            request_serializer=trust_pb2.Held.SerializeToString,
            response_deserializer=trust_pb2.Announcement.FromString,
        )
        call = method(metadata=metadata(self._ca.target))
        reporter = asyncio.get_running_loop().create_task(self._report(call))
        reporter.add_done_callback(lambda _: call.cancel())
        try:
            while (announced := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs are older
                self._backoff.succeed()
                self.connected = True
                if announced.token != self._certificates.schedule.trust:
                    log.info("the CA announces what certificates are from", token=announced.token)
                    self._certificates.announce(announced.token)
            return await call.code(), await call.details()
        finally:
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)

    async def _report(self, call: Any) -> None:
        """Say what we hold, at first and when it is something else."""
        from mesh.pb import trust_pb2

        said: trust_pb2.Held | None = None
        while True:
            self._news.clear()
            schedule = self._certificates.schedule
            count, waiting = schedule.held()
            problem = self._missing_roots()
            held = trust_pb2.Held(token=schedule.trust, certificates=count, waiting=waiting, problem=problem)
            if held != said:
                await call.write(held)
                said = held
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK if problem else None):
                    await self._news.wait()
            await asyncio.sleep(SETTLE)

    def _missing_roots(self) -> str:
        """What the file that proves the control plane lacks of the roots that we were given last; "" where it lacks nothing, or is no file
        of the mesh's roots at all.
        """
        newest = max(
            (entry.credentials for entry in self._certificates.schedule.entries.values() if entry.credentials is not None),
            key=lambda credentials: credentials.not_before,
            default=None,
        )
        if newest is None or self._root_file is None:
            return ""
        try:
            known = {ssl.PEM_cert_to_DER_cert(pem) for pem in split_pem(self._root_file.read_text("ascii"))}
        except (OSError, ValueError) as error:
            return f"{self._root_file} cannot be read: {error}"
        wanted = {ssl.PEM_cert_to_DER_cert(pem) for pem in newest.roots_pem}
        if not known & wanted or wanted <= known:
            return ""
        return f"{self._root_file} lacks {len(wanted - known)} of the mesh's {len(wanted)} roots"
