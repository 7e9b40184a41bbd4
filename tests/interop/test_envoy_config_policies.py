"""Policies: what Envoy decides is what our own evaluator decides, case by case, for the identity that the tunnel proved."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

import pytest
import yaml

from mesh.model.identity import Identity
from mesh.model.l7.chains import Chain, Guard, Traffic
from mesh.model.l7.names import cluster_name
from mesh.model.l7.policies import Policy, Request, deny_all, judge
from mesh.model.l7.tcp import TcpDestination, TcpRoute
from mesh.model.l7.translate.authorization import enforced
from mesh.model.manifest import AuthorizationPolicy, parse
from mesh.model.manifest.security import DRY_RUN_ANNOTATION
from tests.interop import envoy, hbone, waypoints
from tests.interop.proxied import asked, eventually
from tests.interop.waypoints import IDENTITIES, PORT, SERVICE, VIP, VIP_ADDRESS, Waypoint

pytestmark = [pytest.mark.interop, pytest.mark.skipif(envoy.binary() is None, reason="Envoy is not installed: make envoy")]

DOMAINS = ("cluster.local", "old.example")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waypoint]:
    with waypoints.running(tmp_path_factory.mktemp("policies"), [chain(())]) as made:
        yield made


_numbers = itertools.count(20000)


def chain(policies: Sequence[Policy]) -> Chain:
    return Chain(SERVICE, PORT, Traffic.HTTP, (VIP_ADDRESS,), table=SERVICE, guard=Guard(tuple(policies)))


def policy(name: str, spec: Mapping[str, Any], **annotations: str) -> AuthorizationPolicy:
    manifest = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": name,
            "namespace": "interop",
            "annotations": {key.replace("_", "."): value for key, value in annotations.items()},
        },
        "spec": {"targetRefs": [{"kind": "Service", "group": "", "name": "app"}], **spec},
    }
    (made,) = parse(yaml.safe_dump(manifest), "test.yaml")
    assert isinstance(made, AuthorizationPolicy)
    return made


def put(rig: Waypoint, policies: Sequence[Policy]) -> None:
    """In force when a chain beside them is, which no policy guards."""
    port = next(_numbers)
    beside = Chain("beside", port, Traffic.HTTP, (VIP_ADDRESS,), table=SERVICE)
    rig.put_chains(chain(policies), beside)
    eventually(lambda: rig.reaches(f"{VIP}:{port}"), "the policies are in force")


@dataclass(frozen=True)
class Case:
    name: str = "client"
    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self) -> Request:
        uri = IDENTITIES[self.name].removeprefix("spiffe://").split("/")
        return Request(
            source_ip=ip_address("127.0.0.1"),
            destination_ip=VIP_ADDRESS,
            destination_port=PORT,
            identity=Identity(uri[0], uri[2], uri[4]),
            remote_ip=ip_address("127.0.0.1"),
            method=self.method,
            path=self.path,
            host=self.headers.get("host", "127.0.0.1"),
            headers=self.headers,
        )


CASES = [
    Case(),
    Case("other"),
    Case("alias"),
    Case(method="POST"),
    Case(path="/admin"),
    Case(path="/admin/users?x=/public"),
    Case(path="/public/a/b"),
    Case(path="/public/../admin"),
    Case(path="/a/users/42/edit"),
    Case(path="/a/users/42/more/edit"),
    Case(headers={"x-team": "red"}),
    Case(headers={"x-team": ""}),
    Case(headers={"host": "Shop.Example"}),
    Case(headers={"host": "shop.example:80"}),
    Case("other", "DELETE", "/admin", {"x-team": "blue", "host": "shop.example"}),
]

ALLOW, DENY = {"action": "ALLOW"}, {"action": "DENY"}


def rule(**parts: Any) -> dict[str, Any]:
    """`source`, `operation` and `when` of one rule."""
    made: dict[str, Any] = {}
    if "source" in parts:
        made["from"] = [{"source": parts["source"]}]
    if "operation" in parts:
        made["to"] = [{"operation": parts["operation"]}]
    if "when" in parts:
        made["when"] = parts["when"]
    return made


RULES: dict[str, dict[str, Any]] = {
    "everything": {},
    "principal": rule(source={"principals": ["cluster.local/ns/interop/sa/client"]}),
    "principal by prefix": rule(source={"principals": ["cluster.local/ns/else*"]}),
    "principal by suffix": rule(source={"principals": ["*/sa/client"]}),
    "any principal": rule(source={"principals": ["*"]}),
    "not a principal": rule(source={"notPrincipals": ["cluster.local/ns/interop/sa/client"]}),
    "namespace": rule(source={"namespaces": ["elsewhere"]}),
    "namespace by prefix": rule(source={"namespaces": ["inter*"]}),
    "not a namespace": rule(source={"notNamespaces": ["*where"]}),
    "account": rule(source={"serviceAccounts": ["client"]}),
    "account elsewhere": rule(source={"serviceAccounts": ["elsewhere/other", "elsewhere/client"]}),
    "trust domain": rule(source={"trustDomains": ["old.*"]}),
    "address": rule(source={"ipBlocks": ["127.0.0.0/8"]}),
    "not an address": rule(source={"notIpBlocks": ["127.0.0.1"]}),
    "another address": rule(source={"ipBlocks": ["10.0.0.0/8", "::1"]}),
    "remote address": rule(source={"remoteIpBlocks": ["127.0.0.1"]}),
    "method": rule(operation={"methods": ["POST", "DEL*"]}),
    "not a method": rule(operation={"notMethods": ["GET"]}),
    "path": rule(operation={"paths": ["/admin", "/public/*"]}),
    "path by suffix": rule(operation={"paths": ["*/users"]}),
    "path by template": rule(operation={"paths": ["/a/{*}/42/{*}"]}),
    "path by template of all": rule(operation={"paths": ["/a/users/{**}"]}),
    "not a path": rule(operation={"notPaths": ["/admin*"]}),
    "host": rule(operation={"hosts": ["shop.example"]}),
    "host by prefix": rule(operation={"hosts": ["SHOP.example*"]}),
    "port": rule(operation={"ports": ["80"]}),
    "other port": rule(operation={"ports": ["81", "8080"]}),
    "not a port": rule(operation={"notPorts": ["80"]}),
    "header": rule(when=[{"key": "request.headers[X-Team]", "values": ["red", "bl*"]}]),
    "any header": rule(when=[{"key": "request.headers[x-team]", "values": ["*"]}]),
    "not a header": rule(when=[{"key": "request.headers[x-team]", "notValues": ["red"]}]),
    "destination address": rule(when=[{"key": "destination.ip", "values": ["10.96.0.0/16"]}]),
    "destination port": rule(when=[{"key": "destination.port", "notValues": ["80"]}]),
    "both halves": rule(source={"namespaces": ["elsewhere"]}, operation={"methods": ["DELETE"], "paths": ["/admin"]}),
    "and a condition": rule(
        source={"principals": ["*"], "notNamespaces": ["interop"]}, when=[{"key": "request.headers[x-team]", "values": ["blue"]}]
    ),
    "identity as a condition": rule(
        when=[{"key": "source.principal", "values": ["*/sa/other"]}, {"key": "source.namespace", "values": ["*"]}]
    ),
    "no token": rule(source={"notRequestPrincipals": ["*"]}),
    "a token": rule(source={"requestPrincipals": ["*"]}),
    "nobody's token": rule(source={"requestPrincipals": ["ann"]}),
    "not nobody's token": rule(source={"notRequestPrincipals": ["ann"]}),
    "two of each": {
        "from": [{"source": {"namespaces": ["elsewhere"]}}, {"source": {"trustDomains": ["old.example"]}}],
        "to": [{"operation": {"methods": ["DELETE"]}}, {"operation": {"paths": ["/"], "methods": ["GET"]}}],
    },
}


def decided(rig: Waypoint, policies: Sequence[Policy]) -> None:
    put(rig, policies)
    for case in CASES:
        answer = rig.ask(case.path, case.method, case.name, **dict(case.headers))
        verdict = judge(Request(**{**vars_of(case.request()), "path": normal(case.path)}), policies)
        assert answer.status == (200 if verdict.allowed else 403), (case, verdict)
        if not verdict.allowed:
            assert answer.body == b"RBAC: access denied"


def vars_of(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in Request.__slots__}


def normal(path: str) -> str:
    return path.replace("/public/../admin", "/admin")


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
@pytest.mark.parametrize("name", list(RULES))
def test_one_rule(rig: Waypoint, name: str, action: str) -> None:
    made = enforced([policy("one", {"action": action, "rules": [RULES[name]]})], DOMAINS)
    decided(rig, made.value.http)


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
@pytest.mark.parametrize("name", list(RULES))
def test_one_rule_where_no_http_is_spoken(rig: Waypoint, name: str, action: str) -> None:
    """Whoever is denied is not connected at all."""
    policies = enforced([policy("one", {"action": action, "rules": [RULES[name]]})], DOMAINS).value.tcp
    port = next(_numbers)
    route = TcpRoute((TcpDestination(cluster_name("meshed.interop.svc.cluster.local", PORT)),))
    rig.put_chains(chain(()), Chain("tcp", port, Traffic.TCP, (VIP_ADDRESS,), tcp=(route,), guard=Guard(tcp=policies)))
    wanted = {who: judge(replace(Case(who).request(), destination_port=port), policies).allowed for who in ("client", "other", "alias")}
    eventually(lambda: {who: rig.reaches(f"{VIP}:{port}", who) for who in wanted} == wanted, f"{name}: {wanted}", 5)


def test_several_policies(rig: Waypoint) -> None:
    made = enforced(
        [
            policy("deny", {**DENY, "rules": [RULES["namespace"], RULES["header"]]}),
            policy("allow-1", {**ALLOW, "rules": [RULES["method"]]}),
            policy("allow-2", {**ALLOW, "rules": [RULES["path"], RULES["host"]]}),
            policy("audit", {"action": "AUDIT", "rules": [{}]}),
        ],
        DOMAINS,
    )
    decided(rig, made.value.http)


def test_nothing_is_allowed_by_a_policy_without_rules(rig: Waypoint) -> None:
    decided(rig, enforced([policy("none", ALLOW)], DOMAINS).value.http)


def test_what_asks_somebody_else_denies_what_it_matches(rig: Waypoint) -> None:
    made = enforced([policy("ask", {"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [RULES["path"]]})], DOMAINS)
    decided(rig, made.value.http)
    assert {note.problem.value for note in made.notes} == {"DeniesMore"}


def test_a_policy_that_cannot_be_read_denies(rig: Waypoint) -> None:
    decided(rig, [deny_all("bad", "interop")])


def test_a_dry_run_denies_nothing_and_is_counted(rig: Waypoint) -> None:
    made = enforced([policy("dry", {**DENY, "rules": [{}]}, **{DRY_RUN_ANNOTATION: "true"})], DOMAINS)
    before = rig.envoy.stats("istio_dry_run_deny_.shadow_denied")
    decided(rig, made.value.http)
    after = rig.envoy.stats("istio_dry_run_deny_.shadow_denied")
    assert sum(after.values()) - sum(before.values()) == len(CASES)


def test_address_of_an_untrusted_header_is_never_the_source(rig: Waypoint) -> None:
    """Neither where a request says so nor where the tunnel's client does."""
    made = enforced([policy("one", {**ALLOW, "rules": [RULES["another address"]]})], DOMAINS)
    put(rig, made.value.http)
    assert rig.ask(x_forwarded_for="10.0.0.1").status == 403
    for name in (b"x-forwarded-for", b"x-envoy-external-address", b"forwarded"):
        sock = rig.client().connect(f"{VIP}:{PORT}", (name, b"10.0.0.1"))
        assert sock is not None
        assert asked(hbone.OverSocket(sock)).status == 403, name
    route = TcpRoute((TcpDestination(cluster_name("meshed.interop.svc.cluster.local", PORT)),))
    remote = enforced([policy("one", {**ALLOW, "rules": [rule(source={"remoteIpBlocks": ["10.0.0.0/8"]})]})], DOMAINS).value.tcp
    port = next(_numbers)
    rig.put_chains(chain(()), Chain("tcp", port, Traffic.TCP, (VIP_ADDRESS,), tcp=(route,), guard=Guard(tcp=remote)))
    assert rig.client().connect(f"{VIP}:{port}", (b"x-forwarded-for", b"10.0.0.1")) is None
