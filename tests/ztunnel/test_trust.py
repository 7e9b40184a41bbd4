"""A tunnel that keeps up with its CA: over real gRPC, with a CA that changes, is behind, is away, or is Istio's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from control.ca.make import Lives, self_made
from control.ca.rotation import Gate, demand, introduce, retire, switch
from mesh.io.grpc import GrpcTarget
from mesh.io.tls import Credentials
from mesh.model.identity import Identity
from tests.ztunnel.double import ControlPlane
from ztunnel import trust
from ztunnel.ca import CertificateAuthority
from ztunnel.certificates import Certificates
from ztunnel.keysmith import Keysmith
from ztunnel.trust import Follower

A, B = Identity("cluster.local", "shop", "a"), Identity("cluster.local", "shop", "b")
OPEN = Gate((), 0, 0)


@pytest.fixture
def control() -> Iterator[ControlPlane]:
    with closing(ControlPlane()) as made:
        yield made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


class Tunnel:
    """What of a tunnel has to do with certificates."""

    def __init__(self, control: ControlPlane, root_file: Path | None = None) -> None:
        self.control = control
        self.ca = CertificateAuthority(GrpcTarget(f"http://127.0.0.1:{control.port}"), Keysmith(), 600)
        self.renewed: list[Identity] = []
        self.certificates = Certificates(self.ca.fetch, self.renewed.append)
        self.follower = Follower(self.ca, self.certificates, root_file)
        for identity in (A, B):
            self.certificates.want(identity, "pod")

    def held(self, identity: Identity = A) -> Credentials | None:
        return self.certificates.current(identity)

    def all_from(self, token: str) -> bool:
        return all((held := self.held(identity)) is not None and held.trust == token for identity in (A, B))

    def said(self) -> tuple[str, int, int, str]:
        """The last report that came to the CA."""
        if not self.control.reports:
            return ("", 0, 0, "")
        last = self.control.reports[-1]
        return (last.token, last.certificates, last.waiting, last.problem)


@contextlib.asynccontextmanager
async def running(control: ControlPlane, root_file: Path | None = None) -> AsyncIterator[Tunnel]:
    tunnel = Tunnel(control, root_file)
    task = asyncio.ensure_future(tunnel.follower.run())
    try:
        await until(lambda: tunnel.all_from(control.state.token))
        yield tunnel
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await tunnel.certificates.close()
        await tunnel.ca.close()


def run(control: ControlPlane, check: Callable[[Tunnel], Awaitable[None]], root_file: Path | None = None) -> None:
    async def main() -> None:
        async with running(control, root_file) as tunnel:
            await check(tunnel)

    asyncio.run(main())


def another_root(control: ControlPlane) -> None:
    """The first step of a change of root."""
    control.change(introduce(control.state, self_made("cluster.local", datetime.now(UTC), Lives()), 0))


def test_all_is_renewed_when_the_ca_says_so_and_the_ca_hears_of_it(control: ControlPlane) -> None:
    async def check(tunnel: Tunnel) -> None:
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))
        first = tunnel.held()
        control.change(demand(control.state, 0))
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))
        assert tunnel.all_from(control.state.token)
        assert tunnel.held() is not first
        assert sorted(tunnel.renewed) == [A, B]
        await asyncio.sleep(0.3)
        assert len(control.issued) == 4  # and not again and again

    run(control, check)


def test_a_change_of_root_step_by_step(control: ControlPlane) -> None:
    async def check(tunnel: Tunnel) -> None:
        old = control.state.current.roots[0]
        another_root(control)
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))
        held = tunnel.held()
        assert held is not None
        assert (set(held.roots_pem), len(held.roots_pem)) == (set(control.state.bundle), 2)
        control.change(switch(control.state, OPEN, 0))
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))
        control.change(retire(control.state, OPEN, 0))
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))
        held = tunnel.held()
        assert held is not None
        assert held.roots_pem == control.state.bundle
        assert old not in held.roots_pem

    run(control, check)


def test_a_replica_that_is_behind_is_asked_again(control: ControlPlane) -> None:
    async def check(tunnel: Tunnel) -> None:
        control.answer_from = control.state
        before = len(control.issued)
        another_root(control)
        await until(lambda: len(control.issued) >= before + 2)
        await asyncio.sleep(0.1)
        assert tunnel.said()[2] == 2  # it does not say that it has what it has not
        control.answer_from = None
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))

    run(control, check)


def test_the_ca_goes_away_and_comes_back(control: ControlPlane) -> None:
    async def check(tunnel: Tunnel) -> None:
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))
        reports = len(control.reports)
        control.disconnect()
        await until(lambda: len(control.reports) > reports and tunnel.said() == (control.state.token, 2, 0, ""))
        assert len(control.issued) == 2  # nothing has changed, nothing is renewed

    run(control, check)


def test_a_pod_that_goes_is_waited_for_no_more(control: ControlPlane) -> None:
    async def check(tunnel: Tunnel) -> None:
        control.refuse_certificates = True
        another_root(control)
        await until(lambda: tunnel.said()[:3] == (control.state.token, 2, 2))
        tunnel.certificates.release("pod")
        await until(lambda: tunnel.said() == (control.state.token, 0, 0, ""))

    run(control, check)


def test_istios_ca_is_not_pestered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "UNKNOWN", 60.0)

    async def check(tunnel: Tunnel) -> None:
        await asyncio.sleep(0.3)
        assert not tunnel.follower.connected
        assert tunnel.certificates.schedule.trust == ""
        assert tunnel.certificates.schedule.held() == (2, 0)
        assert len(tunnel.control.issued) == 2

    with closing(ControlPlane(announces=False)) as control:
        run(control, check)


def test_a_root_file_that_lacks_the_new_root_is_told_until_it_has_it(
    control: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes takes a minute to bring a changed ConfigMap: till then we would lose a control plane that shows the new root."""
    monkeypatch.setattr(trust, "LOOK", 0.05)
    path = tmp_path / "root-cert.pem"
    path.write_text("".join(control.state.bundle))

    async def check(tunnel: Tunnel) -> None:
        another_root(control)
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, f"{path} lacks 1 of the mesh's 2 roots"))
        path.write_text("".join(control.state.bundle))
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))
        path.unlink()
        control.change(demand(control.state, 0))
        await until(lambda: "cannot be read" in tunnel.said()[3])

    run(control, check, path)


def test_a_root_file_of_somebody_elses_is_none_of_the_meshs_business(control: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "public.pem"
    path.write_text(self_made("elsewhere.example", datetime.now(UTC), Lives()).roots[0])

    async def check(tunnel: Tunnel) -> None:
        another_root(control)
        await until(lambda: tunnel.said() == (control.state.token, 2, 0, ""))

    run(control, check, path)
