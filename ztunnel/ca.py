"""Certificates from Istio's CA service: a key and a signing request from the key helper, a chain from the control plane, proved before use.

As a node-wide tunnel we ask in the name of our pods: the metadata key `ImpersonatedIdentity` says whose certificate is wanted, the
bearer token who we are; the CA checks that such a pod runs on our node.
"""

from __future__ import annotations

import asyncio

from mesh.io.tls import Credentials, make_credentials
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from ztunnel.keysmith import Keysmith

TYPE_CHECKING = False
if TYPE_CHECKING:
    import grpc.aio

    from mesh.io.grpc import GrpcTarget

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
TRUST = "culvert-trust"  # trailing metadata of our own CA: what the certificate is from, see mesh/pb/trust.proto
DEADLINE = 10.0  # seconds


class CertificateAuthority:
    """The client. One channel for all calls, made anew after it failed, with the root file as it then is."""

    def __init__(self, target: GrpcTarget, keysmith: Keysmith, ttl: float) -> None:
        """`ttl`: the lifetime to ask for, in seconds."""
        self.target = target
        self._keysmith = keysmith
        self._ttl = int(ttl)
        self._channel: grpc.aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def fetch(self, identity: Identity) -> Credentials:
        """A new certificate for one of this node's pods. Raises PeerError(NO_CERTIFICATE), with what the CA or the helper said."""
        request = await self._keysmith.make(identity)
        chain, trust = await self._sign(identity, request.csr_pem)
        credentials = make_credentials(request.key_pem, chain, trust)
        if credentials.identity != identity:
            raise PeerError(Reason.NO_CERTIFICATE, f"the CA answered with a certificate for {credentials.identity}")
        return credentials

    def channel(self) -> grpc.aio.Channel:
        """The channel to the CA. OSError where the root file cannot be read."""
        if self._channel is None:
            from mesh.io.grpc import open_channel

            self._channel = open_channel(self.target)
        return self._channel

    def drop(self, channel: grpc.aio.Channel | None) -> None:
        """Let go of a channel that failed; other calls on it end by their own, or with it after DEADLINE."""
        if channel is not None and self._channel is channel:
            self._channel = None
            task = asyncio.get_running_loop().create_task(channel.close(DEADLINE))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._keysmith.close()

    async def _sign(self, identity: Identity, csr_pem: str) -> tuple[list[str], str]:
        import grpc.aio

        from mesh.io.grpc import metadata
        from mesh.pb import ca_pb2

        message = ca_pb2.IstioCertificateRequest(csr=csr_pem, validity_duration=self._ttl)
        message.metadata["ImpersonatedIdentity"] = str(identity)
        channel: grpc.aio.Channel | None = None
        try:
            channel = self.channel()
            call = channel.unary_unary(
                METHOD,
                request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
                response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
            )(message, timeout=DEADLINE, metadata=metadata(self.target))
            response = await call
            trailing = await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                self.drop(channel)
            raise PeerError(Reason.NO_CERTIFICATE, f"the CA at {self.target.address}: {error.code().name}: {error.details()}") from error
        except (OSError, ValueError) as error:
            raise PeerError(Reason.NO_CERTIFICATE, str(error)) from error
        trust = next((str(value) for key, value in trailing or () if key == TRUST), "")
        return list(response.cert_chain), trust
