"""`culvert status --control`: against a real control plane."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from culvert.cli.app import app
from culvert.cli.sync import source_state, state_of
from tests.control.plane import Plane, Stream, pod, running


def asked(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["status", *arguments])


def test_who_has_which_version(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1")}) as plane, plane.channel() as channel:
            url = f"http://127.0.0.1:{plane.plane.ports['http']}"
            await Stream(channel).start()
            behind = Stream(channel, "token-of-node-number-two")
            await behind.ask("type.googleapis.com/istio.security.Authorization")
            await behind.read()
            async with asyncio.timeout(10):
                while not any(state_of(client) == "synced" for client in plane.plane.xds.debug()):
                    await asyncio.sleep(0.01)
            result = await asyncio.to_thread(asked, "--control", url)
            assert result.exit_code == 1, "node n2 has not answered"
            lines = [line.split() for line in result.stdout.splitlines()]
            assert ["files", "current"] in lines
            states = {(line[0], line[1]): line[3] for line in lines if line[:1] == ["node"]}
            assert states == {("node", "n1"): "synced", ("node", "n2"): "waiting"}
            found = json.loads((await asyncio.to_thread(asked, "--json", "--control", url)).stdout)
            assert {client["node"] for client in found["clients"]} == {"n1", "n2"}

    asyncio.run(main())


def test_what_is_refused_is_told_and_what_follows_from_it(tmp_path: Path) -> None:
    route = json.dumps(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"hosts": "web", "http": 3},
        }
    )

    async def main() -> None:
        async with running(tmp_path, {"a.yaml": pod("a", "10.0.0.1"), "bad.yaml": route}) as plane:
            url = f"http://127.0.0.1:{plane.plane.ports['http']}"
            await said_of(plane, {"objects": 1, "denying": [], "shut": False})
            result = await asyncio.to_thread(asked, "--control", url)
            assert result.exit_code == 1
            assert f"1 object is refused; {url}/debug/refusals says why" in unwrapped(result.stderr)
            assert "denied" not in result.output

            (plane.manifests / "bin.yaml").write_bytes(b"\x90\x90")
            await said_of(plane, None)
            result = await asyncio.to_thread(asked, "--control", url)
            assert result.exit_code == 1
            said = unwrapped(result.stderr)
            assert "the mesh is shut" in said
            assert f"all traffic is denied to every pod of the whole mesh, since {plane.manifests}/bin.yaml is refused" in said
            assert "2 objects are refused" in said

    async def said_of(plane: Plane, expected: dict[str, Any] | None) -> None:
        """Until this is said of refusals; None: that the mesh is shut."""
        async with asyncio.timeout(10):
            while True:
                found = json.loads((await plane.http("/debug/sync"))[1])["refused"]
                if found == expected or (expected is None and found["shut"]):
                    return
                await asyncio.sleep(0.01)

    asyncio.run(main())


def unwrapped(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "ftp://x"])
def test_what_is_no_address_is_a_usage_error(url: str) -> None:
    assert "expected http://HOST:PORT" in str(asked("--control", url).exception)


def test_nobody_there() -> None:
    assert "does not answer" in str(asked("--control", "http://127.0.0.1:9").exception)


def kind(**changes: Any) -> dict[str, Any]:
    return {"synced": True, "error": None, "waiting_seconds": None, **changes}


@pytest.mark.parametrize(
    ("kinds", "state"),
    [
        ([kind()], "synced"),
        ([], "behind"),
        ([kind(), kind(synced=False)], "behind"),
        ([kind(synced=False, waiting_seconds=1.5)], "waiting"),
        ([kind(synced=False, error="no good")], "rejected"),
    ],
)
def test_states_of_clients(kinds: list[dict[str, Any]], state: str) -> None:
    assert state_of({"types": dict(enumerate(kinds))}) == state


def test_states_of_sources() -> None:
    assert source_state({"synced": False, "stale_seconds": None}) == "not read"
    assert source_state({"synced": True, "stale_seconds": 4.0}) == "stale"
    assert source_state({"synced": True, "stale_seconds": None}) == "current"
