"""A process of its own that makes private keys and signing requests, so that the library for it (10 MB) is not resident in the tunnel.

Run by `Keysmith` as `python -m ztunnel.keysmith`, talking over its standard input and output: a line with a SPIFFE id in, a line of JSON
`{"key": PEM, "csr": PEM}` or `{"error": text}` out. It exits when its input ends or has been silent for `IDLE` seconds. Keys pass through
pipes only, never through a file, and into no core dump.
"""

from __future__ import annotations

import asyncio
import json
import select
import sys
from dataclasses import dataclass, field

from mesh.io.dumps import forbid_dumps
from mesh.model.errors import PeerError
from mesh.model.identity import Identity, parse_spiffe
from mesh.model.reasons import Reason

IDLE = 10.0  # seconds
ANSWER_TIMEOUT = 15.0  # seconds, a cold start on a busy node included
MAX_LINE = 16384  # bytes


@dataclass(frozen=True, slots=True)
class Request:
    """A new ECDSA P-256 key (PKCS#8) and the request to have it signed."""

    key_pem: bytes = field(repr=False)
    csr_pem: str


class Keysmith:
    """The tunnel's end. One request at a time; the process is started on demand, and again after it went away."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "ztunnel.keysmith")) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def make(self, identity: Identity) -> Request:
        """Raises PeerError(NO_CERTIFICATE) where the process fails, with what it said."""
        async with self._lock:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    line = await self._ask(f"{identity}\n".encode())
            except (OSError, TimeoutError, ValueError) as error:
                self._kill()
                raise PeerError(Reason.NO_CERTIFICATE, f"the key helper failed: {error or type(error).__name__}") from error
            except BaseException:
                self._kill()  # its answer would be taken for the next request's
                raise
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(Reason.NO_CERTIFICATE, f"the key helper failed: {answer['error']}")
        return Request(answer["key"].encode(), answer["csr"])

    async def close(self) -> None:
        self._kill()
        if self._process is not None:
            await self._process.wait()

    async def _ask(self, line: bytes) -> bytes:
        """One round trip; where the process had just exited, with a new one."""
        if self._process is not None and self._process.returncode is None:
            answer = await self._exchange(self._process, line)
            if answer:
                return answer
            await self._process.wait()
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, limit=MAX_LINE)
        answer = await self._exchange(self._process, line)
        if not answer:
            raise ValueError(f"it exited with status {await self._process.wait()}")
        return answer

    @staticmethod
    async def _exchange(process: asyncio.subprocess.Process, line: bytes) -> bytes:
        """An empty answer means that the process is gone."""
        assert process.stdin is not None  # both are pipes: see above
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            await process.stdin.drain()
            return await process.stdout.readline()
        except (BrokenPipeError, ConnectionResetError):
            return b""

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.kill()
            except ProcessLookupError:
                pass


def answer(line: str) -> dict[str, str]:
    """What the process says to one line."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    uri = line.strip()
    if parse_spiffe(uri) is None:
        return {"error": f"{uri!r} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>"}
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    csr = request.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"key": secret.decode("ascii"), "csr": csr.public_bytes(pem).decode("ascii")}


def main() -> None:
    forbid_dumps()  # of the tunnel's own, only the limit is inherited
    while select.select([sys.stdin], [], [], IDLE)[0]:
        line = sys.stdin.readline(MAX_LINE)
        if not line:
            return
        sys.stdout.write(json.dumps(answer(line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
