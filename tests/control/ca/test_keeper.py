"""Our own CA while it runs: begun once, renewed in time, changed step by step, the same for all replicas, and never with its keys shown."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from control.ca import directory, upkeep
from control.ca.authority import CannotSign
from control.ca.directory import OWN_KEY, OWN_ROOT, DirectoryStore
from control.ca.holders import Holders, Report
from control.ca.keeper import Keeper
from control.ca.make import Lives, RootKeyAway
from control.ca.rotation import NotYet
from control.ca.state import Phase, State
from control.ca.store import Stored
from control.ca.upkeep import Upkeep
from control.ca.view import view
from mesh.model.errors import ConfigError
from tests.control.ca.support import DAY, ME, Clock, Foreign, a_keeper, a_state, private_pem, request, secret_lines, verify

ROOT = Path(__file__).parents[3]
YEAR = 365 * DAY


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TICK", 0.02)
    monkeypatch.setattr(directory, "LOOK", 0.1)


@contextlib.asynccontextmanager
async def running(keeper: Keeper) -> AsyncIterator[Keeper]:
    await keeper.start()
    task = asyncio.create_task(Upkeep(keeper, keeper._metrics).run())
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def chain(keeper: Keeper) -> tuple[str, ...]:
    return keeper.authority.sign(request(), ME, 0, DAY, keeper.now()).chain


def test_begun_once_and_kept(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = a_keeper(tmp_path / "ca", bundle=tmp_path / "roots.pem"), a_keeper(tmp_path / "ca")
        await first.start()
        await second.start()
        assert second.authority.certificate == first.authority.certificate
        assert (tmp_path / "roots.pem").read_text() == first.authority.bundle

    asyncio.run(main())


def test_two_that_start_on_nothing_at_the_same_moment_have_one_ca(tmp_path: Path) -> None:
    barrier = asyncio.Barrier(5)

    class Slow(DirectoryStore):
        """All have seen that there is nothing before any saves."""

        async def load(self) -> Stored | None:
            found = await super().load()
            if found is None:
                await barrier.wait()
            return found

    async def main() -> None:
        keepers = [a_keeper(Slow(tmp_path / "ca")) for _ in range(5)]
        await asyncio.gather(*(keeper.start() for keeper in keepers))
        assert len({keeper.authority.certificate.serial_number for keeper in keepers}) == 1

    asyncio.run(main())


def test_processes_that_start_on_nothing_have_one_ca(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path; from tests.control.ca.support import a_keeper\n"
        "keeper = a_keeper(Path(sys.argv[1])); sys.stdin.readline(); asyncio.run(keeper.start()); print(keeper.authority.token)"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "ca")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    tokens = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(tokens)) == 1


def test_the_intermediate_is_renewed_at_half_of_its_life_and_both_chains_verify(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with running(a_keeper(tmp_path / "ca", clock=clock)) as keeper:
            first, token = keeper.authority, keeper.authority.token
            old = chain(keeper)
            clock.ahead = YEAR / 2 - DAY
            await asyncio.sleep(0.1)
            assert keeper.authority is first
            clock.ahead = YEAR / 2 + DAY
            await until(lambda: keeper.authority.certificate != first.certificate)
            new = chain(keeper)
            assert keeper.authority.root == first.root
            assert keeper.authority.token == token  # nobody has to renew for that
            old_then = first.sign(request(), ME, 0, DAY, keeper.now()).chain
            assert verify(tmp_path, new, at=keeper.now()) == verify(tmp_path, old_then, at=keeper.now()) == ""
            # In the overlap a peer that came with the old chain knows the new one, and the other way round: they share the root.
            assert verify(tmp_path, (*new[:-1], old[-1]), at=keeper.now()) == ""

    asyncio.run(main())


def test_no_renewal_without_end_when_the_root_ends_first(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with running(a_keeper(tmp_path / "ca", clock=clock, lives=Lives(root=timedelta(days=450)))) as keeper:
            clock.ahead = 200 * DAY
            version = keeper.version
            await until(lambda: keeper.version != version)  # up to the root's end
            assert keeper.authority.certificate.not_valid_after_utc == keeper.authority.root.not_valid_after_utc
            clock.ahead = 410 * DAY
            version = keeper.version
            await until(lambda: "the root expires on" in keeper.problems.now.get("expiry", ""))
            await asyncio.sleep(0.1)
            assert keeper.version == version

    asyncio.run(main())


def test_expired_while_running_nothing_is_issued_and_it_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        key = tmp_path / "ca" / "current" / "root.key"
        async with running(a_keeper(tmp_path / "ca", clock=clock)) as keeper:
            secret = key.read_bytes()
            key.unlink()
            clock.ahead = YEAR - DAY / 2
            await until(lambda: "kept elsewhere" in keeper.problems.now.get("renewal", ""))
            assert keeper.authority.sign(request(), ME, 0, DAY, keeper.now()).not_after == keeper.authority.not_after.timestamp()
            clock.ahead = YEAR + 1
            await until(lambda: "expired" in keeper.problems.now.get("expiry", ""))
            assert keeper._metrics.problems.labels("expiry")._value.get() == 1
            with pytest.raises(CannotSign):
                chain(keeper)
            key.write_bytes(secret)
            key.chmod(0o600)
            await until(lambda: not keeper.problems.now)
            assert verify(tmp_path, chain(keeper), at=keeper.now()) == ""

    asyncio.run(main())


def test_expired_while_it_was_off_it_begins_with_a_new_intermediate(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        first = a_keeper(tmp_path / "ca", clock=clock)
        await first.start()
        clock.ahead = 2 * YEAR
        again = a_keeper(tmp_path / "ca", clock=clock)
        await again.start()
        assert again.authority.root == first.authority.root
        assert verify(tmp_path, chain(again), at=again.now()) == ""
        (tmp_path / "ca" / "current" / "root.key").unlink()
        clock.ahead = 4 * YEAR
        with pytest.raises(ConfigError, match="expired on"):
            await a_keeper(tmp_path / "ca", clock=clock).start()

    asyncio.run(main())


def test_the_three_steps_and_a_restart_after_each(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[tuple[str, ...]] = []
        keeper = a_keeper(tmp_path / "ca", bundle=tmp_path / "roots.pem")
        await keeper.start()
        first, tokens = keeper.authority, [keeper.authority.token]
        seen.append(chain(keeper))
        for step, phase in (("introduce", Phase.INTRODUCED), ("switch", Phase.SWITCHED), ("retire", Phase.STEADY)):
            holders = Holders()
            keeper = a_keeper(tmp_path / "ca", bundle=tmp_path / "roots.pem", holders=holders)
            async with running(keeper):
                await until(lambda keeper=keeper: keeper.gate().is_open(keeper.clock()))  # type: ignore[misc]
                await getattr(keeper, step)()
                await getattr(keeper, step)()  # again, for who does not know whether it was done
                assert keeper.state.phase is phase
                assert (tmp_path / "roots.pem").read_text() == keeper.authority.bundle
                tokens.append(keeper.authority.token)
                seen.append(chain(keeper))
        before, introduced, switched, retired = seen
        assert len(set(tokens)) == 4
        # What each was signed by, under the roots of each: only the two ends do not accept each other.
        for leaf, between, roots in ((b[0], b[1:-1], a[-1]) for a in seen for b in seen):
            refused = verify(tmp_path, (leaf, *between, roots))
            apart = {leaf in (before[0], introduced[0]) and roots == retired[-1], leaf in (switched[0], retired[0]) and roots == before[-1]}
            assert (refused != "") == (True in apart)
        assert keeper.authority.root != first.root
        assert keeper.authority.roots == (retired[-1],)

    asyncio.run(main())


def test_a_step_waits_for_the_nodes_of_the_mesh(tmp_path: Path) -> None:
    async def main() -> None:
        holders = Holders(lambda: ["node-1", "node-2"])
        keeper = a_keeper(tmp_path / "ca", holders=holders)
        async with running(keeper):
            node = holders.join("node-1", "peer")
            await keeper.introduce()
            await asyncio.sleep(keeper.store.settle)
            with pytest.raises(NotYet, match="node-1, node-2"):
                await keeper.switch()
            holders.report(node, Report(keeper.authority.token, 5, 2), keeper.authority.token, keeper.clock())
            await asyncio.sleep(0.1)
            with pytest.raises(NotYet, match="node-1, node-2"):  # it has begun
                await keeper.switch()
            holders.report(node, Report(keeper.authority.token, 5, 0), keeper.authority.token, keeper.clock())
            await until(lambda: "node-1" in keeper.state.confirmed)
            with pytest.raises(NotYet, match="renewed: node-2"):
                await keeper.switch()
            assert keeper.state.phase is Phase.INTRODUCED
            await keeper.switch(force=True)
            assert keeper.state.phase is Phase.SWITCHED

    asyncio.run(main())


def test_replicas_know_of_each_others_nodes(tmp_path: Path) -> None:
    """Each replica sees its own followers; a step of one waits for those of the other."""

    async def main() -> None:
        nodes = ["node-1", "node-2"]
        holders = [Holders(lambda: nodes) for _ in nodes]
        keepers = [a_keeper(tmp_path / "ca", holders=each) for each in holders]
        async with running(keepers[0]), running(keepers[1]):
            numbers = [each.join(node, "peer") for each, node in zip(holders, nodes, strict=True)]
            await keepers[0].introduce()
            await until(lambda: keepers[1].state.phase is Phase.INTRODUCED)
            assert keepers[0].authority.token == keepers[1].authority.token
            holders[0].report(numbers[0], Report(keepers[0].authority.token, 1), keepers[0].authority.token, keepers[0].clock())
            await until(lambda: keepers[1].state.confirmed == {"node-1"})
            await asyncio.sleep(keepers[0].store.settle)
            for keeper in keepers:
                assert keeper.gate().waiting == ("node-2",)
            holders[1].report(numbers[1], Report(keepers[1].authority.token, 1), keepers[1].authority.token, keepers[1].clock())
            await until(lambda: keepers[0].gate().is_open(keepers[0].clock()))
            await keepers[0].switch()

    asyncio.run(main())


def test_replicas_know_of_each_others_proxies(tmp_path: Path) -> None:
    """Of those of which no mesh says that they are there: who follows another replica, or was given its certificate by it."""

    async def main() -> None:
        holders = [Holders(), Holders()]
        keepers = [a_keeper(tmp_path / "ca", holders=each) for each in holders]
        async with running(keepers[0]), running(keepers[1]):
            proxy = holders[1].join("shop/cart-1", "peer")
            holders[1].issued("shop/web-1", keepers[1].clock() + 60, keepers[1].clock())
            await keepers[0].introduce()
            await until(lambda: keepers[0].gate().waiting == ("shop/cart-1", "shop/web-1"))
            assert keepers[1].authority.token == keepers[0].authority.token
            holders[1].report(proxy, Report(keepers[1].authority.token, 1), keepers[1].authority.token, keepers[1].clock())
            await until(lambda: keepers[0].gate().waiting == ("shop/web-1",))
            await asyncio.sleep(keepers[0].store.settle)
            with pytest.raises(NotYet, match="renewed: shop/web-1"):
                await keepers[0].switch()

    asyncio.run(main())


def test_a_state_that_vanishes_or_breaks_is_no_reason_for_another_ca(tmp_path: Path) -> None:
    async def main() -> None:
        home = tmp_path / "ca"
        async with running(a_keeper(home)) as keeper:
            before = keeper.authority
            (home / "current").rename(home / "elsewhere")
            await until(lambda: "gone" in keeper.problems.now.get("store", ""))
            with pytest.raises(OSError, match="gone"):
                await keeper.renew_leaves()
            assert keeper.authority is before
            chain(keeper)
            (home / "elsewhere").rename(home / "current")
            await until(lambda: not keeper.problems.now)
            broken = home / "version-99"
            broken.mkdir()
            (broken / "state.json").write_text("{")
            (home / "new").symlink_to("version-99")
            (home / "new").rename(home / "current")
            await until(lambda: "state.json" in keeper.problems.now.get("store", ""))
            assert keeper.authority is before

    asyncio.run(main())


def test_a_ca_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    DirectoryStore(tmp_path).write(dataclasses.replace(a_state(), trust_domain="other.example"), "")
    with pytest.raises(ConfigError, match=r"cluster.local is not accepted; accepted: other.example"):
        asyncio.run(a_keeper(tmp_path).start())


def test_a_key_that_does_not_fit_is_refused_and_left_alone(tmp_path: Path) -> None:
    DirectoryStore(tmp_path).write(a_state(), "")
    key = tmp_path / "current" / "intermediate.key"
    wrong = a_state().current.key
    key.write_text(wrong)
    with pytest.raises(ConfigError, match="a key that is not that of"):
        asyncio.run(a_keeper(tmp_path).start())
    assert key.read_text() == wrong


def test_a_root_of_ones_own_to_begin_with(tmp_path: Path) -> None:
    own = Foreign()
    (tmp_path / OWN_ROOT).write_text(own.pem)
    (tmp_path / OWN_KEY).write_text(private_pem(own.key))
    with pytest.raises(ConfigError, match="0600"):
        asyncio.run(a_keeper(tmp_path).start())
    (tmp_path / OWN_KEY).chmod(0o600)
    keeper = a_keeper(tmp_path, bundle=tmp_path / OWN_ROOT)
    asyncio.run(keeper.start())
    assert keeper.authority.root == own.certificate
    assert verify(tmp_path, chain(keeper)) == ""


def test_without_its_roots_key_it_signs_and_makes_no_intermediate(tmp_path: Path) -> None:
    async def main() -> None:
        first = a_keeper(tmp_path)
        await first.start()
        (tmp_path / "current" / "root.key").unlink()
        keeper = a_keeper(tmp_path)
        await keeper.start()
        chain(keeper)
        with pytest.raises(RootKeyAway, match="put it back"):
            await keeper.renew_intermediate()
        await keeper.renew_leaves()

    asyncio.run(main())


def test_a_disk_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        bundle = tmp_path / "published" / "roots.pem"
        async with running(a_keeper(tmp_path / "ca", bundle=bundle)) as keeper:
            bundle.unlink()
            bundle.parent.rmdir()
            bundle.parent.write_text("in its place")
            await keeper.introduce()
            assert str(bundle) in keeper.problems.now["publish"]
            assert keeper.state.phase is Phase.INTRODUCED  # who reads that file does not confirm: the next step waits

    asyncio.run(main())


def secrets(state: State) -> set[str]:
    """Lines of every private key of a state."""
    found = [state.current.key, state.current.root_key, *((state.next.key, state.next.root_key) if state.next is not None else ())]
    return {line for text in found for line in secret_lines(text)}


def test_no_key_is_ever_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a log, in what /debug/ca shows, in a repr, in an error."""

    async def main() -> None:
        hidden: set[str] = set()
        shown: list[str] = []
        clock = Clock()
        async with running(a_keeper(tmp_path / "ca", clock=clock)) as keeper:

            def look() -> None:
                hidden.update(secrets(keeper.state))
                shown.append(json.dumps(view(keeper)))
                material = keeper.state.current
                pair = keeper.authority.serving(["x"], timedelta(hours=1))
                hidden.update(secret_lines(pair.key.decode()))
                things = (keeper.state, keeper._stored, keeper, keeper.authority, keeper.authority._signer, material, keeper.gate(), pair)
                shown.extend(f"{thing!r} {thing!s}" for thing in things)
                shown.append(str(keeper.authority.sign(request(), ME, 0, 60)))

            look()
            for step in (keeper.renew_leaves, keeper.renew_intermediate, keeper.introduce):
                await step()
                look()
            for step in (keeper.switch, keeper.retire):
                await step(force=True)
                look()
            (tmp_path / "ca" / "current" / "intermediate.key").write_text(next(iter(hidden)))
            with pytest.raises(ConfigError) as raised:
                await a_keeper(tmp_path / "ca").start()
            shown.append(f"{raised.value!r} {raised.value}")
            await until(lambda: True)
        assert len(hidden) > 20
        text = "\n".join((*shown, caplog.text, *(str(record.__dict__) for record in caplog.records)))
        assert "authority in force" in text
        assert "PRIVATE KEY" not in text
        assert not [line for line in hidden if line in text]

    caplog.set_level(logging.DEBUG)
    asyncio.run(main())


def test_the_view_says_what_there_is(tmp_path: Path) -> None:
    async def main() -> None:
        holders = Holders(lambda: ["node-1", "node-2"])
        keeper = a_keeper(tmp_path / "ca", holders=holders)
        async with running(keeper):
            number = holders.join("node-1", "10.0.0.1")
            await keeper.introduce()
            holders.report(number, Report(keeper.authority.token, 2, 0), keeper.authority.token, keeper.clock())
            shown = view(keeper)
            assert (shown["phase"], [root["role"] for root in shown["roots"]]) == ("introduced", ["signs", "introduced"])
            assert [(entry["holder"], entry["renewed"]) for entry in shown["holders"]] == [("node-1", True), ("node-2", False)]
            assert shown["gate"]["open"] is False
            assert shown["signing"][0]["key"] == "secp256r1"
            assert x509.load_pem_x509_certificate(keeper.state.current.chain[0].encode()).serial_number == int(
                shown["signing"][0]["serial"], 16
            )

    asyncio.run(main())
