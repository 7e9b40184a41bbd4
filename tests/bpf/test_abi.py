"""bpf/include/abi.h and its Python mirror say the same, judged by the BTF of the object that is loaded."""

from __future__ import annotations

import ctypes
import json
import subprocess
from functools import cache
from typing import Any

import pytest

from agent.bpf import abi
from agent.bpf.maps import Layout
from agent.bpf.objects import ObjectFile
from agent.bpf.probe import OBJECT
from mesh.model.reasons import Reason
from mesh.model.workload import TUNNEL_PORTS


@cache
def btf() -> dict[int, dict[str, Any]]:
    done = subprocess.run(["bpftool", "-j", "btf", "dump", "file", OBJECT], capture_output=True, check=True)
    return {entry["id"]: entry for entry in json.loads(done.stdout)["types"]}


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (entry for entry in btf().values() if entry["kind"] == kind and entry["name"] == name)
    return found


def size_of(type_id: int) -> int:
    entry = btf()[type_id]
    if entry["kind"] == "ARRAY":
        return size_of(entry["type_id"]) * int(entry["nr_elems"])
    return int(entry["size"]) if "size" in entry else size_of(entry["type_id"])


def enum(name: str) -> dict[str, int]:
    return {value["name"]: value["val"] for value in named("ENUM", name)["values"]}


def defined_structures() -> set[str]:
    """Every culvert_ structure of the object, except the one that only the kernel programs read."""
    names = {entry["name"] for entry in btf().values() if entry["kind"] == "STRUCT" and entry["name"].startswith("culvert_")}
    return names - {"culvert_burst"}


def test_every_structure_has_a_mirror() -> None:
    assert defined_structures() == set(abi.STRUCTURES)


@pytest.mark.parametrize("name", sorted(abi.STRUCTURES))
def test_structure_layout(name: str) -> None:
    mirror, kernel = abi.STRUCTURES[name], named("STRUCT", name)
    ours = [(f[0], getattr(mirror, f[0]).offset, getattr(mirror, f[0]).size) for f in mirror._fields_]
    theirs = [(m["name"], m["bits_offset"] // 8, size_of(m["type_id"])) for m in kernel["members"]]
    assert ours == theirs
    assert ctypes.sizeof(mirror) == kernel["size"]


def test_counters_are_the_enum_and_the_reasons() -> None:
    kernel = enum("culvert_counter")
    assert kernel.pop("CULVERT_COUNTERS") == len(abi.Counter)
    assert kernel == {f"CULVERT_{counter.name}": counter.value for counter in abi.Counter}
    refusals = {counter.name for counter in abi.Counter if counter.name.startswith("KERNEL_")}
    assert refusals == {reason.name for reason in Reason if reason.name.startswith("KERNEL_")}
    assert all(Reason[name].word == abi.Counter[name].word for name in refusals)


def test_numbers() -> None:
    assert set(enum("culvert_port").values()) == TUNNEL_PORTS
    numbers = enum("culvert_number")
    assert numbers["CULVERT_MARK_DELIVERY"] == abi.MARK_DELIVERY
    assert numbers["CULVERT_MARK_TUNNEL_LOW"] == abi.MARK_TUNNEL_LOW
    assert numbers["CULVERT_POD_CAPTURE"] == abi.POD_CAPTURE
    assert numbers["CULVERT_ABI_VERSION"] == abi.ABI_VERSION


def test_maps_have_the_key_and_value_sizes_that_we_use() -> None:
    expected = {
        "cvt_config": (4, ctypes.sizeof(abi.Config)),
        "cvt_pods": (8, ctypes.sizeof(abi.Pod)),
        "cvt_addresses": (ctypes.sizeof(abi.Addr), ctypes.sizeof(abi.Home)),
        "cvt_listeners": (ctypes.sizeof(abi.Listener), 8),
        "cvt_originals": (ctypes.sizeof(abi.Flow), ctypes.sizeof(abi.Endpoint)),
        "cvt_probes": (ctypes.sizeof(abi.Tuple), 8),
        "cvt_wanted": (4, ctypes.sizeof(abi.Capture)),
        "cvt_counters": (4, 8),
        "cvt_bursts": (4, 16),
        "cvt_events": (0, 0),
    }
    with ObjectFile(OBJECT) as opened:
        layouts: dict[str, Layout] = opened.layouts()
    assert {name: (layout.key_size, layout.value_size) for name, layout in layouts.items()} == expected


@pytest.mark.parametrize(("text", "raw"), [("10.1.2.3", "0" * 20 + "ffff0a010203"), ("fd00::1", "fd00" + "0" * 27 + "1")])
def test_addresses_are_sixteen_bytes_and_come_back(text: str, raw: str) -> None:
    from ipaddress import ip_address

    address = abi.Addr.of(ip_address(text))
    assert bytes(address).hex() == raw
    assert str(address.ip) == text
