"""CAs that others keep, as files: both layouts, and how they come to lie in a directory."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.control.ca.support import Foreign, Key, pem, private_pem

Files = dict[str, str]


@lru_cache(maxsize=1)
def root() -> Foreign:
    return Foreign()


@lru_cache(maxsize=1)
def own_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@lru_cache(maxsize=1)
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pkcs1(key: Key) -> str:
    """As openssl writes it, and as Istio's own tools do."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain).decode()


def istio(key: Key | None = None, by: Foreign | None = None, *, text: str = "", **wrong: object) -> Files:
    key, by = key or own_key(), by or root()
    certificate = pem(by.intermediate(key, **wrong))
    files = {"ca-cert.pem": certificate, "ca-key.pem": text or private_pem(key), "root-cert.pem": by.pem}
    return files | {"cert-chain.pem": certificate + by.pem}


def cert_manager(key: Key | None = None, by: Foreign | None = None) -> Files:
    key, by = key or own_key(), by or root()
    return {"tls.crt": pem(by.intermediate(key)), "tls.key": private_pem(key), "ca.crt": by.pem}


def put(directory: Path, files: Files) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    return directory


def swap(directory: Path, files: Files) -> Path:
    """As a kubelet does it: files by a link to a link, and the inner one replaced by a rename."""
    directory.mkdir(exist_ok=True)
    fresh = directory / f"..{len(list(directory.iterdir()))}"
    put(fresh, files)
    link = directory / "..data_tmp"
    link.symlink_to(fresh.name)
    link.rename(directory / "..data")
    for name in files:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    return directory


def two_levels() -> Files:
    middle = Foreign()
    middle.certificate = root().issue("middle", middle.key, root().certificate, path_length=1)
    lower = middle.issue("lower", own_key(), middle.certificate, path_length=0)
    chain = root().pem + middle.pem + pem(lower)
    return {"ca-cert.pem": pem(lower), "ca-key.pem": private_pem(own_key()), "root-cert.pem": root().pem, "cert-chain.pem": chain}
