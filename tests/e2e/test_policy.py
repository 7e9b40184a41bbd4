"""Who may talk to whom, on real connections: every kind of rule, every level of mTLS, and what happens when policy changes or is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conversations import CLIENT_FIRST, SERVER_FIRST
from tests.e2e.mesh import METRICS, Mesh, client, running, server
from tests.e2e.playground import eventually, namespace, service_account, strict

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

# Clients: name → namespace, node. `stranger` is not in the mesh.
CLIENTS = {"alice": ("front", "node-1"), "bob": ("front", "node-2"), "carol": ("back", "node-1"), "stranger": ("outside", "node-1")}
MESHED = {"alice", "bob", "carol"}
ALL = set(CLIENTS)
ROOT = "istio-system"


def principal(name: str) -> str:
    return f"cluster.local/ns/{CLIENTS[name][0]}/sa/{name}"


def policy(name: str, ns: str = "shop", *, app: str = "", action: str = "ALLOW", **spec: Any) -> dict[str, Any]:
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": ns},
        "spec": {"action": action, **spec},
    }


def mtls(name: str, ns: str, mode: str, *, app: str = "", ports: dict[int, str] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"mtls": {"mode": mode}}
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
    if ports:
        spec["portLevelMtls"] = {str(port): {"mode": each} for port, each in ports.items()}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": ns},
        "spec": spec,
    }


def source(**fields: list[str]) -> list[dict[str, Any]]:
    return [{"source": fields}]


def ports(*numbers: int) -> list[dict[str, Any]]:
    return [{"operation": {"ports": [str(number) for number in numbers]}}]


@dataclass(frozen=True)
class Case:
    """A server, what is asked of those who come, and who may come: to CLIENT_FIRST (`may`) and to SERVER_FIRST (`second`)."""

    policies: tuple[dict[str, Any], ...]
    may: set[str]
    reason: str
    second: set[str] | None = None
    ns: str = "shop"
    node: str = "node-2"
    may_v6: set[str] | None = None


def one(name: str, may: set[str], reason: str, *, second: set[str] | None = None, may_v6: set[str] | None = None, **spec: Any) -> Case:
    return Case((policy(name, app=name, **spec),), may, reason, second, may_v6=may_v6)


ALICE, BOB = source(principals=[principal("alice")]), source(principals=[principal("bob")])
CASES: dict[str, Case] = {
    "free": Case((), ALL, ""),
    "deny-one": one("deny-one", ALL - {"alice"}, "policy_deny", action="DENY", rules=[{"from": ALICE}]),
    "allow-one": one("allow-one", {"alice"}, "policy_no_allow", rules=[{"from": ALICE}]),
    "deny-goes-first": Case(
        (
            policy("front-may", app="deny-goes-first", rules=[{"from": source(namespaces=["front"])}]),
            policy("front-but-alice", app="deny-goes-first", action="DENY", rules=[{"from": ALICE}]),
        ),
        {"bob"},
        "policy_",
    ),
    "namespace": one("namespace", {"alice", "bob"}, "policy_no_allow", rules=[{"from": source(namespaces=["front"])}]),
    "port": one("port", ALL, "policy_no_allow", second=set(), rules=[{"to": ports(CLIENT_FIRST)}]),
    "block": one("block", {"bob"}, "policy_deny", may_v6=ALL, action="DENY", rules=[{"from": source(ipBlocks=["10.244.1.0/24"])}]),
    "prefix": one("prefix", {"alice", "bob"}, "policy_no_allow", rules=[{"from": source(principals=["cluster.local/ns/front/*"])}]),
    "suffix": one("suffix", {"carol"}, "policy_no_allow", rules=[{"from": source(principals=["*/sa/carol"])}]),
    "presence": one("presence", MESHED, "policy_no_allow", rules=[{"from": source(principals=["*"])}]),
    "not-alice": one("not-alice", {"alice"}, "policy_deny", action="DENY", rules=[{"from": source(notPrincipals=[principal("alice")])}]),
    "any-of-all": one(
        "any-of-all",
        {"alice"},
        "policy_no_allow",
        second={"bob"},
        rules=[{"from": ALICE, "to": ports(CLIENT_FIRST)}, {"from": BOB, "to": ports(SERVER_FIRST)}],
    ),
    "allow-nothing": one("allow-nothing", set(), "policy_no_allow"),
    "l7-deny": one("l7-deny", set(), "policy_deny", action="DENY", rules=[{"to": [{"operation": {"methods": ["POST"]}}]}]),
    "l7-allow": one("l7-allow", set(), "policy_no_allow", rules=[{"to": [{"operation": {"paths": ["/public"]}}]}]),
    "custom": one("custom", set(), "policy_unenforceable", action="CUSTOM", provider={"name": "opa"}, rules=[{}]),
    "strict-workload": Case((mtls("strict-workload", "shop", "STRICT", app="strict-workload"),), MESHED, "mtls_required"),
    "strict-port": Case(
        (mtls("strict-port", "shop", "PERMISSIVE", app="strict-port", ports={CLIENT_FIRST: "STRICT"}),), MESHED, "mtls_required", ALL
    ),
    "strict-but-port": Case(
        (mtls("strict-but-port", "shop", "STRICT", app="strict-but-port", ports={SERVER_FIRST: "DISABLE"}),), MESHED, "mtls_required", ALL
    ),
    "strict-namespace": Case((), MESHED, "mtls_required", ns="vault"),
    "open-in-strict": Case((mtls("open-in-strict", "vault", "PERMISSIVE", app="open-in-strict"),), ALL, "", ns="vault"),
    "sealed": Case((policy("nobody", "sealed", action="DENY", rules=[{}]),), set(), "", ns="sealed", node="node-1"),
    "tolerant": Case((), ALL, "", ns="tolerant"),
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    base = tmp_path_factory.mktemp("policy")
    objects = [namespace(name, ambient=True) for name in ("front", "back", "shop", "vault", "sealed", "tolerant")]
    objects += [namespace("outside", ambient=False), strict("vault"), strict("sealed"), mtls("default", "tolerant", "PERMISSIVE")]
    for name, (ns, node) in CLIENTS.items():
        objects += [service_account(name, ns), client(base, name, ns, node, account=name)]
    for name, case in CASES.items():
        objects += [server(name, case.ns, case.node), *case.policies]
    with running(base, "policy", objects) as mesh:
        eventually("every policy is with the tunnels", lambda: _have(mesh))
        yield mesh


def _have(mesh: Mesh) -> bool:
    wanted = {f"{each['metadata']['namespace']}/{each['metadata']['name']}" for case in CASES.values() for each in case.policies}
    wanted = {key for key in wanted if not key.startswith(("shop/strict", "vault/"))}
    return all(wanted <= {f"{each['namespace']}/{each['name']}" for each in mesh.dump(node)["policies"]} for node in ("node-1", "node-2"))


def who_may(mesh: Mesh, host: str, conversation: str = "client_first") -> set[str]:
    found = set()
    for name in CLIENTS:
        answer = mesh.talk(name, host, conversation)
        if "error" in answer:
            assert answer["error"] in {"ConnectionResetError", "ConnectionRefusedError"}, (name, answer)
        else:
            assert answer["ok"], (name, answer)
            found.add(name)
    return found


@pytest.mark.parametrize("name", CASES)
def test_who_may(mesh: Mesh, name: str) -> None:
    case = CASES[name]
    since = mesh.mark(f"{case.node}.ztunnel")
    may = who_may(mesh, mesh.v4(name))
    assert may == case.may
    for denied in ALL - may:
        line = mesh.line(case.node, since, direction="inbound", **{"src.workload": denied, "dst.workload": name})
        assert line["reason"].startswith(case.reason), line
        assert line["level"] == "error"
        assert line["reason"] in line["error"]
    assert who_may(mesh, mesh.v6(name)) == (case.may if case.may_v6 is None else case.may_v6)
    if case.second is not None:
        assert who_may(mesh, mesh.v4(name), "server_first") == case.second


def test_a_denial_is_one_word_everywhere(mesh: Mesh) -> None:
    """The log line names the policy and its rule; both sides' metrics carry the same words as their logs."""
    since = {node: mesh.mark(f"{node}.ztunnel") for node in ("node-1", "node-2")}
    inbound = mesh.metric("node-2", "culvert_refused_total", reason="policy_deny", direction="inbound")
    outbound = mesh.metric("node-1", "culvert_refused_total", reason="peer_denied", direction="outbound")
    assert not mesh.may("alice", mesh.v4("deny-one"))
    line = mesh.line("node-2", since["node-2"], direction="inbound", reason="policy_deny")
    assert "shop/deny-one rule[0]" in line["error"]
    assert line["src.identity"] == f"spiffe://{principal('alice')}"
    assert line["dst.addr"] == f"{mesh.v4('deny-one')}:15008"
    assert line["dst.hbone_addr"] == f"{mesh.v4('deny-one')}:{CLIENT_FIRST}"
    assert mesh.line("node-1", since["node-1"], direction="outbound", reason="peer_denied")["src.workload"] == "alice"
    assert mesh.metric("node-2", "culvert_refused_total", reason="policy_deny", direction="inbound") == inbound + 1
    assert mesh.metric("node-1", "culvert_refused_total", reason="peer_denied", direction="outbound") == outbound + 1
    labels = {"reporter": "destination", "response_flags": "DENY", "source_workload": "alice", "destination_workload": "deny-one"}
    assert mesh.metric("node-2", "istio_tcp_connections_failed_total", port=METRICS, **labels) >= 1


