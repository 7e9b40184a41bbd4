"""A CA that others keep: both layouts, what is refused and how it is said, and a change while we run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from control.ca import mounted, upkeep
from control.ca.holders import Holders, Report
from control.ca.keeper import Keeper
from control.ca.material import check
from control.ca.metrics import CaMetrics
from control.ca.rotation import NotYet
from control.ca.state import Phase
from control.ca.store import MemoryStore
from control.ca.upkeep import Upkeep
from mesh.model.errors import ConfigError
from tests.control.ca.mounts import Files, cert_manager, istio, own_key, pkcs1, put, root, rsa_key, swap, two_levels
from tests.control.ca.support import DAY, ME, Clock, Foreign, Key, a_keeper, authority_of, now, private_pem, request, verify

ROOT = Path(__file__).parents[3]

TAKEN: dict[str, tuple[Callable[[], Files], int, int]] = {
    "Istio": (istio, 1, 1),
    "Istio, RSA, PKCS#1": (lambda: istio(rsa_key(), text=pkcs1(rsa_key())), 1, 1),
    "Istio, P-384, SEC 1": (lambda: _of_curve(ec.SECP384R1()), 1, 1),
    "Istio without a chain": (lambda: {name: text for name, text in istio().items() if name != "cert-chain.pem"}, 1, 1),
    "Istio, two roots": (lambda: istio() | {"root-cert.pem": Foreign().pem + root().pem}, 1, 2),
    "a root that signs itself": (lambda: _self_signed(root()), 0, 1),
    "an RSA root that signs itself": (lambda: _self_signed(Foreign(rsa_key())), 0, 1),
    "two levels, in any order": (two_levels, 2, 1),
    "a root of a higher authority": (lambda: _cross_signed(), 1, 1),
    "without key identifiers": (lambda: istio(identifiers=False), 1, 1),
    "cert-manager": (cert_manager, 1, 1),
    "cert-manager, RSA": (lambda: cert_manager(rsa_key()), 1, 1),
    "comments between blocks": (lambda: istio() | {"root-cert.pem": f"Root of all\n{root().pem}\n# end\n"}, 1, 1),
}


def _of_curve(curve: ec.EllipticCurve) -> Files:
    key = ec.generate_private_key(curve)
    return istio(key, text=pkcs1(key))


def _self_signed(by: Foreign) -> Files:
    return {"ca-cert.pem": by.pem, "ca-key.pem": private_pem(by.key), "root-cert.pem": by.pem, "cert-chain.pem": by.pem}


def _cross_signed() -> Files:
    """The trust anchor is not self-signed: what is above it is none of our business."""
    anchor = Foreign()
    anchor.certificate = root().issue("anchor", anchor.key, root().certificate)
    return istio(by=anchor)


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_taken_signs_what_openssl_accepts(case: str, tmp_path: Path) -> None:
    make, below, roots = TAKEN[case]
    keeper = a_keeper(MemoryStore(""), mount=put(tmp_path / "mount", make()))
    asyncio.run(keeper.start())
    chain = keeper.authority.sign(request(), ME, 0, DAY).chain
    assert len(chain) == below + 2
    assert chain[-1].count("BEGIN CERTIFICATE") == roots
    if case not in ("a root of a higher authority", "without key identifiers"):  # openssl's strict mode wants more of roots
        assert verify(tmp_path, chain) == ""


REFUSED: dict[str, tuple[Callable[[], Files], str]] = {
    "nothing": (dict, "nothing is not accepted; accepted: ca-cert.pem"),
    "no key": (lambda: _without(istio(), "ca-key.pem"), "ca-key.pem"),
    "no root": (lambda: _without(istio(), "root-cert.pem"), "root-cert.pem"),
    "an empty root": (lambda: istio() | {"root-cert.pem": ""}, "root-cert.pem: no certificate"),
    "cert-manager without a CA": (lambda: _without(cert_manager(), "ca.crt"), "ca.crt"),
    "another key": (
        lambda: istio(text=private_pem(ec.generate_private_key(ec.SECP256R1()))),
        "a key that is not that of 'CN=intermediate'",
    ),
    "an encrypted key": (lambda: istio(text=_encrypted(own_key())), "an encrypted key"),
    "a key that is none": (lambda: istio(text="-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"), "no private key"),
    "a weak key": (lambda: _weak(), "another kind"),
    "a key of another kind": (lambda: _ed25519(), "another kind"),
    "not a CA": (lambda: istio(ca=False), "is not a CA"),
    "may not sign": (lambda: istio(signs=False), "keyCertSign"),
    "expired": (lambda: istio(end=timedelta(minutes=-1)), "expired on"),
    "not yet valid": (lambda: istio(begin=timedelta(hours=1)), "is valid from"),
    "path length": (lambda: _short_path(), "path length 0"),
    "another root": (lambda: istio() | {"root-cert.pem": Foreign().pem, "cert-chain.pem": ""}, "no way from ca-cert.pem"),
    "a certificate that is none": (lambda: istio() | {"ca-cert.pem": "hello"}, "ca-cert.pem: no certificate"),
    "a certificate that is broken": (
        lambda: istio() | {"ca-cert.pem": istio()["ca-cert.pem"].replace("M", "", 1)},
        "ca-cert.pem: no certificate",
    ),
    "names of others only": (lambda: istio(constraints=_only("elsewhere.example")), "a leaf of it is refused"),
}


def _without(files: Files, name: str) -> Files:
    return {each: text for each, text in files.items() if each != name}


def _encrypted(key: Key) -> str:
    secret = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret).decode()


def _weak() -> Files:
    return istio(rsa.generate_private_key(65537, 1024))


def _ed25519() -> Files:
    plain = serialization.NoEncryption()
    key = ed25519.Ed25519PrivateKey.generate()
    return istio(text=key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode())


def _short_path() -> Files:
    by = Foreign()
    by.certificate = by.issue("root", by.key, None, path_length=0)
    return istio(by=by)


def _only(domain: str) -> x509.NameConstraints:
    return x509.NameConstraints([x509.UniformResourceIdentifier(domain)], None)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_at_start(case: str, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    directory = put(tmp_path / "mount", make())
    with pytest.raises(ConfigError) as raised:
        asyncio.run(a_keeper(MemoryStore(""), mount=directory).start())
    assert words in str(raised.value)
    assert str(directory) in str(raised.value)
    for path in directory.glob("*key*"):
        assert not [line for line in path.read_text().splitlines()[1:-1] if line in str(raised.value)]


def test_a_ca_for_our_trust_domain_only_is_taken(tmp_path: Path) -> None:
    """We make none, since not everybody understands it; who mounts one knows their peers."""
    directory = put(tmp_path / "mount", istio(constraints=_only("cluster.local")))
    asyncio.run(a_keeper(MemoryStore(""), mount=directory).start())


@pytest.mark.parametrize(("mode", "fine"), [(0o600, True), (0o400, True), (0o440, True), (0o640, True), (0o644, False), (0o660, False)])
def test_who_may_read_a_key_on_disk(tmp_path: Path, mode: int, fine: bool) -> None:
    directory = put(tmp_path, istio())
    (directory / "ca-key.pem").chmod(mode)
    if fine:
        mounted.read(directory)
    else:
        with pytest.raises(ConfigError, match=f"{mode:04o}"):
            mounted.read(directory)


# How a file system in memory, or a directory of a disk, is mounted; the key's mode; whether it is taken.
SEEN: dict[str, tuple[str, int, bool]] = {
    "a Secret, as a kubelet mounts it": ("mount -t tmpfs -o mode=755 tmpfs {} && {swap} && mount -o remount,ro {}", 0o644, True),
    "the same, which others may write": ("mount -t tmpfs -o mode=755 tmpfs {} && {swap} && mount -o remount,ro {}", 0o666, False),
    "memory that all processes share": ("mount -t tmpfs -o mode=1777 tmpfs {} && {swap}", 0o644, False),
    "the same, the key for its owner": ("mount -t tmpfs -o mode=1777 tmpfs {} && {swap}", 0o640, True),
    "a disk that is mounted read-only": ("{swap} && mount --bind {} {} && mount -o remount,bind,ro {}", 0o644, False),
}
READ = """
import sys
from pathlib import Path
from control.ca import mounted
from mesh.model.errors import ConfigError
try:
    mounted.read(Path(sys.argv[1]))
