"""The steps by which a pod enters and leaves the mesh, each idempotent, each with its inverse. Blocking: for the kernel thread.

Entering:   open → prepare (routing, sysctl, addresses) → [the tunnel listens] → adopt (its 15006 listener) → capture
Leaving:    release (no new capture) → [the tunnel stops] → restore (addresses, routing, sysctl)

`reconcile.py` decides the order and waits for the tunnel; here is what each step does to the kernel.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from typing import Protocol

from agent import routing
from agent.kernel import Programs
from agent.records import Record, Records
from mesh.io.netns import Namespace
from mesh.model.errors import CulvertError
from mesh.model.workload import IPAddress


class EnrolError(CulvertError):
    """A pod cannot be enrolled as things are. The text is for `pending: why`."""


class Host(Protocol):
    """What the reconciler needs of the node's kernel. Every call may block for some milliseconds and may raise OSError."""

    def open(self, path: str) -> Namespace:
        """Open a pod's namespace. EnrolError where it is the node's own."""

    def find(self, record: Record) -> Namespace | None:
        """The namespace of a record, wherever it can still be entered from; None where it is gone."""

    def prepare(self, uid: str, path: str, namespace: Namespace, ips: Collection[str]) -> None:
        """Note how the namespace was, set its routing and register its addresses. Nothing is captured that was not.

        `ips` are the pod's addresses as the cluster knows them; none: not known. CulvertError where one is another namespace's.
        """

    def adopt(self, namespace: Namespace) -> bool:
        """Find the tunnel's listener for inbound plaintext. False where there is none."""

    def capture(self, namespace: Namespace, ips: Collection[str]) -> None:
        """Steer and capture. From here on nothing passes but through the tunnel; where there is none, it is refused."""

    def release(self, cookie: int) -> None:
        """Stop steering and capturing new connections; what the tunnel carries goes on. The namespace may be gone."""

    def restore(self, cookie: int, namespace: Namespace | None) -> None:
        """Put everything back as it was (routing only where there still is a namespace), and forget the record."""

    def captured(self) -> frozenset[int]:
        """The cookies captured now, also by an agent before this one."""

    def records(self) -> list[Record]:
        """Every namespace that was prepared and not restored, also by an agent before this one."""


class NodeHost:
    """The real one."""

    def __init__(self, programs: Programs, records: Records, node_cookie: int) -> None:
        self._programs = programs
        self._records = records
        self._node_cookie = node_cookie

    def open(self, path: str) -> Namespace:
        if not path:
            raise EnrolError("the pod has no network namespace yet")
        namespace = Namespace.open(path)
        try:
            if namespace.cookie == self._node_cookie:
                raise EnrolError(f"{path} is the node's own network namespace")
        except BaseException:
            namespace.close()
            raise
        return namespace

    def find(self, record: Record) -> Namespace | None:
        return find_namespace(record)

    def prepare(self, uid: str, path: str, namespace: Namespace, ips: Collection[str]) -> None:
        if self._records.get(namespace.cookie) is None:
            before = routing.survey(namespace)
            self._records.put(Record(namespace.cookie, uid, path, namespace.inode, before))
        routing.install(namespace)
        self._programs.prepare(namespace.cookie, _addresses(namespace, ips))

    def adopt(self, namespace: Namespace) -> bool:
        return self._programs.has_listener(namespace.cookie) or self._programs.adopt_listeners(namespace)

    def capture(self, namespace: Namespace, ips: Collection[str]) -> None:
        self._programs.enrol(namespace.cookie, namespace.fd, _addresses(namespace, ips))

    def release(self, cookie: int) -> None:
        self._programs.release(cookie)

    def restore(self, cookie: int, namespace: Namespace | None) -> None:
        self._programs.unenrol(cookie)
        record = self._records.get(cookie)
        if record is not None and namespace is not None:
            routing.restore(namespace, record.before)
        self._records.remove(cookie)

    def captured(self) -> frozenset[int]:
        return frozenset(self._programs.enrolled())

    def records(self) -> list[Record]:
        return list(self._records)


def _addresses(namespace: Namespace, ips: Collection[str]) -> tuple[IPAddress, ...]:
    return vouched(routing.addresses(namespace), ips)


def vouched(found: Collection[IPAddress], ips: Collection[str]) -> tuple[IPAddress, ...]:
    """Which of the addresses found in a namespace are the pod's: a pod with CAP_NET_ADMIN can give itself any.

    Where the cluster knows the pod's addresses: these, and link-local ones, which it never knows. EnrolError where none is there.
    """
    try:
        known = {ip_address(ip) for ip in ips}
    except ValueError as error:
        raise EnrolError(f"the pod's list of addresses is wrong: {error}") from error
    if not known and not found:
        raise EnrolError("the pod's network namespace has no address yet")
    if known and known.isdisjoint(found):
        raise EnrolError(f"the pod's network namespace does not have its address yet: {', '.join(ips)}")
    return tuple(ip for ip in found if not known or ip in known or ip.is_link_local)


def find_namespace(record: Record) -> Namespace | None:
    """Open the namespace that a record is about: by its path, or through a process that lives in it. None where it is gone.

    A path may by now lead to another namespace (a pod of the same name), and an inode may have been given again: the cookie decides.
    """
    for path in (record.netns, *_processes_in(record.inode)):
        with contextlib.suppress(OSError):
            namespace = Namespace.open(path)
            try:
                if namespace.cookie == record.cookie:
                    return namespace
            except OSError:
                pass
            namespace.close()
    return None


def _processes_in(inode: int) -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            path = f"/proc/{name}/ns/net"
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:
                    yield path
