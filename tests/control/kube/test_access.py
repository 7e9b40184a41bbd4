"""How a cluster is reached, credentials that end, and requests that are given up."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightkube.resources.core_v1 import Namespace

from control.kube.access import Access
from control.kube.client import Api
from control.kube.errors import Busy, Forbidden, Garbled, Invalid, KubeError, Missing, ServerFailed, TooLong, Unauthorized, Unreachable
from mesh.model.errors import ConfigError
from tests.control.kube.fake import Broken, FakeCluster, Hang, Page, Raw, Status
from tests.control.kube.rig import eventually, namespace
from tests.io.certs import mesh_ca


def kubeconfig(path: Path, user: dict[str, Any], context: str = "x") -> Path:
    content = {
        "clusters": [{"name": "c", "cluster": {"server": "http://fake.test"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "there"}}],
        "current-context": context,
    }
    path.write_text(json.dumps(content))
    return path


async def ask(api: Api) -> int:
    return (await api.call("list", "namespaces", "/api/v1/namespaces")).status


def only(token: str) -> Callable[[str], bool]:
    return lambda credential: credential == f"Bearer {token}"


# Configuration


@pytest.mark.parametrize(
    ("text", "context"),
    [
        (None, ""),
        ("", ""),
        ("{", ""),
        ("[]", ""),
        ("{}", ""),
        ("clusters: [{name: c}]", ""),
        ("good", "nowhere"),
        (b"\xff\xfe", ""),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, text: str | bytes | None, context: str) -> None:
    path = tmp_path / "kubeconfig"
    if text == "good":
        kubeconfig(path, {"token": "t"})
    elif isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        Access(path, context).load()
    assert str(path) in str(error.value)


def test_a_kubeconfig_that_is_not_there_and_a_context_that_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    with pytest.raises(ConfigError) as error:
        Access(path).load()
    assert str(error.value) == f"{path}: no file is not accepted; accepted: a kubeconfig"
    kubeconfig(path, {"token": "t"})
    with pytest.raises(ConfigError) as error:
        Access(path, "y").load()
    assert str(error.value) == f"{path}: context: 'y' is not accepted; accepted: one of its contexts: x"
    kubeconfig(path, {"token": "t"}, context="gone")
    with pytest.raises(ConfigError) as error:
        Access(path).load()
    assert str(error.value) == f"{path}: current-context: 'gone' is not accepted; accepted: one of its contexts: x"


def test_certificates_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    content = json.loads(kubeconfig(path, {"token": "t"}).read_text())
    (tmp_path / "ca.crt").write_text("none")
    content["clusters"][0]["cluster"] = {"server": "https://fake.test", "certificate-authority": "ca.crt"}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError):
        asyncio.run(_made(path))


async def _made(path: Path) -> None:
    Api(Access(path))


def test_inside_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("token", "one"), ("namespace", "istio-system"), ("ca.crt", mesh_ca().root_pem)):
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST"):
        Access(account=tmp_path).load()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    config = Access(account=tmp_path).load()
    assert (config.cluster.server, config.namespace) == ("https://[fd00::1]:443", "istio-system")

    async def test() -> None:
        cluster = FakeCluster()
        cluster.authorize = only("one")
        api = Api(Access(account=tmp_path), cluster)
        assert await ask(api) == 200
        # The kubelet puts a new one there before the old one ends.
        (tmp_path / "token").write_text("two")
        cluster.authorize = only("two")
        assert await ask(api) == 200
        await api.close()

    asyncio.run(test())


PLUGIN = """#!{python}
import json, os
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
print(json.dumps({{"apiVersion": info["apiVersion"], "kind": "ExecCredential", "status": {{"token": "for-" + info["apiVersion"]}}}}))
"""


@pytest.mark.parametrize("version", ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"])
def test_credential_plugins(tmp_path: Path, version: str) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(PLUGIN.format(python=sys.executable))
    plugin.chmod(0o700)

    async def test() -> None:
        cluster = FakeCluster()
        cluster.authorize = only(f"for-{version}")
        api = Api(Access(kubeconfig(tmp_path / "kubeconfig", {"exec": {"apiVersion": version, "command": str(plugin)}})), cluster)
        assert await ask(api) == 200
        await api.close()

    asyncio.run(test())


# Credentials that end


def test_a_credential_that_is_not_accepted_is_read_anew(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = FakeCluster()
        cluster.authorize = only("two")
        cluster.put(namespace("shop"))
        path = kubeconfig(tmp_path / "kubeconfig", {"token": "one"})
        api = Api(Access(path), cluster)
        kubeconfig(path, {"token": "two"})
        with pytest.raises(Unauthorized):
            await ask(api)
        assert await ask(api) == 200
        found = await api.typed("get", "namespaces", lambda client: client.get(Namespace, "shop"))
        assert found.metadata is not None
        assert found.metadata.name == "shop"
        await api.close()

    asyncio.run(test())


HTML, OF_JSON = {"Content-Type": "text/html"}, {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("page", "means"),
    [
        (Page(301, headers={"Location": "http://elsewhere.test/"}), Invalid),
        (Page(401), Unauthorized),
        (Page(404), Missing),
        (Page(429), Busy),
        (Page(500, b"[]", OF_JSON), ServerFailed),
        (Page(500, b"null", OF_JSON), ServerFailed),
        (Page(500, b'{"code": "x", "details": []}', OF_JSON), ServerFailed),
        (Page(502, b"<html>", HTML), ServerFailed),
        (Page(502, b"\xff\xfe", HTML), ServerFailed),
        (Page(503), ServerFailed),
        (Page(503, headers={"Retry-After": "7"}), Busy),
        (Page(503, b'{"code": 503, "details": {"retryAfterSeconds": 7}}'), Busy),
    ],
    ids=lambda value: f"{value.code} {value.body!r}" if isinstance(value, Page) else value.__name__,
)
def test_a_failure_means_the_same_however_it_was_asked(tmp_path: Path, page: Page, means: type[KubeError]) -> None:
    async def test() -> None:
        cluster = FakeCluster()
        cluster.fail(page)
        api = cluster.api(tmp_path)
        said = []
        for asking in (api.call("get", "namespaces", "/x"), api.typed("get", "namespaces", lambda client: client.get(Namespace, "shop"))):
            with pytest.raises(means) as raised:
                await asking
            assert type(raised.value) is means
            said.append((str(raised.value), getattr(raised.value, "after", None)))
        assert said[0] == said[1]
        await api.close()

    asyncio.run(test())


def test_what_cannot_be_read_anew_stays(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = FakeCluster()
        cluster.authorize = only("one")
        path = kubeconfig(tmp_path / "kubeconfig", {"token": "one"})
        api = Api(Access(path), cluster)
        path.write_text("{")
        await api.reload()
        assert await ask(api) == 200
        await api.close()

    asyncio.run(test())


# Requests


def test_what_goes_wrong_has_one_form(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = FakeCluster()
        api = cluster.api(tmp_path)
        for fault, expected in (
            (Broken(), Unreachable),
            (Status(403), Forbidden),
            (Status(401), Unauthorized),
            (Raw(b"<html>"), Garbled),
        ):
            rule = cluster.fail(fault, "get", "namespaces")
            with pytest.raises(expected):
                await api.typed("get", "namespaces", lambda client: client.get(Namespace, "shop"))
            rule.times = 0
        cluster.fail(Raw(b"x" * 1001), "list", "pods", times=1)
        with pytest.raises(TooLong):
            await api.call("list", "pods", "/api/v1/pods", most=1000)
        cluster.fail(Hang(), "list", "pods")
        with pytest.raises(Unreachable, match="no answer in time"):
            await api.call("list", "pods", "/api/v1/pods", patience=0.01)
        await api.close()

    asyncio.run(test())


def test_an_error_of_the_caller_stays_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        api = FakeCluster().api(tmp_path)
        query = {"watch": "1", "resourceVersion": "100", "timeoutSeconds": "1"}
        with pytest.raises(ValueError, match="mine"):
            async with api.stream("watch", "pods", "/api/v1/pods", query=query, silence=1.0):
                raise ValueError("mine")
        await api.close()

    asyncio.run(test())


def test_a_request_that_is_cancelled_ends_by_itself(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = FakeCluster()
        api = cluster.api(tmp_path)
        task = asyncio.create_task(ask(api))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: not api._strays)
        assert len(cluster.seen("list", "namespaces")) == 1
        await api.close()

    asyncio.run(test())
