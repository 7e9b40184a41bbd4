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
DEADLINE = 10.0  # seconds


class CertificateAuthority:
    """The client. The channel is made anew after a failure, with the root file as it then is."""

    def __init__(self, target: GrpcTarget, keysmith: Keysmith, ttl: float) -> None:
        """`ttl`: the lifetime to ask for, in seconds."""
        self._target = target
        self._keysmith = keysmith
        self._ttl = int(ttl)
        self._channel: grpc.aio.Channel | None = None

    async def fetch(self, identity: Identity) -> Credentials:
        """A new certificate for one of this node's pods. Raises PeerError(NO_CERTIFICATE), with what the CA or the helper said."""
        request = await self._keysmith.make(identity)
        chain = await self._sign(identity, request.csr_pem)
        credentials = make_credentials(request.key_pem, chain)
        if credentials.identity != identity:
            raise PeerError(Reason.NO_CERTIFICATE, f"the CA answered with a certificate for {credentials.identity}")
        return credentials

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)
        await self._keysmith.close()

    async def _sign(self, identity: Identity, csr_pem: str) -> list[str]:
        import grpc.aio

        from mesh.io.grpc import metadata, open_channel
        from mesh.pb import ca_pb2

        message = ca_pb2.IstioCertificateRequest(csr=csr_pem, validity_duration=self._ttl)
        message.metadata["ImpersonatedIdentity"] = str(identity)
        channel: grpc.aio.Channel | None = None
        try:
            channel = self._channel = self._channel or open_channel(self._target)
            call = channel.unary_unary(
                METHOD,
                request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
                response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
            )
            response = await call(message, timeout=DEADLINE, metadata=metadata(self._target))
        except grpc.aio.AioRpcError as error:
            await self._drop(channel)
            raise PeerError(Reason.NO_CERTIFICATE, f"the CA at {self._target.address}: {error.code().name}: {error.details()}") from error
        except (OSError, ValueError) as error:
            raise PeerError(Reason.NO_CERTIFICATE, str(error)) from error
        return list(response.cert_chain)

    async def _drop(self, channel: grpc.aio.Channel | None) -> None:
        """Let go of a channel that failed; other calls on it end by their own."""
        if channel is not None and self._channel is channel:
            self._channel = None
            await asyncio.shield(channel.close(DEADLINE))
