"""Commands to a running CA, over its Unix socket: `control/ca/command.py` is the other end."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from mesh.io.unix import short_path
from mesh.model.errors import CulvertError

SOCKET = "command.sock"  # in the CA's directory
TIMEOUT = 30.0  # seconds
MAX_ANSWER = 16 << 20  # bytes


class Unreachable(CulvertError):  # noqa: N818 - reads as what happened
    """Nobody takes commands there."""


class Refused(CulvertError):  # noqa: N818 - reads as what happened
    """The CA did not do it, and says why."""


def ask(path: Path, command: str, **fields: object) -> dict[str, Any]:
    """Carry out a command; what the CA shows of itself afterwards. Raises Unreachable, Refused."""
    try:
        with short_path(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(address)
            sock.sendall(json.dumps({"do": command, **fields}).encode() + b"\n")
            answer = json.loads(sock.makefile("rb").readline(MAX_ANSWER))
    except PermissionError as error:
        raise Unreachable(f"{path}: only the user that runs the control plane may command its CA, and root") from error
    except (OSError, ValueError) as error:
        raise Unreachable(f"no CA takes commands at {path}: {error}") from error
    if "error" in answer:
        raise Refused(str(answer["error"]))
    found: dict[str, Any] = answer["ca"]
    return found


def awaited(shown: dict[str, Any]) -> list[dict[str, Any]]:
    """Of what the CA shows: the holders that have not renewed, but for those who are gone, for whom it does not wait."""
    return [holder for holder in shown["holders"] if not holder["renewed"] and holder["gone"] is None]
