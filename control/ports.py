"""Addresses to listen at, by the variables that name them: what is wrong with one is said of its variable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mesh.io.http import listen
from mesh.model.errors import ConfigError, Refusal


@contextlib.contextmanager
def listening(variable: str, address: str) -> Iterator[None]:
    """Around what listens there: ConfigError for its OSError, or gRPC's RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        accepted = f"an address that this process can listen at, which it is not: {why}"
        raise ConfigError(Refusal("environment", "", variable, address, accepted)) from error


def probe(address: str) -> None:
    """OSError where nobody can listen there now. gRPC says of it on standard error that it failed, and not why in its exception."""
    listen(address).close()
