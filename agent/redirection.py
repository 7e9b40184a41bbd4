"""The outcome of enrolment, as files: `<dir>/<uid>` holds `enabled` or `pending: why`, and is not there for a pod outside the mesh.

Whoever runs the pods copies it into the pod's annotation `ambient.istio.io/redirection`, from which the control plane learns that the pod
speaks HBONE. On Kubernetes a patch of the Pod object takes this place.
"""

from __future__ import annotations

import contextlib
import os

from agent.records import write_atomically

ENABLED = "enabled"
MAX_STATE = 512  # characters


class RedirectionFiles:
    """Every call is one small file operation; OSError where the directory does not allow it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._last: dict[str, str] = {}
        os.makedirs(directory, exist_ok=True)

    def report(self, uid: str, state: str) -> None:
        state = " ".join(state.split())[:MAX_STATE]
        if self._last.get(uid) != state:
            write_atomically(os.path.join(self.directory, uid), state + "\n", mode=0o644)
            self._last[uid] = state

    def withdraw(self, uid: str) -> None:
        self._last.pop(uid, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.directory, uid))

    def enabled(self) -> frozenset[str]:
        found = set()
        for name in os.listdir(self.directory):
            with contextlib.suppress(OSError), open(os.path.join(self.directory, name), errors="replace") as file:
                if not name.startswith(".") and file.read(MAX_STATE).strip() == ENABLED:
                    found.add(name)
        return frozenset(found)

    def all(self) -> list[str]:
        return [name for name in os.listdir(self.directory) if not name.startswith(".")]
