"""The pods of this node, as somebody tells us: here files in a directory; a Kubernetes watch takes the same place.

A source answers one question, `snapshot()`: all pods of the node, or None while they have never been read. Nothing is concluded from
None: a pod counts as gone only when a list that was read does not have it. A file that cannot be read is not a pod that is gone: its
last good content stays in the snapshot.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from mesh.io.log import Log
from mesh.io.watch import DirectoryWatch
from mesh.model.enrolment import Enrolment, decide
from mesh.model.errors import ConfigError, Refusal

log = Log("pods")

MAX_FILE = 1 << 20  # bytes
SETTLE = 0.005  # seconds to wait after an event, so that a burst of files is read once
RESYNC = 5.0  # seconds between looks without an event
UNWATCHED = 0.2  # seconds between looks where the directory cannot be watched
SAFE_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LIMITS = {"uid": 128, "name": 253, "namespace": 63, "serviceAccount": 253}  # characters; together they fit into one ZDS message

NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Pod:
    """What the agent must know of a pod. `netns` is a path; `ips`: no others are registered for it, if any are listed."""

    uid: str
    name: str
    namespace: str
    service_account: str
    netns: str
    labels: Mapping[str, str] = field(default_factory=lambda: NONE)
    annotations: Mapping[str, str] = field(default_factory=lambda: NONE)
    namespace_labels: Mapping[str, str] = field(default_factory=lambda: NONE)
    host_network: bool = False
    phase: str = "Running"
    ips: tuple[str, ...] = ()

    @property
    def enrolment(self) -> Enrolment:
        return decide(
            namespace=self.namespace,
            labels=self.labels,
            annotations=self.annotations,
            namespace_labels=self.namespace_labels,
            host_network=self.host_network,
            phase=self.phase,
        )


class PodSource(Protocol):
    def snapshot(self) -> Mapping[str, Pod] | None:
        """All pods of the node by uid; None while they were never read."""

    def unreadable(self) -> frozenset[str]:
        """The uids of which something is there that cannot be read: they are not gone, whatever the snapshot says."""

    async def run(self, changed: Callable[[], None]) -> None:
        """Keep the snapshot current until cancelled, and call `changed` after each change."""


class DirectoryPods:
    """One file `<uid>.json` per pod, written atomically; a removed file is a pod that is gone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: dict[str, str] = {}  # by file name: why it is not read
        self._pods: dict[str, Pod] | None = None
        self._stamps: dict[str, tuple[int, int, int]] = {}

    def snapshot(self) -> Mapping[str, Pod] | None:
        return None if self._pods is None else MappingProxyType(self._pods)

    def unreadable(self) -> frozenset[str]:
        return frozenset(name.removesuffix(".json") for name in self.problems if name)

    async def run(self, changed: Callable[[], None]) -> None:
        poked = asyncio.Event()
        watch: DirectoryWatch | None = None
        try:
            while True:
                poked.clear()
                if watch is None:
                    try:
                        watch = DirectoryWatch([self.path], poked.set, must_exist=True)
                    except OSError as error:
                        log.warning("the directory of pods cannot be watched; looking from time to time", path=self.path, error=error)
                if self.read():
                    changed()
                try:
                    async with asyncio.timeout(RESYNC if watch else UNWATCHED):
                        await poked.wait()
                    await asyncio.sleep(SETTLE)
                except TimeoutError:
                    if watch is not None:  # the directory may have been replaced under the watch
                        watch.close()
                        watch = None
        finally:
            if watch is not None:
                watch.close()

    def read(self) -> bool:
        """Look once. True where the snapshot changed (or exists for the first time)."""
        try:
            stamps = _stamps(self.path)
        except OSError as error:
            self.problems[""] = str(error)
            return False  # what was known stays known
        self.problems.pop("", None)
        pods = dict(self._pods or {})
        changed = self._pods is None
        for name in self._stamps.keys() - stamps.keys():
            changed |= self.problems.pop(name, None) is not None
            changed |= pods.pop(name.removesuffix(".json"), None) is not None
        for name, stamp in stamps.items():
            if self._stamps.get(name) == stamp:
                continue
            try:
                pod = parse_pod(_read(os.path.join(self.path, name)), name)
            except FileNotFoundError:
                continue
            except (OSError, ConfigError) as error:
                if self.problems.get(name) != str(error):
                    log.warning("a pod's file is not accepted; what was known of the pod stays", file=name, error=error)
                self.problems[name] = str(error)
                continue
            self.problems.pop(name, None)
            changed |= pods.get(pod.uid) != pod
            pods[pod.uid] = pod
        self._stamps = stamps
        self._pods = pods
        return changed


