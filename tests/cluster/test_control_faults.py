"""The control plane, whole, behind a proxy that misbehaves; and with a disk that is full."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import pytest

from control.kept import Snapshot
from mesh.model.codec.proto import ADDRESS_TYPE, AUTHORIZATION_TYPE
from tests.cluster import apiserver, replicas
from tests.cluster.apiserver import ApiServer
from tests.cluster.faultproxy import FaultProxy
from tests.cluster.faults import Cut, Delay, Fault, Stale, call, error, gone_event, too_many
from tests.cluster.kubernetes import CRDS, Background, crd, delete_pod, establish, make_pod, retry, run_pod
from tests.cluster.processes import Program, eventually
from tests.cluster.replicas import NAMESPACE, Replica
from tests.control.plane import Stream, certificate

pytestmark = pytest.mark.cluster
POLICIES = "/apis/security.istio.io/v1/namespaces/{}/authorizationpolicies"
PODS = "/api/v1/pods"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With our CRDs, the control plane's account, and a ztunnel on a node."""
    with apiserver.running(tmp_path_factory.mktemp("faults")) as running:
        establish(running, *(crd(path.stem) for path in sorted(CRDS.glob("*.yaml"))))
        replicas.install(running)
        running.api.post("/api/v1/nodes", {"metadata": {"name": "n1"}})
        running.make_account(NAMESPACE, "ztunnel")
        make_pod(running, NAMESPACE, "ztunnel-1", account="ztunnel")
        yield running


def policy(name: str, namespace: str) -> dict[str, Any]:
    rules = [{"from": [{"source": {"namespaces": ["0"]}}]}]
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"action": "DENY", "rules": rules},
    }


class Tunnel(Background):
    """A node's tunnel: acknowledges whatever comes. `held` by type, and everything that was ever said to be gone."""

    def __init__(self, replica: Replica, token: str) -> None:
        super().__init__()
        self.held: dict[str, set[str]] = {ADDRESS_TYPE: set(), AUTHORIZATION_TYPE: set()}
        self.gone: list[str] = []
        self._address, self._token = f"127.0.0.1:{replica.ports['plaintext'].number}", token

    def __enter__(self) -> Tunnel:
        super().__enter__()
        self._task = self.start(self._follow())
        return self

    async def _follow(self) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            stream = Stream(channel, self._token)
            for type_url in self.held:
                await stream.ask(type_url)
            while True:
                response = await stream.read(3600)
                self.held[response.type_url] |= {resource.name for resource in response.resources}
                self.held[response.type_url] -= set(response.removed_resources)
                self.gone += response.removed_resources
                await stream.ack(response)

    @property
    def connected(self) -> bool:
        return not self._task.done()


# What goes wrong, with which requests, and how often; where it is not said how often, for as long as the others change things.
FAULTS: dict[str, tuple[Fault, str, str, int | None]] = {
    "watches are cut after an event": (Cut(events=1), "WATCH", "", 12),
    "watches are cut within a line": (Cut(events=1, half_line=True), "WATCH", "", 12),
    "watches fail": (error(), "WATCH", "", 12),
    "everything is throttled": (too_many(1), "", "", 12),
    "everything is slow": (Delay(0.3), "", "", None),
    "what was watched is gone, and lists are cut": (Cut(after_bytes=200), "LIST", "", 4),
    "what was watched is gone, and lists are stale": (Stale(), "LIST", PODS, 3),
}


