"""A BPF object file on its way into the kernel: open, set constants, take over pinned maps, load.

After `load` only descriptors remain (libbpf's copy of the object is freed): maps by name, programs by name with their attach type.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from agent.bpf.libbpf import capture_log, check, check_pointer, library
from agent.bpf.maps import Layout


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program. `attach_type` is the number of `enum bpf_attach_type` that its section names."""

    name: str
    fd: int
    attach_type: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything of one object that is in the kernel. Owns all descriptors."""

    programs: dict[str, Program]
    maps: dict[str, int]


class ObjectFile:
    """An opened object. Use as a context manager; `load` once."""

    def __init__(self, path: str) -> None:
        """Raises BpfError where the file is missing or is no BPF object."""
        with capture_log():
            self._object = check_pointer(library().bpf_object__open_file(path.encode(), None), f"open {path}")
        self.path = path

    def __enter__(self) -> ObjectFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        library().bpf_object__close(self._object)

    def _each(self, next_function: str) -> Iterator[int]:
        step, pointer = getattr(library(), next_function), None
        while pointer := step(self._object, pointer):
            yield pointer

    def _programs(self) -> dict[str, int]:
        return {library().bpf_program__name(p).decode(): p for p in self._each("bpf_object__next_program")}

    def _maps(self) -> dict[str, int]:
        return {library().bpf_map__name(m).decode(): m for m in self._each("bpf_object__next_map")}

    def program_names(self) -> list[str]:
        return list(self._programs())

    def layouts(self) -> dict[str, Layout]:
        """The layout of every map that is ours to pin, as the object declares it."""
        lib = library()
        return {
            name: Layout(
                lib.bpf_map__type(m),
                lib.bpf_map__key_size(m),
                lib.bpf_map__value_size(m),
                lib.bpf_map__max_entries(m),
                lib.bpf_map__map_flags(m),
            )
            for name, m in self._maps().items()
            if not lib.bpf_map__is_internal(m)
        }

    def set_constants(self, suffix: str, value: ctypes.Structure) -> None:
        """Write `value` over the read-only section whose map's name ends in `suffix`. Raises ValueError where the sizes differ."""
        size = ctypes.c_size_t()
        (section,) = (m for name, m in self._maps().items() if name.endswith(suffix))
        memory = library().bpf_map__initial_value(section, ctypes.byref(size))
        if not memory or size.value != ctypes.sizeof(value):
            raise ValueError(f"{suffix} has {size.value} bytes in {self.path}, and {ctypes.sizeof(value)} in abi.py: build bpf/ again")
        ctypes.memmove(memory, ctypes.byref(value), size.value)

    def reuse(self, name: str, fd: int) -> None:
        """Let the programs use an existing map in place of a new one. Raises BpfError."""
        check(library().bpf_map__reuse_fd(self._maps()[name], fd), f"take over map {name}")

    def leave_out(self, *names: str) -> None:
        """Do not load these programs."""
        for name, program in self._programs().items():
            if name in names:
                check(library().bpf_program__set_autoload(program, False), f"leave out program {name}")

    def load(self) -> Loaded:
        """Verify and load everything. Raises BpfError with the verifier's log; nothing stays in the kernel then."""
        lib = library()
        with capture_log():
            check(lib.bpf_object__load(self._object), f"load {os.path.basename(self.path)}")
        programs = {
            name: Program(name, os.dup(lib.bpf_program__fd(p)), lib.bpf_program__expected_attach_type(p))
            for name, p in self._programs().items()
            if lib.bpf_program__fd(p) >= 0
        }
        maps = {name: os.dup(lib.bpf_map__fd(m)) for name, m in self._maps().items() if not lib.bpf_map__is_internal(m)}
        return Loaded(programs, maps)