# Changes


def test_strict_for_the_whole_mesh(mesh: Mesh) -> None:
    """A workload's or a namespace's own mode counts more; without the policy all is as before."""
    everywhere = mtls("default", ROOT, "STRICT")
    mesh.apply(everywhere)
    try:
        eventually("STRICT is in force", lambda: not mesh.may("stranger", mesh.v4("free")))
        assert who_may(mesh, mesh.v4("free")) == MESHED
        assert who_may(mesh, mesh.v4("tolerant")) == ALL
        assert who_may(mesh, mesh.v4("open-in-strict")) == ALL
        assert who_may(mesh, mesh.v4("strict-but-port"), "server_first") == ALL
    finally:
        mesh.delete(everywhere)
    eventually("plaintext is let in again", lambda: mesh.may("stranger", mesh.v4("free")))


def test_a_policy_of_the_root_namespace_is_for_all(mesh: Mesh) -> None:
    """Also for those who were allowed by name."""
    everywhere = policy("not-carol", ROOT, action="DENY", rules=[{"from": source(principals=[principal("carol")])}])
    since = mesh.mark("node-2.ztunnel")
    mesh.apply(everywhere)
    try:
        eventually("it is in force", lambda: not mesh.may("carol", mesh.v4("free")))
        line = mesh.line("node-2", since, reason=lambda reason: reason != "ok", **{"src.workload": "carol"})
        assert line["reason"] == "policy_deny", line
        assert "istio-system/not-carol" in line["error"]
        assert not mesh.may("carol", mesh.v4("suffix"))
        assert who_may(mesh, mesh.v4("tolerant")) == ALL - {"carol"}
    finally:
        mesh.delete(everywhere)
    eventually("it is gone", lambda: mesh.may("carol", mesh.v4("suffix")))


