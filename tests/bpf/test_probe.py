"""The capability probe names what is missing; the binding turns the kernel's words into exceptions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.bpf import BpfError, probe
from agent.bpf.cgroups import find_cgroup2
from agent.bpf.objects import ObjectFile
from agent.bpf.probe import OBJECT, adopts_listeners

BPF = Path(__file__).parents[2] / "bpf"

# The second program returns what the hook does not allow.
FAULTY = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
SEC("cgroup/connect4") int cvt_good(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/connect6") int cvt_connect6(struct bpf_sock_addr *ctx) { return 7; }
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("faulty") / "faulty.bpf.c"
    source.write_text(FAULTY)
    made = str(source.with_suffix(".o"))
    subprocess.run(["clang", "-g", "-O2", "-target", "bpf", f"-I{BPF}/build", "-c", str(source), "-o", made], check=True)
    return made


@pytest.mark.netns
def test_nothing_is_missing_here() -> None:
    assert probe() == []


@pytest.mark.netns
def test_a_refused_program_is_named_with_its_need_and_the_verifiers_words(faulty: str) -> None:
    (sentence,) = probe(faulty)
    assert sentence.startswith("the kernel refuses the program cvt_connect6 (it needs cgroup/connect6")
    assert "R0" in sentence


@pytest.mark.netns
def test_the_verifiers_log_is_in_the_exception(faulty: str) -> None:
    with ObjectFile(faulty) as opened, pytest.raises(BpfError) as raised:
        opened.load()
    assert raised.value.errno
    assert any("cvt_connect6" in line for line in raised.value.log)
    assert "R0" in str(raised.value)


def test_no_object_no_programs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ObjectFile(str(tmp_path / "none.o"))
    if os.geteuid() == 0:
        assert any("make -C bpf" in sentence for sentence in probe(str(tmp_path / "none.o")))


def test_not_root() -> None:
    if os.geteuid() != 0:
        assert probe()[0].startswith("not root")
        return
    code = "import os; from agent.bpf import probe; os.setuid(65534); print(probe())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=BPF.parent)
    assert done.stdout.startswith("['not root")


@pytest.mark.parametrize(
    ("release", "safe"), [("5.15.0-91-generic", False), ("6.1.0-18-amd64", False), ("6.5.0", True), ("6.18.44-x", True), ("7.0-rc1", True)]
)
def test_the_listener_walk_is_only_used_where_it_is_safe(release: str, safe: bool) -> None:
    assert adopts_listeners(release) is safe


def test_cgroup2_is_found_in_the_mounts(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("proc /proc proc rw 0 0\ncgroup2 /var/x/y cgroup2 rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n")
    assert find_cgroup2(str(mounts)) == "/var/x/y"
    mounts.write_text("proc /proc proc rw 0 0\n")
    assert find_cgroup2(str(mounts)) is None


@pytest.mark.netns
def test_missing_mounts_are_made() -> None:
    """In a mount namespace of its own, where neither file system is mounted."""
    code = (
        "import os; from agent.bpf import Programs, uninstall; from agent.bpf.cgroups import find_cgroup2; "
        f"assert find_cgroup2() is None; i = 'cvt-{os.getpid()}-mounts'; p = Programs.load_or_adopt(i); p.close(); print(uninstall(i))"
    )
    unmount = """for m in $(awk '$3=="cgroup2" || $3=="bpf" {print $2}' /proc/mounts); do umount -l $m; done"""
    script = f'{unmount}; exec {sys.executable} -c "{code}"'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False, cwd=BPF.parent)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_object_holds_every_hook() -> None:
    with ObjectFile(OBJECT) as opened:
        names = set(opened.program_names())
    families = {f"cvt_{hook}{family}" for hook in ("connect", "getpeername", "getsockname") for family in (4, 6)}
    assert names == families | {"cvt_getsockopt", "cvt_sockops", "cvt_sk_lookup", "cvt_adopt_listeners"}
