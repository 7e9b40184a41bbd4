"""`culvert verify` on a running mesh: it proves when all is well, and it must fail when it should."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.bpf import abi
from mesh.io.netns import Namespace
from tests.e2e.mesh import Mesh, running
from tests.e2e.playground import eventually, namespace, pod, service_account, strict

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

SLEEP = ["sleep", "infinity"]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    objects = [
        namespace("shop", ambient=True),
        namespace("plain", ambient=False),
        *(service_account(name, "shop") for name in ("one", "two", "three")),
        pod("one", "shop", "node-1", SLEEP, account="one"),
        pod("two", "shop", "node-2", SLEEP, account="two"),
        pod("three", "shop", "node-2", SLEEP, account="three"),
        pod("outsider", "plain", "node-1", SLEEP),
    ]
    with running(tmp_path_factory.mktemp("verify"), "verify", objects) as mesh:
        eventually("every labelled pod is in the mesh, and its peers know", lambda: verify(mesh)[0] == 0, 30)
        yield mesh


def verify(mesh: Mesh) -> tuple[int, dict[str, Any]]:
    done = mesh.culvert("verify", "--json", check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_proves_a_mesh_in_order(mesh: Mesh) -> None:
    code, proof = verify(mesh)
    assert (code, proof["problems"], proof["proved"]) == (0, [], True)
    meshed = [delivery for delivery in proof["deliveries"] if "plain/" not in delivery["source"] + delivery["destination"]]
    pairs = {(one, other) for one in ["shop/one"] for other in ["shop/two", "shop/three"]}
    assert {(delivery["source"], delivery["destination"]) for delivery in meshed} == pairs | {(other, one) for one, other in pairs}
    assert {delivery["family"] for delivery in meshed} == {4, 6}
    assert all(delivery["arrived"] for delivery in proof["deliveries"])
    assert {flow["port"] for flow in proof["flows"] if flow["kind"] == "mesh"} == {15008}
    plain = {(flow["source"], flow["destination"]) for flow in proof["flows"] if flow["kind"] == "plaintext"}
    assert plain == {
        ("plain/outsider", "shop/two"),
        ("plain/outsider", "shop/three"),
        ("shop/two", "plain/outsider"),
        ("shop/three", "plain/outsider"),
    }


def test_table_for_people(mesh: Mesh) -> None:
    done = mesh.culvert("verify")
    for words in ("TLS 1.3", "shop/two", "is outside the mesh", "proved"):
        assert words in done.stdout


def test_strict_lets_no_plaintext_answer_out(mesh: Mesh) -> None:
    mesh.apply(strict("shop"))
    try:

        def refused() -> bool:
            code, proof = verify(mesh)
            # Until the policy is in force verify must say so: the manifest says STRICT and plaintext is answered.
            from_outside = [delivery for delivery in proof["deliveries"] if delivery["source"] == "plain/outsider"]
            if code == 0:
                assert not any(delivery["arrived"] for delivery in from_outside)
            return code == 0

        eventually("STRICT in force and proved", refused)
    finally:
        mesh.delete(strict("shop"))
    eventually("permissive again", lambda: verify(mesh)[0] == 0)


def test_a_pair_whose_encryption_is_off_is_found(mesh: Mesh) -> None:
    """Behind everybody's back, the kernel lets what pod `one` says pass by: its calls leave in the clear, and nobody is told."""
    with uncaptured(mesh, "one"):
        code, proof = verify(mesh)
    assert code == 1
    leaks = {(flow["source"], flow["destination"]) for flow in proof["flows"] if flow["kind"] == "leak"}
    assert leaks == {("shop/one", "shop/two"), ("shop/one", "shop/three")}
    assert any("in the clear" in problem for problem in proof["problems"])
    assert any("inside TLS were seen" in problem for problem in proof["problems"])
    eventually("the agent has mended it, or the pod is as before", lambda: verify(mesh)[0] == 0)


class uncaptured:  # noqa: N801 - reads as a statement
    """Takes the flag away that makes the kernel capture a pod's connections (`struct culvert_pod`), and puts it back."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        found = mesh.where(name)
        with Namespace.open(f"/run/netns/{found['netns']}") as inside:
            self.key = [f"{byte:#04x}" for byte in inside.cookie.to_bytes(8, sys.byteorder)]
        (self.pin,) = Path("/sys/fs/bpf/culvert", mesh.layout.instance(found["node"])).rglob("cvt_pods")
        self.value: list[str] = json.loads(self.bpftool("-j", "map", "lookup", "pinned", str(self.pin), "key", *self.key))["value"]

    def __enter__(self) -> None:
        flags = slice(abi.Pod.flags.offset, abi.Pod.flags.offset + abi.Pod.flags.size)
        assert any(int(byte, 16) for byte in self.value[flags])
        self.update([*self.value[: flags.start], *["0"] * abi.Pod.flags.size, *self.value[flags.stop :]])

    def __exit__(self, *_: object) -> None:
        self.update(self.value)

    def update(self, value: list[str]) -> None:
        self.bpftool("map", "update", "pinned", str(self.pin), "key", *self.key, "value", *value)

    @staticmethod
    def bpftool(*arguments: str) -> str:
        return subprocess.run(["bpftool", *arguments], check=True, capture_output=True, text=True).stdout


def test_no_playground_is_neither_proved_nor_disproved(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "culvert", "verify", "--name", "cvnowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no playground" in done.stderr