def test_a_change_closes_what_it_denies_and_nothing_else(mesh: Mesh) -> None:
    """Live connections, over mutual TLS and in plaintext; each sees a reset, and the log has the word."""
    host = mesh.v4("free")
    for name in CLIENTS:
        assert mesh.run(name, do="hold", host=host, key="live")["ok"]
    since = mesh.mark("node-2.ztunnel")
    before = mesh.metric("node-2", "culvert_ended_total", reason="policy_revoked", direction="inbound")
    change = policy("revoke", app="free", action="DENY", rules=[{"from": source(notPrincipals=[principal("bob")])}])
    mesh.apply(change)
    try:
        for name in ALL - {"bob"}:
            line = mesh.line("node-2", since, reason="policy_revoked", **{"src.workload": name})
            assert ("src.identity" in line) == (name in MESHED)
            assert mesh.run(name, do="touch", key="live", idle=0)["error"] in {"ConnectionResetError", "BrokenPipeError"}
        assert mesh.run("bob", do="touch", key="live", idle=0)["ok"]
        assert mesh.metric("node-2", "culvert_ended_total", reason="policy_revoked", direction="inbound") == before + 3
        assert who_may(mesh, host) == {"bob"}
    finally:
        mesh.delete(change)
    eventually("it is gone", lambda: mesh.may("stranger", host))


