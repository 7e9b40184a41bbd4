"""One Consul's HTTP API: questions to which the answer is JSON with an index. Nothing of Consul's data is understood here.

    client = Client(settings, tuning)
    answer = await client.get("catalog/services", index=17)     # waits for an index greater than 17, or for `tuning.wait`
    await client.close()

Token and certificates are read from their files at the first question, and again, at most once in `tuning.renew`, after Consul denied
something or showed a certificate that our authorities did not sign: all of them rotate under a running process.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote, urlencode

import httpx2

from control.sources.consul.errors import ConsulError, Denied, Garbled, Unusable, failure, translated
from control.sources.consul.settings import ConsulSettings
from control.sources.consul.tuning import Tuning
from mesh.io.log import Log

log = Log("consul")

CONNECT = 5.0
MAX_TOKEN = 4096
MAX_FAILURE = 4096
# A peer that is gone without a word is noticed after 15 + 3 x 5 seconds, also while a blocking query waits.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """`leader`: who answers knows one, so that what is said is how things are. `filtered`: access rules hid something of it."""

    index: int
    body: bytes
    leader: bool = True
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class _Files:
    """What was read from files: headers, one of them the token; TLS, None without; and a digest of it all."""

    headers: Mapping[str, str]
    context: ssl.SSLContext | None
    digest: bytes

    def __repr__(self) -> str:
        return "<_Files>"  # the token is not shown


@dataclass(slots=True)
class _Session:
    """A client made of what files said. One that is replaced is closed when the last question that was asked with it is done."""

    http: httpx2.AsyncClient
    digest: bytes
    users: int = 0
    replaced: bool = False


class Client:
    """`transport` replaces the network, for tests. Used from one event loop."""

    def __init__(self, settings: ConsulSettings, tuning: Tuning, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._tuning = tuning
        self._transport = transport
        self._session: _Session | None = None
        self._renewing = asyncio.Lock()
        self._renew_from = 0.0
        self._query = _fixed_query(settings)

    async def get(self, path: str, query: Mapping[str, str] | None = None, *, index: int = 0, most: int) -> Answer:
        """`path` below /v1/, its parts quoted. With an index, the question waits. ConsulError for anything but an answer of up to
        `most` bytes.
        """
        session = self._session or await self._renew()
        session.users += 1
        try:
            return await self._get(session.http, path, query or {}, index, most)
        except ConsulError as error:
            if isinstance(error, Denied) or is_certificate_failure(error):
                # The next question, after the wait that follows a failure, is asked with what the files say then.
                await self._renew()
            raise
        finally:
            session.users -= 1
            if session.replaced and not session.users:
                await session.http.aclose()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.http.aclose()

    async def _get(self, http: httpx2.AsyncClient, path: str, query: Mapping[str, str], index: int, most: int) -> Answer:
        wait = self._tuning.wait
        parameters = {**self._query, **query, **({"index": str(index), "wait": f"{round(wait * 1000)}ms"} if index else {})}
        url = f"{self._settings.address}/v1/{path}" + (f"?{urlencode(parameters, quote_via=quote)}" if parameters else "")
        patience = self._tuning.patience + (wait * 17 / 16 if index else 0.0)
        names = {"sni_hostname": self._settings.server_name} if self._settings.server_name else {}
        with translated(path):
            async with asyncio.timeout(patience):
                request = http.build_request("GET", url, extensions=names, timeout=httpx2.Timeout(patience, connect=CONNECT))
                response = await http.send(request, stream=True)
                try:
                    body = await _content(response, most, path)
                finally:
                    await response.aclose()
        if response.status_code != 200:
            raise failure(response.status_code, response.headers, body)
        return Answer(
            _index(response.headers, path),
            body,
            response.headers.get("X-Consul-KnownLeader", "true") == "true",
            response.headers.get("X-Consul-Results-Filtered-By-ACLs") == "true",
        )

    async def _renew(self) -> _Session:
        """Read the files, and where they say something new, make a client of it. Unusable where they cannot be read and never were."""
        async with self._renewing:
            now, old = time.monotonic(), self._session
            if old is not None and now < self._renew_from:
                return old
            self._renew_from = now + self._tuning.renew
            try:
                files = await asyncio.to_thread(_read_files, self._settings)
            except OSError as error:  # ssl.SSLError is one
                if old is None:
                    self._renew_from = 0.0
                    raise Unusable(f"a file for Consul cannot be used: {error}") from error
                log.error("a file for Consul cannot be used: what was read before stays", error=str(error))
                return old
            if old is not None and old.digest == files.digest:
                return old
            self._session = _Session(self._connect(files), files.digest)
            if old is not None:
                old.replaced = True
                log.info("token and certificates read anew", address=self._settings.address)
                if not old.users:
                    await old.http.aclose()
            return self._session

    def _connect(self, files: _Files) -> httpx2.AsyncClient:
        most = 3 + self._tuning.reads
        transport = self._transport or httpx2.AsyncHTTPTransport(
            verify=files.context or True,
            trust_env=False,
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            socket_options=KEEPALIVE,
        )
        return httpx2.AsyncClient(transport=transport, headers=files.headers, trust_env=False)


def is_certificate_failure(error: BaseException | None) -> bool:
    """Whether TLS failed because the server's certificate is not by our authorities; the file with those may have changed since."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fixed_query(settings: ConsulSettings) -> dict[str, str]:
    query = {"dc": settings.datacenter, "partition": settings.partition, "ns": settings.consul_namespace}
    found = {name: value for name, value in query.items() if value}
    if settings.consistency != "default":
        found[settings.consistency] = ""
    return found


def _read_files(settings: ConsulSettings) -> _Files:
    """On a thread. OSError for what cannot be read, or is not what it should be."""
    # Compressing costs Consul more than the bytes cost the network.
    headers = {"User-Agent": "culvert-control", "Accept-Encoding": "identity"}
    digest = sha256()
    if settings.token_file is not None:
        with open(settings.token_file, "rb") as file:
            token = file.read(MAX_TOKEN + 1).strip()
        if not re.fullmatch(rb"[!-~]{1,%d}" % MAX_TOKEN, token):
            raise OSError(f"{settings.token_file} does not hold a token")
        headers["X-Consul-Token"] = token.decode("ascii")
        digest.update(token)
    if not settings.secure:
        return _Files(headers, None, digest.digest())
    for path in (settings.ca_file, settings.certificate_file, settings.key_file):
        digest.update(b"\0" + (path.read_bytes() if path is not None else b""))
    context = ssl.create_default_context(cafile=settings.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate_file is not None:
        context.load_cert_chain(settings.certificate_file, settings.key_file)
    return _Files(headers, context, digest.digest())


async def _content(response: httpx2.Response, most: int, path: str) -> bytes:
    """All of an answer, or the beginning of one that says what failed."""
    good = response.status_code == 200
    parts, size = [], 0
    async for chunk in response.aiter_raw():
        parts.append(chunk)
        size += len(chunk)
        if size > most and good:
            raise Garbled(f"{path}: an answer of more than {most} bytes")
        if size > MAX_FAILURE and not good:
            break
    return b"".join(parts)


def _index(headers: Mapping[str, str], path: str) -> int:
    text = headers.get("X-Consul-Index", "")
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise Garbled(f"{path}: an answer without X-Consul-Index: is this Consul?")
    return int(text)
