"""The control plane under its own role and nothing else, and the API server's record of what it asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from control.auth.issuer import Issuer
from control.auth.kubernetes import TokenReviews
from control.kube.conditions import Condition, Wanted
from control.kube.elector import Elector
from control.kube.errors import Conflict
from control.kube.events import Announcer, Subject
from control.kube.lease import Timing
from control.kube.secrets import SecretFiles
from control.kube.status import StatusWriter
from control.kube.webhook import WebhookBundle
from control.sources.kubernetes.kinds import KNOWN
from mesh.model.manifest import Key
from tests.cluster import apiserver
from tests.cluster.apiserver import ApiServer
from tests.cluster.kubernetes import CRDS, Follower, crd, establish, make_pod, retry

pytestmark = pytest.mark.cluster
DEPLOY = Path(__file__).parents[2] / "deploy" / "control"
USER = "system:serviceaccount:istio-system:culvert-control"
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [USER]}, {"level": "None"}],
}
Need = tuple[str, str, str]
"""(group, resource with subresource, verb); for what is no resource ("", path, verb)."""
WITHOUT_STATUS = {"referencegrants.gateway.networking.k8s.io"}


def documents(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((DEPLOY / name).read_text()) if one]


def granted() -> set[Need]:
    found: set[Need] = set()
    for one in documents("rbac.yaml"):
        for rule in one.get("rules", ()):
            for verb in rule["verbs"]:
                found |= {("", path, verb) for path in rule.get("nonResourceURLs", ())}
                found |= {(group, resource, verb) for group in rule.get("apiGroups", ()) for resource in rule.get("resources", ())}
    return found


def kinds() -> dict[str, dict[str, Any]]:
    """The spec of every CRD of ours, by its name."""
    return {path.stem: crd(path.stem, loose=True) for path in sorted(CRDS.glob("*.yaml"))}


def test_the_role_names_every_kind_of_ours_and_no_other() -> None:
    groups = {"networking.istio.io", "security.istio.io", "telemetry.istio.io", "gateway.networking.k8s.io"}
    specs = {name: one["spec"] for name, one in kinds().items()}
    assert len(specs) > 10
    expected = {(spec["group"], spec["names"]["plural"], verb) for spec in specs.values() for verb in ("list", "watch")}
    with_status = [spec for name, spec in specs.items() if name not in WITHOUT_STATUS]
    expected |= {(spec["group"], f"{spec['names']['plural']}/status", "patch") for spec in with_status}
    assert {need for need in granted() if need[0] in groups} == expected
    rules = [rule for one in documents("rbac.yaml") for rule in one.get("rules", ())]
    (about_crds,) = (rule for rule in rules if "customresourcedefinitions" in rule.get("resources", ()))
    assert sorted(about_crds["resourceNames"]) == sorted(specs)


def test_nothing_may_be_done_to_the_objects_themselves() -> None:
    for group, resource, verb in granted():
        assert "*" not in (group, resource, verb)
        if verb not in ("get", "list", "watch"):
            assert "/" in resource or resource in (
                "events",
                "leases",
                "secrets",
                "tokenreviews",
                "validatingwebhookconfigurations",
            ), f"{verb} {resource}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    directory = tmp_path_factory.mktemp("rbac")
    policy = directory / "audit.yaml"
    policy.write_text(yaml.safe_dump(AUDIT))
    flags = [f"--audit-policy-file={policy}", f"--audit-log-path={directory / 'audit.log'}", "--audit-log-mode=blocking"]
    with apiserver.running(directory, flags=flags) as server:
        establish(server, *kinds().values())
        for name in ("account.yaml", "rbac.yaml"):
            server.apply((DEPLOY / name).read_text())
        yield server


def test_the_server_takes_everything_that_is_deployed(server: ApiServer) -> None:
    said = server.kubectl("apply", "--server-side", "--dry-run=server", "-f", str(DEPLOY))
    kinds_said = {line.partition("/")[0] for line in said.splitlines()}
    assert {"deployment.apps", "service", "poddisruptionbudget.policy", "serviceaccount"} <= kinds_said


class Always:
    leading = True


class ControlPlane(Follower):
    """Everything of ours that asks an API server for something."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__(server.kubeconfig_for("istio-system", "culvert-control"))
        self.server = server

    def __enter__(self) -> ControlPlane:
        super().__enter__()
        timing = Timing(lease=3.0, renew=2.0, retry=0.2)
        self.elector = self.call(lambda: Elector(self.api, "istio-system", "one", timing=timing))
        self.writer = self.call(lambda: StatusWriter(self.api, self.source, self.elector))
        self.announcer = self.call(lambda: Announcer(self.api, self.elector, "one"))
        self.issuer = self.call(lambda: Issuer(self.api))
        self.door = self.call(lambda: TokenReviews(self.api, self.source, issuer=self.issuer))
        self.files = SecretFiles(self.api, "istio-system", "culvert-ca", "the mesh's certificate authority")
        self.webhook = self.call(lambda: WebhookBundle(self.api, Always(), lambda: "-----BEGIN CERTIFICATE-----\n"))
        for work in (self.elector.run(), self.writer.run(), self.announcer.run(), self.issuer.run()):
            self.start(work)
        return self


