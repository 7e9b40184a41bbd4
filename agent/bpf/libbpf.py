"""Prototypes of the part of libbpf.so.1 (1.1 and newer) that we use, and its log and errors turned into exceptions.

libbpf returns a negative errno, or NULL with errno set. Its log goes to one callback per process; `capture_log` collects what the
calling thread's own calls say, so that an exception carries the verifier's words. Nothing here is specific to Culvert.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections import deque
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache

LIBRARY = "libbpf.so.1"
LOG_LINES = 400
LEVEL_WARN = 0

_PrintFn = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
RingSampleFn = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)

# name: (result, arguments). Where libbpf has a pointer to an options struct we always pass NULL.
_PROTOTYPES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "libbpf_set_print": (c_void_p, (_PrintFn,)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__expected_attach_type": (c_int, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, ctypes.c_bool)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__is_internal": (ctypes.c_bool, (c_void_p,)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__map_flags": (c_uint32, (c_void_p,)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, ctypes.POINTER(c_size_t))),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_obj_pin": (c_int, (c_int, c_char_p)),
    "bpf_obj_get": (c_int, (c_char_p,)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, ctypes.POINTER(c_uint32))),
    "bpf_link_create": (c_int, (c_int, c_int, c_int, c_void_p)),
    "bpf_link_update": (c_int, (c_int, c_int, c_void_p)),
    "bpf_link_detach": (c_int, (c_int,)),
    "bpf_iter_create": (c_int, (c_int,)),
    "ring_buffer__new": (c_void_p, (c_int, RingSampleFn, c_void_p, c_void_p)),
    "ring_buffer__consume": (c_int, (c_void_p,)),
    "ring_buffer__epoll_fd": (c_int, (c_void_p,)),
    "ring_buffer__free": (None, (c_void_p,)),
}


class BpfError(OSError):
    """A call of libbpf or bpf(2) failed. `log` holds libbpf's own lines about it, the verifier's among them."""

    def __init__(self, number: int, what: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(number, f"{what}: {os.strerror(number)}")
        self.log = log

    def __str__(self) -> str:
        return "\n  ".join((super().__str__(), *self.log))


class MissingError(BpfError, FileNotFoundError):
    """A pin, or the object file, is not there."""


class _ThreadLog(threading.local):
    lines: deque[str] | None = None


_thread_log = _ThreadLog()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.vsnprintf.argtypes = (c_void_p, c_size_t, c_char_p, c_void_p)


def _collect(level: int, form: bytes, arguments: int) -> int:
    """libbpf's logger. A va_list reaches us as a pointer on x86-64 and on arm64 alike, and is passed on as one."""
    lines = _thread_log.lines
    if lines is None or level > LEVEL_WARN:
        return 0
    # The verifier's log arrives as one message; its end is what tells the fault, so the buffer is generous.
    buffer = ctypes.create_string_buffer(1 << 18)
    size = _libc.vsnprintf(buffer, len(buffer), form, arguments)
    lines.extend(line for line in buffer.value.decode(errors="replace").splitlines() if line.strip())
    return int(size)


_print = _PrintFn(_collect)  # kept: libbpf holds only its address


@cache
def library() -> ctypes.CDLL:
    """The loaded library with its prototypes set. Raises OSError where it is not installed."""
    loaded = ctypes.CDLL(LIBRARY, use_errno=True)
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    loaded.libbpf_set_print(_print)
    return loaded


@contextlib.contextmanager
def capture_log() -> Iterator[deque[str]]:
    """Collect libbpf's warnings of this thread, the last LOG_LINES of them."""
    before, _thread_log.lines = _thread_log.lines, deque(maxlen=LOG_LINES)
    try:
        yield _thread_log.lines
    finally:
        _thread_log.lines = before


def check(result: int, what: str) -> int:
    """`result` unless it is negative: then BpfError. `what` says the failed action in words."""
    if result < 0:
        raise _error(-result if result != -1 else ctypes.get_errno() or errno.EPERM, what)
    return result


def check_pointer(result: int | None, what: str) -> int:
    """`result` unless it is NULL: then BpfError."""
    if not result:
        raise _error(ctypes.get_errno() or errno.EINVAL, what)
    return result


def _error(number: int, what: str) -> BpfError:
    return (MissingError if number == errno.ENOENT else BpfError)(number, what, tuple(_thread_log.lines or ()))


def pin(fd: int, path: str) -> None:
    """Give the kernel object behind `fd` a name in bpffs. Raises BpfError."""
    check(library().bpf_obj_pin(fd, path.encode()), f"pin {path}")


def get(path: str) -> int:
    """A new descriptor of the object pinned at `path`. Raises MissingError where there is none, BpfError."""
    return check(library().bpf_obj_get(path.encode()), f"open pin {path}")
