"""Typed access to one BPF map: keys and values are ctypes structures of `abi`, never raw bytes."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.bpf.libbpf import check, library

K = TypeVar("K", bound="ctypes.Structure | ctypes.c_uint32 | ctypes.c_uint64")
V = TypeVar("V", bound="ctypes.Structure | ctypes.c_uint32 | ctypes.c_uint64")


class _MapInfo(ctypes.Structure):
    """The head of `struct bpf_map_info`, which later kernels only extend."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """What two maps must have in common to be the same map to a program."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int

    @classmethod
    def of_fd(cls, fd: int) -> Layout:
        """The layout of an existing map. Raises BpfError."""
        info = _MapInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        check(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "read the map's info")
        return cls(info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)


class Map(Generic[K, V]):
    """A hash, LRU, array or socket map. Owns `fd`."""

    def __init__(self, name: str, fd: int, key: type[K], value: type[V]) -> None:
        self.name = name
        self.fd = fd
        self._key = key
        self._value = value

    def get(self, key: K) -> V | None:
        """The value (a copy), or None. Raises BpfError."""
        value = self._value()
        result = library().bpf_map_lookup_elem(self.fd, ctypes.byref(key), ctypes.byref(value))
        if result == -errno.ENOENT:
            return None
        check(result, f"look up in map {self.name}")
        return value

    def put(self, key: K, value: V) -> None:
        """Insert or replace. Raises BpfError (E2BIG or ENOSPC: the map is full)."""
        check(library().bpf_map_update_elem(self.fd, ctypes.byref(key), ctypes.byref(value), 0), f"write to map {self.name}")

    def discard(self, key: K) -> bool:
        """Remove; False where there was nothing. Raises BpfError."""
        result = library().bpf_map_delete_elem(self.fd, ctypes.byref(key))
        if result == -errno.ENOENT:
            return False
        check(result, f"remove an entry of map {self.name}")
        return True

    def keys(self) -> Iterator[K]:
        """Every key. Complete only while nobody else deletes: the kernel starts over when the key we stand on is gone."""
        previous: K | None = None
        while True:
            key = self._key()
            result = library().bpf_map_get_next_key(self.fd, None if previous is None else ctypes.byref(previous), ctypes.byref(key))
            if result == -errno.ENOENT:
                return
            check(result, f"walk map {self.name}")
            yield key
            previous = key

    def items(self) -> list[tuple[K, V]]:
        """A snapshot. Entries that vanish while it is taken are left out."""
        pairs = ((key, self.get(key)) for key in list(self.keys()))
        return [(key, value) for key, value in pairs if value is not None]

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class PerCpuCounters:
    """A per-CPU array of 64-bit counters. Owns `fd`."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self._cpus = check(library().libbpf_num_possible_cpus(), "count the CPUs")

    def get(self, index: int) -> int:
        """The sum over all CPUs. Raises BpfError."""
        key, values = ctypes.c_uint32(index), (ctypes.c_uint64 * self._cpus)()
        check(library().bpf_map_lookup_elem(self.fd, ctypes.byref(key), values), f"look up in map {self.name}")
        return sum(values)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
