"""One Consul's HTTP API: questions to which the answer is JSON with an index. Nothing of Consul's data is understood here.

    client = Client(settings, tuning)
    answer = await client.get("catalog/services", index=17)     # waits for an index greater than 17, or for `tuning.wait`
    client.close()

Token and certificates are read from their files at the first question, and again, at most once in `tuning.renew`, after Consul denied
something or showed a certificate that our authorities did not sign: all of them rotate under a running process.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote, urlencode, urlsplit

from control.sources.consul.errors import ConsulError, Denied, Garbled, Unusable, failure, translated
from control.sources.consul.http import Http
from control.sources.consul.settings import ConsulSettings
from control.sources.consul.tuning import Tuning
from mesh.io.log import Log

log = Log("consul")

MAX_TOKEN = 4096


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


class Client:
    """Used from one event loop."""

    def __init__(self, settings: ConsulSettings, tuning: Tuning) -> None:
        self._settings = settings
        self._tuning = tuning
        self._http: Http | None = None
        self._files: _Files | None = None
        self._renewing = asyncio.Lock()
        self._renew_from = 0.0
        self._url = urlsplit(settings.address)
        self._query = _fixed_query(settings)

    async def get(self, path: str, query: Mapping[str, str] | None = None, *, index: int = 0, most: int) -> Answer:
        """`path` below /v1/, its parts quoted. With an index, the question waits. ConsulError for anything but an answer of up to
        `most` bytes.
        """
        try:
            return await self._get(path, query or {}, index, most)
        except ConsulError as error:
            if isinstance(error, Denied) or is_certificate_failure(error):
                # The next question, after the wait that follows a failure, is asked with what the files say then.
                await self._renew()
            raise

    def close(self) -> None:
        if self._http is not None:
            self._http.close()

    async def _get(self, path: str, query: Mapping[str, str], index: int, most: int) -> Answer:
        if self._http is None:
            await self._renew()
        assert self._http is not None
        assert self._files is not None
        wait = self._tuning.wait
        parameters = {**self._query, **query, **({"index": str(index), "wait": f"{round(wait * 1000)}ms"} if index else {})}
        target = f"{self._url.path}/v1/{path}" + (f"?{urlencode(parameters, quote_via=quote)}" if parameters else "")
        with translated(path):
            async with asyncio.timeout(self._tuning.patience + (wait * 17 / 16 if index else 0.0)):
                reply = await self._http.get(target, self._files.headers, most, again=not index)
        if reply.status != 200:
            raise failure(reply.status, reply.headers, reply.body)
        return Answer(
            _index(reply.headers, path),
            reply.body,
            reply.headers.get("x-consul-knownleader", "true") == "true",
            reply.headers.get("x-consul-results-filtered-by-acls") == "true",
        )

    async def _renew(self) -> None:
        """Read the files, and where they say something new, go on with it. Unusable where they cannot be read and never were."""
        async with self._renewing:
            now = time.monotonic()
            if now < self._renew_from and self._http is not None:
                return
            self._renew_from = now + self._tuning.renew
            try:
                files = await asyncio.to_thread(_read_files, self._settings)
            except OSError as error:  # ssl.SSLError is one
                if self._files is None:
                    raise Unusable(f"a file for Consul cannot be used: {error}") from error
                log.error("a file for Consul cannot be used: what was read before stays", error=str(error))
                return
            if self._files is not None:
                if self._files.digest == files.digest:
                    return
                log.info("token and certificates read anew", address=self._settings.address)
            old, self._files = self._http, files
            host, port = self._url.hostname or "", self._url.port or 0
            self._http = Http(host, port, files.context, 3 + self._tuning.reads, self._settings.server_name)
            if old is not None:
                old.close()  # what it was asked it still answers


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
    headers = {"user-agent": "culvert-control", "accept": "application/json", "accept-encoding": "identity"}
    digest = sha256()
    if settings.token_file is not None:
        with open(settings.token_file, "rb") as file:
            token = file.read(MAX_TOKEN + 1).strip()
        if not re.fullmatch(rb"[!-~]{1,%d}" % MAX_TOKEN, token):
            raise OSError(f"{settings.token_file} does not hold a token")
        headers["x-consul-token"] = token.decode("ascii")
        digest.update(token)
    if not settings.secure:
        return _Files(headers, None, digest.digest())
    for path in (settings.ca_file, settings.certificate_file, settings.key_file):
        digest.update(b"\0" + (path.read_bytes() if path is not None else b""))
    context = ssl.create_default_context(cafile=settings.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate_file is not None:
        # A password, even a wrong one: OpenSSL else asks for it at the terminal, and waits.
        context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
    return _Files(headers, context, digest.digest())


def _index(headers: Mapping[str, str], path: str) -> int:
    text = headers.get("x-consul-index", "")
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise Garbled(f"{path}: an answer without X-Consul-Index: is this Consul?")
    return int(text)
