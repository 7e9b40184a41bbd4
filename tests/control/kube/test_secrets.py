"""Files in a Secret: replaced whole or not at all, and never somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.kube.errors import Conflict, Missing, Unreachable
from control.kube.secrets import TYPE, Files, SecretFiles
from mesh.model.errors import ConfigError
from tests.control.kube.fake import Broken, FakeCluster, Status

WHERE = ("Secret", "istio-system", "culvert-ca")


def run(tmp_path: Path, test: Callable[[FakeCluster, SecretFiles], Any]) -> None:
    async def main() -> None:
        cluster = FakeCluster()
        api = cluster.api(tmp_path)
        await test(cluster, SecretFiles(api, "istio-system", "culvert-ca", "keys"))
        await api.close()

    asyncio.run(main())


def test_what_is_in_them_is_not_shown() -> None:
    assert "SECRET" not in repr(Files({"root.key": b"SECRET"}, "1"))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, files: SecretFiles) -> None:
        assert await files.load() is None
        content = {"root.key": b"\0\xff", "empty": b""}
        version = await files.save(content, "")
        found = await files.load()
        assert found is not None
        assert (found.content, found.version) == (content, version)
        secret = cluster.get(*WHERE)
        assert secret["type"] == TYPE
        assert secret["metadata"]["labels"]["app.kubernetes.io/part-of"] == "culvert"
        assert secret["metadata"]["annotations"] == {"culvert.dev/purpose": "keys"}

    run(tmp_path, test)


def test_of_two_who_save_at_once_one_is_refused(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, files: SecretFiles) -> None:
        results = await asyncio.gather(files.save({"a": b"1"}, ""), files.save({"a": b"2"}, ""), return_exceptions=True)
        (version,) = [one for one in results if isinstance(one, str)]
        assert sum(isinstance(one, Conflict) for one in results) == 1
        results = await asyncio.gather(files.save({"b": b"1"}, version), files.save({"b": b"2"}, version), return_exceptions=True)
        assert sum(isinstance(one, Conflict) for one in results) == 1

    run(tmp_path, test)


@pytest.mark.parametrize("broken", [{"type": "Opaque", "data": {"a": "eA=="}}, {"type": TYPE, "data": {"a": "!"}}])
def test_somebody_elses_secret_is_neither_read_nor_overwritten(tmp_path: Path, broken: dict[str, Any]) -> None:
    async def test(cluster: FakeCluster, files: SecretFiles) -> None:
        cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": WHERE[2], "namespace": WHERE[1]}, **broken})
        with pytest.raises(ConfigError) as error:
            await files.load()
        assert "eA==" not in str(error.value)
        with pytest.raises(Conflict):
            await files.save({"a": b"mine"}, "")

    run(tmp_path, test)


def test_a_namespace_that_is_not_there_is_told_with_what_makes_it(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, files: SecretFiles) -> None:
        cluster.fail(Status(404), "create", "secrets", times=1)
        with pytest.raises(Missing, match=r"kubectl apply -f deploy/control/account.yaml -f deploy/control/rbac.yaml"):
            await files.save({"a": b"1"}, "")

    run(tmp_path, test)


def test_a_change_by_somebody_else_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.kube.secrets.POLL", 0.005)

    async def test(cluster: FakeCluster, files: SecretFiles) -> None:
        version = await files.save({"a": b"1"}, "")
        waiting = asyncio.create_task(files.changed(version))
        cluster.fail(Broken(), "get", "secrets", times=2)
        cluster.fail(Status(403), "get", "secrets", times=1)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await files.save({"a": b"2"}, version)
        await waiting

    run(tmp_path, test)


def test_a_server_that_is_away_is_not_an_empty_secret(tmp_path: Path) -> None:
    async def test(cluster: FakeCluster, files: SecretFiles) -> None:
        cluster.fail(Broken())
        with pytest.raises(Unreachable):
            await files.load()

    run(tmp_path, test)