def parse_pod(text: str, file: str) -> Pod:
    """The pod in a file. ConfigError names every field that is wrong; unknown fields are refused too."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ConfigError(Refusal(file, "Pod", "", str(error), "a JSON object")) from error
    if not isinstance(raw, dict):
        raise ConfigError(Refusal(file, "Pod", "", type(raw).__name__, "a JSON object"))
    fields = _Fields(file, raw)
    pod = Pod(
        uid=fields.text("uid"),
        name=fields.text("name"),
        namespace=fields.text("namespace"),
        service_account=fields.text("serviceAccount", "default"),
        netns=fields.text("netns", ""),
        labels=fields.mapping("labels"),
        annotations=fields.mapping("annotations"),
        namespace_labels=fields.mapping("namespaceLabels"),
        host_network=fields.flag("hostNetwork"),
        phase=fields.text("phase", "Running"),
        ips=fields.texts("ips"),
    )
    if not SAFE_UID.fullmatch(pod.uid) or f"{pod.uid}.json" != file:
        fields.refuse("uid", pod.uid, "the name of the file without .json: letters, digits, '-', '_' and '.'")
    fields.finish()
    return pod


class _Fields:
    """Takes known fields out of an object and collects what is wrong with them."""

    def __init__(self, file: str, raw: dict[str, object]) -> None:
        self._file = file
        self._raw = dict(raw)
        self._subject = f"Pod {raw.get('namespace', '')}/{raw.get('name', '')}"
        self._refusals: list[Refusal] = []

    def refuse(self, field: str, value: object, accepted: str) -> None:
        self._refusals.append(Refusal(self._file, self._subject, field, repr(value), accepted))

    def text(self, field: str, default: str | None = None) -> str:
        value = self._raw.pop(field, default)
        limit = _LIMITS.get(field, 4096)
        if not isinstance(value, str) or (default is None and not value) or len(value.encode("utf-8", "replace")) > limit:
            self.refuse(field, value, f"a string of at most {limit} bytes" + ("" if default is not None else ", not empty"))
            return ""
        return value

    def flag(self, field: str) -> bool:
        value = self._raw.pop(field, False)
        if not isinstance(value, bool):
            self.refuse(field, value, "true or false")
        return value is True

    def texts(self, field: str) -> tuple[str, ...]:
        value = self._raw.pop(field, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.refuse(field, value, "a list of strings")
            return ()
        return tuple(value)

    def mapping(self, field: str) -> Mapping[str, str]:
        value = self._raw.pop(field, {})
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            self.refuse(field, value, "an object of strings")
            return MappingProxyType({})
        return MappingProxyType(value)

    def finish(self) -> None:
        for name, value in self._raw.items():
            self.refuse(name, value, "no such field; known ones are in agent/pods.py")
        if self._refusals:
            raise ConfigError(*self._refusals)


def _stamps(path: str) -> dict[str, tuple[int, int, int]]:
    """What tells whether a file is another one than at the last look, by name."""
    found = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                found[entry.name] = (status.st_mtime_ns, status.st_ino, status.st_size)
    return found


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_FILE + 1)
    if len(text) > MAX_FILE:
        raise OSError(f"longer than {MAX_FILE} bytes")
    return text