def test_it_works_under_its_own_role_and_uses_all_of_it(server: ApiServer) -> None:
    name = server.make_namespace()
    make_pod(server, name, "web")
    paths = _an_object_of_each_kind(server, name)
    server.apply((DEPLOY / "webhook.yaml").read_text())
    with ControlPlane(server) as plane:
        plane.synced(60)
        plane.agrees(server)
        plane.eventually("it to lead", lambda: plane.elector.leading)
        plane.eventually("the keys", lambda: plane.issuer.known)
        token = server.token(name, "default", "istio-ca", pod="web")
        assert plane.run(plane.door.authenticate([("authorization", f"Bearer {token}")])) is not None
        for key in paths:
            plane.call(plane.writer.want, key, Wanted(1, (Condition("Accepted", "True", "Accepted"),)))
        plane.eventually("every status", lambda: all(_status(server, path) for path in paths.values()), 30)
        for generation in (1, 2):
            subject = Subject("v1", "Pod", name, "web", "uid")
            plane.call(plane.announcer.report, subject, "Refused", "it is not", generation)
            plane.eventually(
                "the event",
                lambda generation=generation: (
                    [one["count"] for one in server.api.items(f"/api/v1/namespaces/{name}/events")] == [generation]
                ),
            )
        plane.run(_use_secret(plane.files))
        assert plane.run(plane.webhook.ensure())
        assert not plane.run(plane.webhook.ensure()), "once is enough"
        bundle = server.get("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/culvert-control")["webhooks"][0]
        assert bundle["clientConfig"]["caBundle"]
        assert bundle["clientConfig"]["service"]["path"] == "/validate"
        # A kind that is not served any more is asked about; with the webhook that nobody answers, no object stands in the way.
        server.kubectl("delete", "validatingwebhookconfiguration", "culvert-control")
        server.kubectl("delete", "crd", "telemetries.telemetry.istio.io", "--wait=false")
        plane.eventually("the kind to be gone", lambda: plane.source.kind("Telemetry") is None, 30)
        plane.synced()
    used, refused = _asked(server)
    assert refused == set()
    assert used - _of_everybody() == granted()


def _an_object_of_each_kind(server: ApiServer, namespace: str) -> dict[Key, str]:
    """Behind schemas that take anything, before the webhook is there: those are not what this is about. Key → path."""
    made: dict[Key, str] = {}
    for name, one in kinds().items():
        spec = one["spec"]
        group, kind, plural = spec["group"], spec["names"]["kind"], spec["names"]["plural"]
        version = next(version["name"] for version in spec["versions"] if version["storage"])
        where = f"namespaces/{namespace}/" if spec["scope"] == "Namespaced" else ""
        path = f"/apis/{group}/{version}/{where}{plural}"
        body = {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "x"}, "spec": {}}
        retry(lambda path=path, body=body: server.api.post(path, body))
        if name not in WITHOUT_STATUS:
            made[Key(KNOWN[group, kind].type, namespace if where else "", "x")] = f"{path}/x"
    return made


def _counts(server: ApiServer, namespace: str) -> list[int]:
    return [one["count"] for one in server.api.items(f"/api/v1/namespaces/{namespace}/events")]


def _status(server: ApiServer, path: str) -> bool:
    return bool(server.get(path).get("status", {}).get("conditions"))


async def _use_secret(files: SecretFiles) -> None:
    assert await files.load() is None
    first = await files.save({"root.key": b"\0secret", "root.pem": b"x"}, "")
    with pytest.raises(Conflict):
        await files.save({}, "")
    second = await files.save({"root.key": b"another"}, first)
    with pytest.raises(Conflict):
        await files.save({}, first)
    found = await files.load()
    assert found is not None
    assert (dict(found.content), found.version) == ({"root.key": b"another"}, second)


def _asked(server: ApiServer) -> tuple[set[Need], set[Need]]:
    """What was asked for under our name: answered, and refused."""
    answered: set[Need] = set()
    refused: set[Need] = set()
    for line in (server.directory / "audit.log").read_text().splitlines():
        entry = json.loads(line)
        ref = entry.get("objectRef")
        if ref:
            resource = ref["resource"] + (f"/{ref['subresource']}" if ref.get("subresource") else "")
            need = (ref.get("apiGroup", ""), resource, entry["verb"])
        else:
            need = ("", entry["requestURI"].partition("?")[0], entry["verb"])
        (refused if entry["responseStatus"]["code"] == 403 else answered).add(need)
    return answered, refused


def _of_everybody() -> set[Need]:
    """What every service account may ask."""
    return {("", "/apis", "get")}
