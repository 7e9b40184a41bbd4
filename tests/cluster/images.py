"""Container images without a registry or a daemon, as archives for `ctr images import`.

Name them `localhost/…` with `imagePullPolicy: Never`: a name without a host is looked up on the network.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PAUSE, BUSYBOX = "localhost/pause:1", "localhost/busybox:1"
BUSYBOX_BINARY = Path("/bin/busybox")
APPLETS = ("sh", "sleep", "cat", "ls", "id", "ip", "ping", "nc", "wget", "httpd", "hostname", "env", "test", "printf", "grep", "timeout")
DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# A sandbox's first process: it waits, reaps whom it inherits, and ends when it is told to. Static, since its image holds nothing else.
PAUSE_SOURCE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap); for (;;) pause(); }
"""


def image(
    path: Path,
    name: str,
    files: Mapping[str, Path | str],
    entrypoint: Sequence[str],
    *,
    user: str = "",
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Write an image of one layer to `path`. `files`: from a path in the image to a file of this machine, or to a symlink's target."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for directory in DIRECTORIES:
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            archive.addfile(entry)
        for inside, source in files.items():
            entry = tarfile.TarInfo(inside)
            entry.mode = 0o755
            if isinstance(source, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, source
                archive.addfile(entry)
            else:
                content = source.read_bytes()
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    blob = layer.getvalue()
    digest = hashlib.sha256(blob).hexdigest()
    variables = {"PATH": "/bin", **(environment or {})}
    config = json.dumps(
        {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": [*entrypoint], "User": user, "Env": [f"{key}={value}" for key, value in variables.items()]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    config_name, layer_name = f"{hashlib.sha256(config).hexdigest()}.json", f"{digest}/layer.tar"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]).encode()
    with tarfile.open(path, "w") as archive:
        for member, content in ((layer_name, blob), (config_name, config), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def pause(directory: Path) -> Path:
    source, binary = directory / "pause.c", directory / "pause"
    source.write_text(PAUSE_SOURCE)
    subprocess.run(["gcc", "-static", "-O2", "-o", binary, source], check=True)
    return image(directory / "pause.tar", PAUSE, {"pause": binary}, ["/pause"])


def busybox(directory: Path) -> Path:
    """A shell and small servers and clients. `wget -T` crashes in Debian 12: bound it with `timeout 5 wget`."""
    assert BUSYBOX_BINARY.exists(), "busybox is not installed: make test-cluster installs it"
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    files = {"bin/busybox": BUSYBOX_BINARY, **libraries(BUSYBOX_BINARY), **links}
    return image(directory / "busybox.tar", BUSYBOX, files, ["/bin/sh"])


def libraries(program: Path) -> dict[str, Path | str]:
    """What the program is linked with, the loader too, each under its own path; nothing for a static one. glibc's resolver is in it."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    paths = re.findall(r"(/\S+) \(0x", said.stdout)
    return {path.lstrip("/"): Path(path) for path in paths}
