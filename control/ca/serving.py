"""The certificates of the control plane's own ports, signed by the CA that is in force: made anew at half of their life, and whenever the
CA begins to sign with something else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from control.ca.authority import Authority, CannotSign, Pair
from mesh.io.log import Log

log = Log("ca")

LIFE = timedelta(hours=24)


class Serving:
    """One port's certificate. `authority` gives what is in force. Safe to ask from any thread: gRPC asks from its own."""

    def __init__(
        self, authority: Callable[[], Authority], names: Sequence[str], life: timedelta = LIFE, clock: Callable[[], float] = time.time
    ) -> None:
        self._authority = authority
        self._names = tuple(names)
        self._life = life
        self._clock = clock
        self._lock = threading.Lock()
        self._pair: Pair | None = None
        self._signed_by: Authority | None = None

    def current(self) -> Pair:
        """The pair to show now. Raises CannotSign where there never was one, and none can be made."""
        with self._lock:
            authority, now = self._authority(), self._clock()
            pair = self._pair
            if pair is None or self._old(pair, authority, now):
                try:
                    self._pair = authority.serving(self._names, self._life, datetime.fromtimestamp(now, UTC))
                    self._signed_by = authority
                    log.info("serving certificate", names=",".join(self._names), not_after=int(self._pair.not_after))
                except CannotSign:
                    if pair is None:
                        raise
            assert self._pair is not None  # made above, or there before
            return self._pair

    def credentials(self) -> grpc.ServerCredentials:
        """For a gRPC port: asked at each handshake, answered with something new only where there is."""
        shown = self.current()

        def configuration() -> Any:  # None: as before; the stubs do not know it
            nonlocal shown
            pair = self.current()
            if pair is shown:
                return None
            shown = pair
            return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])

        first = grpc.ssl_server_certificate_configuration([(shown.key, shown.chain)])
        return grpc.dynamic_ssl_server_credentials(first, configuration, require_client_authentication=False)

    def _old(self, pair: Pair, authority: Authority, now: float) -> bool:
        signed_by = self._signed_by
        if signed_by is None or signed_by.certificate != authority.certificate:
            return True
        return now >= pair.not_before + (pair.not_after - pair.not_before) / 2