def test_changes_harm_nobody_whom_they_do_not_deny(mesh: Mesh) -> None:
    """Policies come and go at every level; not a connection fails, not one that is open is closed."""
    nobody = [{"from": source(principals=["cluster.local/ns/nowhere/sa/nobody"])}]
    changes = [
        policy("a", app="free", action="DENY", rules=nobody),
        policy("b", app="free", rules=[{}]),
        policy("c", action="DENY", rules=nobody),
        policy("d", ROOT, action="DENY", rules=nobody),
        mtls("e", "shop", "PERMISSIVE", app="free", ports={SERVER_FIRST: "STRICT"}),
    ]
    for name in CLIENTS:
        mesh.run(name, do="begin", key="load", host=mesh.v4("free"), workers=1, held=2, pause=0.01)
    try:
        for _ in range(2):
            mesh.apply(*changes)
            eventually("they are in force", lambda: not mesh.talk("stranger", mesh.v4("free"), "server_first").get("ok"))
            mesh.delete(*changes)
            eventually("they are gone", lambda: mesh.talk("stranger", mesh.v4("free"), "server_first").get("ok"))
    finally:
        results = {name: mesh.run(name, do="end", key="load") for name in CLIENTS}
    for name, result in results.items():
        assert (result["failed"], result["held_failed"]) == ([], []), (name, result)
        assert result["good"] > 20, (name, result)


# What is wrong


def refused(mesh: Mesh) -> dict[str, str]:
    """Field path by object, as `culvert get refused` tells it."""
    listed = yaml.safe_load(mesh.culvert("get", "refused", "-o", "json").stdout)
    return {each["subject"]: each["field"] for each in listed}


def apply_refused(mesh: Mesh, *objects: dict[str, Any]) -> str:
    """Apply manifests of which something is refused; what the command says."""
    path = Path(mesh.directory.parent, f"refused-{mesh.mark('control')}.yaml")
    path.write_text(yaml.safe_dump_all(objects))
    done = mesh.culvert("apply", "-f", str(path), check=False)
    assert done.returncode == 1, done
    return done.stderr