@pytest.mark.timeout(300)
def test_whatever_the_proxy_does_nothing_is_lost_and_no_policy_is_absent(server: ApiServer, tmp_path: Path) -> None:
    name = server.make_namespace(labels={"istio.io/dataplane-mode": "ambient"})
    policies = POLICIES.format(name)
    for each in ("always", "changing"):
        server.api.post(policies, policy(each, name))
    make_pod(server, name, "steady")
    run_pod(server, name, "steady", "10.20.0.1")
    token = server.token(NAMESPACE, "ztunnel", "istio-ca", pod="ztunnel-1")
    tls = server.pki.server("proxy", ["127.0.0.1"])
    with (
        FaultProxy(server.url, server.ca, tls) as proxy,
        replicas.running(tmp_path, server, "behind", url=proxy.url) as (replica,),
        Tunnel(replica, token) as tunnel,
    ):
        constant = {f"{name}/always", f"Kubernetes//Pod/{name}/steady"}
        eventually("what stays", lambda: constant <= tunnel.held[ADDRESS_TYPE] | tunnel.held[AUTHORIZATION_TYPE])
        for number, (fault, verb, path, times) in enumerate(FAULTS.values()):
            begun, before = time.monotonic(), len(proxy.calls)
            rule = proxy.inject(fault, call(verb, path), times)
            if verb == "LIST":
                proxy.inject(gone_event(), call("WATCH", path), 4)
            proxy.cut(call("WATCH", path))
            change(server, name, number)
            # After several failures the source waits for up to 30 s, by chance.
            eventually(f"{fault} to have happened", lambda rule=rule, times=times: rule.hits >= (times or 1), 90)
            proxy.clear()
            eventually(
                f"the last pod after {fault}",
                lambda number=number: f"Kubernetes//Pod/{name}/p{number}-last" in tunnel.held[ADDRESS_TYPE],
                60,
            )
            asked = len(proxy.calls) - before
            kinds = len({seen.path for seen in proxy.calls if seen.verb == "WATCH"})
            assert asked <= kinds * (2 + 2 * (time.monotonic() - begun)), f"{asked} requests of {kinds} kinds"
            assert tunnel.connected
        eventually("it to be up to date", lambda: replica.readiness() == "ready\n", 60)
        assert constant.isdisjoint(tunnel.gone)
        with replicas.running(tmp_path, server, "fresh") as (fresh,):
            eventually("both to serve the same", lambda: resources(replica) == resources(fresh), 20)
            held = {one for kind in resources(fresh).values() for one in kind}
            assert tunnel.held[ADDRESS_TYPE] | tunnel.held[AUTHORIZATION_TYPE] == held
        assert f"Kubernetes//Pod/{name}/p0-0" not in held
        assert f"Kubernetes//Pod/{name}/p0-1" in held


def change(server: ApiServer, name: str, number: int) -> None:
    """Pods come, get addresses, and some of them go; a policy changes all the time, others come and go."""
    policies = POLICIES.format(name)
    for index in range(8):
        pod = f"p{number}-{index}"
        make_pod(server, name, pod)
        run_pod(server, name, pod, f"10.20.{number + 1}.{index + 1}")
        rules = [{"from": [{"source": {"namespaces": [f"{number}-{index}"]}}]}]
        server.api.patch(f"{policies}/changing", {"spec": {"rules": rules}})
        server.api.post(policies, policy(f"short-{number}-{index}", name))
        if index % 2 == 0:
            delete_pod(server, name, pod)
            server.api.delete(f"{policies}/short-{number}-{index}")
        time.sleep(0.05)
    make_pod(server, name, f"p{number}-last")
    run_pod(server, name, f"p{number}-last", f"10.20.{number + 1}.100")


def resources(replica: Replica) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = replica.json("/debug/snapshot")["resources"]
    return found


# Clocks that differ

# What of a token is other than the server would have made it, in seconds from now, and whether it proves anything.
TIMES: dict[str, tuple[dict[str, int], bool]] = {
    "as it is": ({}, True),
    "of a clock half a minute ahead": ({"iat": 30, "nbf": 30}, True),
    "expired for half a minute": ({"iat": -3600, "nbf": -3600, "exp": -30}, True),
    "expired for two minutes": ({"iat": -3600, "nbf": -3600, "exp": -120}, False),
    "of a clock ten minutes ahead": ({"iat": 600, "nbf": 600}, False),
    "issued in ten minutes, but valid": ({"iat": 600}, False),
    "valid in ten minutes": ({"nbf": 600}, False),
}


def test_tokens_of_clocks_that_differ(server: ApiServer, tmp_path: Path) -> None:
    good = server.token(NAMESPACE, "ztunnel", "istio-ca", pod="ztunnel-1")
    with replicas.running(tmp_path, server) as (replica,), Background() as background:

        async def answers(token: str) -> tuple[bool, bool]:
            """Whether it opens a stream, and gets a certificate."""
            async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.ports['plaintext'].number}") as channel:
                stream = Stream(channel, token)
                found = []
                for asking in (stream.start(), certificate(channel, None, token=token)):
                    try:
                        await asking
                        found.append(True)
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        found.append(False)
                return found[0], found[1]

        for what, (changes, proves) in TIMES.items():
            now = int(time.time())
            token = signed(server, good, **{name: now + seconds for name, seconds in changes.items()})
            assert background.run(answers(token)) == (proves, proves), what


