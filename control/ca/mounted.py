"""A CA that others keep and mount into this process: Istio's `cacerts`, or a Secret that cert-manager writes.

    part          Istio           cert-manager
    signs         ca-cert.pem     tls.crt
    its key       ca-key.pem      tls.key
    the way up    cert-chain.pem  tls.crt, after the first
    trusted       root-cert.pem   ca.crt

The way up may be left out where a root has signed directly, and may come in any order: it is found by who signed whom. Several roots may be
trusted. (Istio reads the second form under the first one's name, too.)

A mounted Secret changes by one swap of the link `..data`; files are read through it once, so that a set is never half old, half new.

Who may read the key. A kubelet mounts Secrets into memory, root-owned, and often 0644: the file system is seen by this pod alone, so its
mode is not ours to judge. It is told from memory that all processes share, such as /dev/shm, by being mounted read-only. Anywhere else a
key that all users of the machine may read is refused, and everywhere one that others than its owner may write.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from control.ca.material import MAX_CHAIN, Material
from control.ca.pem import certificate, certificates, issued_by
from mesh.model.errors import ConfigError, Refusal

DATA = "..data"
MAX_FILE = 1 << 20  # bytes
ISTIO = {"certificate": "ca-cert.pem", "key": "ca-key.pem", "chain": "cert-chain.pem", "roots": "root-cert.pem"}
CERT_MANAGER = {"certificate": "tls.crt", "key": "tls.key", "chain": "tls.crt", "roots": "ca.crt"}
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def read(directory: Path) -> Material:
    """What is mounted now, not yet checked. Raises ConfigError for what cannot be read, OSError where the directory cannot."""
    base = Path(os.path.realpath(directory / DATA)) if (directory / DATA).exists() else directory
    present = set(os.listdir(base))
    names = next((names for names in (ISTIO, CERT_MANAGER) if names["certificate"] in present), None)
    if names is None:
        accepted = "ca-cert.pem, ca-key.pem, root-cert.pem (Istio), or tls.crt, tls.key, ca.crt (cert-manager)"
        raise ConfigError(Refusal(str(directory), "", "", ", ".join(sorted(present)) or "nothing", accepted))
    texts = {part: _text(base / name, secret=part == "key") for part, name in names.items() if part != "chain" or name in present}
    return _assemble(directory, names, texts)


def _assemble(directory: Path, names: Mapping[str, str], texts: Mapping[str, str]) -> Material:
    where = str(directory)

    def refuse(part: str, value: str, accepted: str) -> ConfigError:
        return ConfigError(Refusal(where, "", names[part], value, accepted))

    own = certificates(texts["certificate"], where, names["certificate"])
    if not own:
        raise refuse("certificate", "no certificate", "the certificate that signs, PEM")
    roots = certificates(texts["roots"], where, names["roots"])
    if not roots:
        raise refuse("roots", "no certificate", "the roots that peers are to trust, PEM")
    others = (*own[1:], *certificates(texts.get("chain", ""), where, names["chain"]))
    path = _path(own[0], others, roots)
    if path is None:
        raise refuse("chain", f"no way from {names['certificate']} to a root in {names['roots']}", "every certificate between them")
    root = path[-1]
    return Material(texts["key"], tuple(path[:-1]), (root, *(each for each in roots if each != root)))


def _path(first: str, others: tuple[str, ...], roots: tuple[str, ...]) -> list[str] | None:
    """From the certificate that signs to a root, each signed by the next; None where there is no way."""
    path = [first]
    while path[-1] not in roots:
        lower = certificate(path[-1], "", "")
        candidates = (pem for pem in (*roots, *others) if pem not in path and issued_by(lower, certificate(pem, "", "")))
        upper = next(candidates, None)
        if upper is None or len(path) > MAX_CHAIN:
            return None
        path.append(upper)
    return path


def _text(path: Path, *, secret: bool) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(Refusal(str(path), "", "", error.strerror or str(error), "a file that can be read")) from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
            raise ConfigError(Refusal(str(path), "", "", "no regular file, or a large one", f"a file of at most {MAX_FILE} bytes"))
        if secret:
            private = _file_system(status.st_dev) in _IN_MEMORY and os.fstatvfs(descriptor).f_flag & os.ST_RDONLY != 0
            _check_mode(path, status, private)
        try:
            return file.read(MAX_FILE).decode("ascii")
        except UnicodeDecodeError as error:
            raise ConfigError(Refusal(str(path), "", "", "not text", "PEM")) from error


def _check_mode(path: Path, status: os.stat_result, private: bool) -> None:
    """`private`: nobody but this pod sees the file system."""
    mode = status.st_mode & 0o777
    if mode & 0o022 or (mode & 0o004 and not private):
        raise ConfigError(
            Refusal(str(path), "", "mode", f"{mode:04o}", "0600 or 0640; 0644 in memory that is mounted read-only, as Secrets are")
        )


def _file_system(device: int) -> str:
    """The type of the file system that a device number belongs to, "" where that is not known (proc(5), mountinfo)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as file:
        for line in file:
            mount, _, rest = line.partition(" - ")
            if mount.split()[2] == wanted:
                return rest.split()[0]
    return ""
