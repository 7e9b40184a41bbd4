"""BPF links: a program attached to a cgroup or to a network namespace, by bpf(2) BPF_LINK_CREATE.

A link lives while a descriptor or a pin holds it. Its program can be exchanged in one atomic step, which is how an agent that
restarts replaces programs without a moment in which none runs.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

from agent.bpf import libbpf
from agent.bpf.libbpf import check, library

LINK_CGROUP = 3
LINK_ITER = 4
LINK_NETNS = 5


class _LinkInfo(ctypes.Structure):
    """The head of `struct bpf_link_info`: of the union we read the cgroup's id or the namespace's inode, then the attach type."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("_hole", ctypes.c_uint32),
        ("target", ctypes.c_uint64),
        ("attach_type", ctypes.c_uint32),
        ("_rest", ctypes.c_uint32 * 15),
    )


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """`target` is the cgroup's id or the network namespace's inode; 0: it is gone, and the link does nothing any more."""

    type: int
    id: int
    prog_id: int
    target: int


class Link:
    """One link. Owns `fd`; closing it detaches the program unless the link is pinned."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def create(cls, prog_fd: int, target_fd: int, attach_type: int) -> Link:
        """Attach. Other programs at the same hook stay. Raises BpfError."""
        return cls(check(library().bpf_link_create(prog_fd, target_fd, attach_type, None), f"attach a program (attach type {attach_type})"))

    @classmethod
    def pinned(cls, path: str) -> Link:
        """The link pinned at `path`. Raises BpfError (ENOENT)."""
        return cls(libbpf.get(path))

    def pin(self, path: str) -> None:
        libbpf.pin(self.fd, path)

    def update(self, prog_fd: int) -> None:
        """Exchange the program; connections meet the old one or the new one, never none. Raises BpfError (ENOLINK: the target is gone)."""
        check(library().bpf_link_update(self.fd, prog_fd, None), "exchange a link's program")

    def detach(self) -> None:
        """Detach now, whoever else holds the link. Raises BpfError."""
        check(library().bpf_link_detach(self.fd), "detach a link")

    def info(self) -> LinkInfo:
        raw = _LinkInfo()
        size = ctypes.c_uint32(ctypes.sizeof(raw))
        check(library().bpf_obj_get_info_by_fd(self.fd, ctypes.byref(raw), ctypes.byref(size)), "read the link's info")
        target = raw.target & 0xFFFFFFFF if raw.type == LINK_NETNS else raw.target
        return LinkInfo(raw.type, raw.id, raw.prog_id, target)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