def test_what_is_malformed_denies_what_it_selects(mesh: Mesh) -> None:
    """Each in one file with a good policy, which is applied; nobody else notices."""
    block = policy("bad-block", app="free", action="DENY", rules=[{"from": source(ipBlocks=["10.0.0.0/33"])}])
    port = policy("bad-port", "tolerant", rules=[{"to": [{"operation": {"ports": ["70000"]}}]}])
    good = policy("good", app="suffix", action="DENY", rules=[{"from": source(principals=[principal("carol")])}])
    since = mesh.mark("node-2.ztunnel")
    try:
        said = apply_refused(mesh, block, good, port)
        assert "10.0.0.0/33 is not accepted" in said
        assert refused(mesh) == {
            "AuthorizationPolicy shop/bad-block": "spec.rules[0].from[0].source.ipBlocks[0]",
            "AuthorizationPolicy tolerant/bad-port": "spec.rules[0].to[0].operation.ports[0]",
        }
        for name, key in (("free", "shop/bad-block"), ("tolerant", "tolerant/bad-port")):
            eventually(f"{name} is closed", lambda name=name: who_may(mesh, mesh.v4(name)) == set())
            line = mesh.line("node-2", since, reason="policy_unenforceable", **{"dst.workload": name})
            assert key in line["error"]
        assert who_may(mesh, mesh.v4("suffix")) == set()
        assert who_may(mesh, mesh.v4("deny-one")) == ALL - {"alice"}
        assert who_may(mesh, mesh.v4("prefix")) == {"alice", "bob"}
    finally:
        mesh.culvert("delete", "authorizationpolicy", "bad-block", "-n", "shop", check=False)
        mesh.culvert("delete", "authorizationpolicy", "bad-port", "-n", "tolerant", check=False)
        mesh.culvert("delete", "authorizationpolicy", "good", "-n", "shop", check=False)
    eventually("all is open again", lambda: mesh.may("stranger", mesh.v4("free")) and mesh.may("stranger", mesh.v4("tolerant")))
    assert refused(mesh) == {}
    eventually("and the good one is gone", lambda: mesh.may("carol", mesh.v4("suffix")))


def test_an_invalid_version_leaves_the_last_accepted_in_force(mesh: Mesh) -> None:
    first = policy("versioned", app="free", action="DENY", rules=[{"from": source(principals=[principal("alice")])}])
    broken = policy("versioned", app="free", action="DENY", rules=[{"from": source(principals=["*alice*"])}])
    third = policy("versioned", app="free", action="DENY", rules=[{"from": source(principals=[principal("bob")])}])
    marker = policy("marker", app="prefix", action="DENY", rules=[{"from": source(principals=[principal("bob")])}])
    try:
        mesh.apply(first)
        eventually("the first is in force", lambda: who_may(mesh, mesh.v4("free")) == ALL - {"alice"})
        apply_refused(mesh, broken)
        assert refused(mesh) == {"AuthorizationPolicy shop/versioned": "spec.rules[0].from[0].source.principals[0]"}
        mesh.apply(marker)  # what comes after it is in force: had the broken one any effect, it would show by now
        eventually("a later change is in force", lambda: not mesh.may("bob", mesh.v4("prefix")))
        assert who_may(mesh, mesh.v4("free")) == ALL - {"alice"}
        mesh.apply(third)
        eventually("the third is in force", lambda: who_may(mesh, mesh.v4("free")) == ALL - {"bob"})
        assert refused(mesh) == {}
    finally:
        mesh.delete(first, marker)
    eventually("all are gone", lambda: mesh.may("bob", mesh.v4("free")) and mesh.may("bob", mesh.v4("prefix")))


# The kubelet


def test_the_nodes_own_probe_passes_where_nobody_may(mesh: Mesh) -> None:
    """STRICT and a DENY for all: the pod stays ready, by the node it is on and by no other."""
    probes = mesh.kernel("node-1", "kernel_node_probe")
    eventually("the readiness probe comes in", lambda: mesh.kernel("node-1", "kernel_node_probe") >= probes + 2)
    assert mesh.pod_now("sealed")["ready"]
    for host in (mesh.v4("sealed"), mesh.v6("sealed")):
        with mesh.connect(mesh.layout.node("node-1"), host, CLIENT_FIRST) as sock:
            sock.sendall(b"kubelet")
            assert sock.recv(100).endswith(b"kubelet")
        with pytest.raises(ConnectionResetError), mesh.connect(mesh.layout.node("node-2"), host, CLIENT_FIRST) as other:
            other.recv(1)
        assert not mesh.may("stranger", host), "a pod of the same node is not the node"