except ConfigError as error:
    print(error)
else:
    print("taken")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")
@pytest.mark.parametrize("case", SEEN)
def test_who_else_sees_the_file_system_decides_what_a_mode_means(tmp_path: Path, case: str) -> None:
    """In a mount namespace of its own, which ends with the process."""
    mounting, mode, taken = SEEN[case]
    source = swap(tmp_path / "made", istio())
    (source / "ca-key.pem").chmod(mode)
    target = tmp_path / "mount"
    target.mkdir()
    (tmp_path / "read.py").write_text(READ)
    copy = f"cp -a {source}/. {target}"
    script = f"{mounting.replace('{swap}', copy).replace('{}', str(target))} && exec {sys.executable} {tmp_path}/read.py {target}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (done.stdout == "taken\n") == taken, done.stdout
    assert taken or f"{mode:04o}" in done.stdout


class Running:
    """A keeper of a mounted CA, with a node that follows it and renews when told to."""

    def __init__(self, mount: Path, clock: Clock) -> None:
        self.holders = Holders(lambda: ["node-1"])
        self.clock = clock
        self.keeper: Keeper = a_keeper(MemoryStore(""), mount=mount, holders=self.holders, clock=clock)
        self.number = self.holders.join("node-1", "test")

    async def __aenter__(self) -> Running:
        await self.keeper.start()
        self.changed = asyncio.Event()
        self.keeper.listeners.add(self.changed)
        self.task = asyncio.create_task(Upkeep(self.keeper, self.keeper._metrics).run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def renew(self) -> None:
        token = self.keeper.authority.token
        self.holders.report(self.number, Report(token, 1, 0), token, self.clock())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TICK", 0.02)
    monkeypatch.setattr(upkeep, "MOUNT_LOOK", 0.2)


@pytest.mark.parametrize("write", [swap, put])
def test_another_intermediate_counts_without_a_restart(write: Callable[[Path, Files], Path], tmp_path: Path, quick: None) -> None:
    async def main() -> None:
        directory = write(tmp_path / "mount", istio())
        async with Running(directory, Clock()) as running:
            token = running.keeper.authority.token
            old = running.keeper.authority.sign(request(), ME, 0, DAY).chain
            write(directory, istio(ec.generate_private_key(ec.SECP256R1()), name="another"))
            await running.until(lambda: "another" in str(running.keeper.authority.certificate.subject))
            new = running.keeper.authority.sign(request(), ME, 0, DAY).chain
            assert verify(tmp_path, old) == verify(tmp_path, new) == ""
            assert running.keeper.authority.token == token  # nobody has to renew for that

    asyncio.run(main())


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_be_used_later_leaves_the_last_good_one_in_force(case: str, tmp_path: Path, quick: None) -> None:
    async def main() -> None:
        make, words = REFUSED[case]
        directory = swap(tmp_path / "mount", istio())
        async with Running(directory, Clock()) as running:
            before = running.keeper.authority
            swap(directory, make())
            await running.until(lambda: "mount" in running.keeper.problems.now)
            assert words in running.keeper.problems.now["mount"]
            assert running.keeper.authority is before
            assert verify(tmp_path, before.sign(request(), ME, 0, DAY).chain) == ""
            assert running.keeper._metrics.problems.labels("mount")._value.get() == 1
            swap(directory, istio())
            await running.until(lambda: "mount" not in running.keeper.problems.now)

    asyncio.run(main())


def test_another_root_goes_through_its_steps_by_itself(tmp_path: Path, quick: None) -> None:
    """cert-manager replaces a root from one moment to the next. Nobody may be shown a certificate from it before they trust it."""

    async def main() -> None:
        directory, other = swap(tmp_path / "mount", cert_manager()), Foreign()
        async with Running(directory, Clock()) as running:
            running.renew()
            first = running.keeper.authority
            swap(directory, cert_manager(ec.generate_private_key(ec.SECP256R1()), other))
            await running.until(lambda: running.keeper.state.phase is Phase.INTRODUCED)
            assert running.keeper.authority.certificate == first.certificate
            assert set(running.keeper.authority.roots) == {root().pem, other.pem}
            await asyncio.sleep(0.2)
            assert running.keeper.state.phase is Phase.INTRODUCED, "it did not wait for the node"
            running.renew()
            await running.until(lambda: running.keeper.state.phase is Phase.SWITCHED)
            assert running.keeper.authority.root == other.certificate
            assert set(running.keeper.authority.roots) == {root().pem, other.pem}
            chain = running.keeper.authority.sign(request(), ME, 0, DAY).chain
            assert verify(tmp_path, chain) == ""
            running.renew()
            await running.until(lambda: running.keeper.state.phase is Phase.STEADY)
            assert running.keeper.authority.roots == (other.pem,)
            assert not running.keeper.problems.now

    asyncio.run(main())


def test_a_node_that_never_renews_makes_it_slow_and_not_unsafe(tmp_path: Path, quick: None) -> None:
    async def main() -> None:
        directory, clock = swap(tmp_path / "mount", cert_manager()), Clock()
        async with Running(directory, clock) as running:
            swap(directory, cert_manager(by=Foreign()))
            await running.until(lambda: running.keeper.state.phase is Phase.INTRODUCED)
            clock.ahead = DAY - 60
            await asyncio.sleep(0.2)
            assert running.keeper.state.phase is Phase.INTRODUCED
            clock.ahead = DAY + 1
            await running.until(lambda: running.keeper.state.phase is Phase.SWITCHED)

    asyncio.run(main())


def test_what_others_keep_is_theirs_to_change(tmp_path: Path) -> None:
    async def main() -> None:
        keeper = a_keeper(MemoryStore(""), mount=put(tmp_path, istio()))
        await keeper.start()
        for command in (keeper.introduce, keeper.renew_intermediate, keeper.abandon):
            with pytest.raises(NotYet, match="replace the files there"):
                await command()
        token = keeper.authority.token
        await keeper.renew_leaves()
        assert keeper.authority.token != token

    asyncio.run(main())


def test_nothing_of_a_mounted_ca_is_written_anywhere(tmp_path: Path) -> None:
    directory = put(tmp_path / "mount", istio())
    keeper = a_keeper(tmp_path / "ca", mount=directory)
    asyncio.run(keeper.start())
    assert not (tmp_path / "ca").exists()  # but the roots, where somebody wants them
    asyncio.run(a_keeper(tmp_path / "ca", mount=directory, bundle=tmp_path / "ca" / "roots.pem").start())
    assert [path.name for path in (tmp_path / "ca").iterdir()] == ["roots.pem"]
    assert authority_of(keeper.state).roots == check_roots(directory)


def check_roots(directory: Path) -> tuple[str, ...]:
    material = mounted.read(directory)
    check(material, now(), "here")
    return material.roots


def test_metrics_tell_when_the_end_is(tmp_path: Path) -> None:
    keeper = a_keeper(MemoryStore(""), mount=put(tmp_path, istio(end=timedelta(hours=5))))
    asyncio.run(keeper.start())
    metrics: CaMetrics = keeper._metrics
    assert metrics.chain_left._value.get() == pytest.approx(5 * 3600, abs=10)
    assert metrics.root_left._value.get() == pytest.approx(30 * DAY, abs=600)
