"""A private Kubernetes control plane without nodes: etcd and kube-apiserver, with RBAC, in a few seconds.

    with running(tmp_path) as server:
        server.apply(text)
        server.kubectl("wait", "--for=condition=Accepted", "httproute/shop")
        Api(server.url, server.ca, server.token("shop", "cart", "istio-ca"))

No controller runs, unless `ControllerManager` is started: namespaces get no default service account (`make_namespace` makes one), and
deleted ones stay `Terminating`. The server lives outside any node, so it reaches webhooks by `url`.

`watch_cache=False` lets every watch read etcd itself, so that a compaction is seen at once. With the cache on, as on every real
cluster, the server remembers enough to hide a compaction; there, `expire()` is what ends all that clients hold.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import ports, tools
from tests.cluster.api import Api, ApiError, Object
from tests.cluster.etcd import Etcd
from tests.cluster.pki import Pki
from tests.cluster.processes import Program, accepts, eventually

ISSUER = "https://kubernetes.default.svc.cluster.local"
SERVICE_RANGES, SERVICE_ADDRESS = "10.96.0.0/16,fd00:96::/112", "10.96.0.1"
START_SECONDS = 60.0
KUBECTL_SECONDS = 60.0

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Place:
    """`inside` enters its network namespace, `host` is its address seen from here, `advertise` seen from nodes."""

    inside: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    advertise: str = ""


class ApiServer:
    def __init__(self, directory: Path, etcd: Etcd, place: Place = Place(), *, watch_cache: bool = True, flags: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.etcd = etcd
        self._port = ports.take()
        self._place = place
        self.url = f"https://{place.host}:{self._port.number}"
        self.pki = Pki(directory / "pki")
        self.ca = self.pki.ca
        self.kubeconfig = self.pki.kubeconfig(directory / "kubeconfig", self.url, self.pki.admin_token)
        self.api = Api(self.url, self.ca, self.pki.admin_token)
        addresses = {"127.0.0.1", SERVICE_ADDRESS, place.host, place.advertise} - {""}
        certificate, key = self.pki.server("apiserver", sorted(addresses))
        self.program = Program(
            "kube-apiserver",
            [
                *place.inside,
                tools.find("kube-apiserver"),
                f"--etcd-servers={etcd.url}",
                f"--secure-port={self._port.number}",
                *_flags_of(place, self.pki),
                f"--service-cluster-ip-range={SERVICE_RANGES}",
                f"--tls-cert-file={certificate}",
                f"--tls-private-key-file={key}",
                f"--client-ca-file={self.pki.ca}",
                f"--token-auth-file={self.pki.tokens}",
                "--allow-privileged=true",
                "--enable-aggregator-routing=true",
                f"--service-account-issuer={ISSUER}",
                f"--service-account-key-file={self.pki.accounts_key}",
                f"--service-account-signing-key-file={self.pki.accounts_key}",
                f"--watch-cache={str(watch_cache).lower()}",
                "--profiling=false",
                *flags,
            ],
            directory / "apiserver.log",
        )

    @property
    def port(self) -> int:
        return self._port.number

    # Its life

    def start(self) -> None:
        self.program.start()
        self.program.wait_until("the API server to be ready", self._ready, START_SECONDS)

    def stop(self) -> None:
        self.program.stop()

    def kill(self) -> None:
        self.program.kill()

    def restart(self) -> None:
        """The same objects and keys on the same port."""
        self.stop()
        self.start()

    def expire(self) -> None:
        """Every resourceVersion that a client holds becomes too old: 410 for the watches that come back with it."""
        self.stop()
        self.etcd.compact()
        self.start()

    def close(self) -> None:
        self.stop()
        self._port.release()

    def _ready(self) -> bool:
        if not accepts(self._port.number, self._place.host):
            return False
        try:
            return self.api.text("/readyz") == "ok"
        except (OSError, ApiError):
            return False

    # What users do

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True, kubeconfig: Path | None = None) -> str:
        """Standard output. A failure is an AssertionError with kubectl's own words, or, without `check`, what it wrote on both outputs."""
        command = [str(tools.find("kubectl")), f"--cache-dir={self.directory / 'kubectl'}", *arguments]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig), "KUBERC": "off"}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=KUBECTL_SECONDS, env=environment, check=False)
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
            return done.stdout
        return done.stdout + done.stderr

    def apply(self, objects: str | Iterable[Mapping[str, Any]], *, manager: str = "tests", check: bool = True) -> str:
        """YAML or objects, by server-side apply."""
        text = objects if isinstance(objects, str) else yaml.safe_dump_all(objects)
        return self.kubectl("apply", "--server-side", "--force-conflicts", f"--field-manager={manager}", "-f", "-", stdin=text, check=check)

    def get(self, path: str, **query: str | int) -> Object:
        return self.api.get(path, **query)

    def make_namespace(self, name: str = "", labels: Mapping[str, str] | None = None) -> str:
        """A new namespace, of a name that no other test has, and its default service account."""
        name = name or f"test-{os.getpid()}-{next(_numbers)}"
        self.api.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}})
        try:
            self.make_account(name, "default")
        except ApiError as error:
            if error.status != 409:  # a controller manager was faster
                raise
        return name

    def make_account(self, namespace: str, name: str) -> None:
        self.api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})

    # Credentials

    def token(self, namespace: str, account: str, audience: str = "", pod: str = "", seconds: int = 3600) -> str:
        """A service account's token by TokenRequest: for the API server's own audience if none is named, bound to a pod if one is."""
        spec: Object = {"expirationSeconds": seconds, "audiences": [audience] if audience else []}
        if pod:
            uid = self.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["metadata"]["uid"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        made = self.api.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": spec})
        token: str = made["status"]["token"]
        return token

    def review(self, token: str, *audiences: str) -> Object:
        """What the server says of a token: the status of a TokenReview."""
        body = {"spec": {"token": token, "audiences": [*audiences]}}
        status: Object = self.api.post("/apis/authentication.k8s.io/v1/tokenreviews", body)["status"]
        return status

    def as_account(self, namespace: str, account: str) -> Api:
        return Api(self.url, self.ca, self.token(namespace, account))

    def kubeconfig_for(self, namespace: str, account: str, url: str = "") -> Path:
        """A kubeconfig file with a service account's token; `url` for a proxy in front of the server."""
        path = self.directory / f"kubeconfig-{namespace}-{account}-{next(_numbers)}"
        return self.pki.kubeconfig(path, url or self.url, self.token(namespace, account))

    def kubeconfig_for_user(self, user: str, *groups: str) -> Path:
        """A kubeconfig file with a user's client certificate."""
        path = self.directory / f"kubeconfig-{next(_numbers)}"
        return self.pki.kubeconfig(path, self.url, certificate=self.pki.client(user, *groups))

    def admin_kubeconfig(self, url: str) -> Path:
        """The administrator's, through a proxy at `url`."""
        return self.pki.kubeconfig(self.directory / f"kubeconfig-{next(_numbers)}", url, self.pki.admin_token)


def _flags_of(place: Place, pki: Pki) -> list[str]:
    if not place.advertise:
        # A loopback address cannot be published as the endpoint of the Service `kubernetes`; without nodes nobody would use it.
        return [f"--bind-address={place.host}", "--endpoint-reconciler-type=none", "--authorization-mode=RBAC"]
    certificate, key = pki.client("kube-apiserver", "system:masters")
    return [
        "--bind-address=0.0.0.0",
        f"--advertise-address={place.advertise}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={certificate}",
        f"--kubelet-client-key={key}",
    ]


class ControllerManager:
    """kube-controller-manager beside a server: namespaces that are deleted go, Deployments get pods, Services get EndpointSlices."""

    def __init__(self, server: ApiServer, inside: Sequence[str] = (), flags: Sequence[str] = ()) -> None:
        self._server = server
        self._port = ports.take()
        self.program = Program(
            "kube-controller-manager",
            [
                *inside,
                tools.find("kube-controller-manager"),
                f"--kubeconfig={server.kubeconfig}",
                f"--service-account-private-key-file={server.pki.accounts_key}",
                "--use-service-account-credentials=true",
                f"--root-ca-file={server.pki.ca}",
                f"--cluster-signing-cert-file={server.pki.ca}",
                f"--cluster-signing-key-file={server.pki.ca_key}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--secure-port={self._port.number}",
                *flags,
            ],
            server.directory / "controller-manager.log",
        )

    def start(self) -> None:
        self.program.start()
        # Its first visible deed: the default namespace gets its service account.
        path = "/api/v1/namespaces/default/serviceaccounts"
        self.program.wait_until("controllers to work", lambda: self._server.api.items(path), START_SECONDS)

    def close(self) -> None:
        self.program.stop()
        self._port.release()


@contextmanager
def running(directory: Path, *, watch_cache: bool = True, flags: Sequence[str] = ()) -> Iterator[ApiServer]:
    """etcd and an API server on loopback, gone afterwards."""
    etcd = Etcd(directory / "etcd")
    try:
        etcd.start()
        server = ApiServer(directory, etcd, watch_cache=watch_cache, flags=flags)
        try:
            server.start()
            yield server
        finally:
            server.close()
    finally:
        etcd.close()
        _forget(directory / "etcd" / "data")


@contextmanager
def controllers(server: ApiServer) -> Iterator[ControllerManager]:
    manager = ControllerManager(server)
    try:
        manager.start()
        yield manager
    finally:
        manager.close()


def wait_gone(server: ApiServer, path: str, seconds: float = 30.0) -> None:
    def gone() -> bool:
        try:
            server.get(path)
        except ApiError as error:
            return error.status == 404
        return False

    eventually(f"{path} to be gone", gone, seconds)


def _forget(directory: Path) -> None:
    """etcd's files are 130 MB from the start, and pytest keeps the directories of three runs."""
    subprocess.run(["rm", "-rf", str(directory)], check=False)