def signed(server: ApiServer, like: str, **changes: int) -> str:
    """A token as the server would have signed it."""
    claims = jwt.decode(like, options={"verify_signature": False})
    header = {"kid": jwt.get_unverified_header(like)["kid"]}
    return jwt.encode({**claims, **changes}, server.pki.accounts_key.read_text(), algorithm="RS256", headers=header)


# A disk that is full


class Disk:
    """A file system of 2 MiB that lives in a mount namespace, which goes with the program that holds it."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self._holder = Program(
            "disk",
            ["/usr/bin/unshare", "--mount", "sh", "-c", f"mount -t tmpfs -o size=2m tmpfs {path} && exec sleep 600"],
            path.parent / "disk.log",
        )

    def __enter__(self) -> Disk:
        self._holder.start()
        self._holder.wait_until("the mount", lambda: self.run(f"mountpoint -q {self.path} && echo yes"), 10)
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.stop()

    @property
    def inside(self) -> list[str]:
        return ["/usr/bin/nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--"]

    def run(self, command: str) -> str:
        return subprocess.run([*self.inside, "sh", "-c", command], capture_output=True, text=True, check=False).stdout.strip()


def test_a_full_disk_costs_what_would_have_been_kept_and_nothing_else(private_server: ApiServer, tmp_path: Path) -> None:
    server = private_server
    establish(server, crd("authorizationpolicies.security.istio.io"))
    replicas.install(server)
    name = server.make_namespace(labels={"istio.io/dataplane-mode": "ambient"})
    make_pod(server, name, "before")
    run_pod(server, name, "before", "10.30.0.1")
    retry(lambda: server.api.post(POLICIES.format(name), policy("before", name)))
    with Disk(tmp_path / "disk") as disk:
        replica = Replica("small", tmp_path, server, more={"CULVERT_KEEP": str(disk.path / "keep.db")})
        replica.program.arguments = [*disk.inside, sys.executable, "-m", "control"]

        def pods() -> set[str]:
            return {one for one in replica.workloads() if one.startswith(f"{name}/")}

        try:
            replica.start()
            eventually("all of it to be kept", lambda: replica.kept > 5)  # more than the API server's keys
            assert pods() == {f"{name}/before"}
            disk.run(f"dd if=/dev/zero of={disk.path}/ballast bs=4096; sync")
            for number in range(30):
                make_pod(server, name, f"p{number}")
                run_pod(server, name, f"p{number}", f"10.30.1.{number + 1}")
            delete_pod(server, name, "before")
            eventually("it to be said", lambda: any("kept on disk" in one for one in replica.json("/debug/sync")["problems"]), 20)
            expected = {f"{name}/p{number}" for number in range(30)}
            eventually("all of it to be served all the same", lambda: pods() == expected)
            assert replica.readiness() == "ready\n"
            assert "culvert_keep_failures_total 0.0" not in replica.metrics()
            assert any("cannot be kept" in line["message"] for line in replica.log)
            # A life that finds the disk full and no API server knows what was kept last, whole.
            replica.program.kill()
            server.stop()
            replica.start()
            assert pods() == {f"{name}/before"}
            assert f"{name}/before" in resources(replica)["Authorization"]
            assert "s old" in replica.readiness()
            server.start()
            eventually("what there is now", lambda: pods() == expected, 60)
            disk.run(f"rm {disk.path}/ballast")
            eventually("it to be kept again", lambda: replica.kept > len(expected), 70)
            replica.program.kill()
            disk.run(f"cp {disk.path}/keep.db* {tmp_path}")
            found = Snapshot(tmp_path / "keep.db").read("kubernetes")
            assert found is not None
            assert {row.origin for row in found.rows if row.origin.startswith(f"pods/{name}/")} == {f"pods/{one}" for one in expected}
        finally:
            replica.close()
