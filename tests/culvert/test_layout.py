"""Names: who owns what, by prefix."""

from __future__ import annotations

from pathlib import Path

import pytest

from culvert.cli.kinds import resolve_changeable, resolve_kinds
from culvert.cli.output import UsageError
from culvert.cli.target import layout_of
from culvert.config import Config
from culvert.playground import requirements
from culvert.playground.layout import STATE_ROOT, Layout, node_names
from culvert.playground.meshprograms import mesh_programs
from culvert.playground.spec import PlaygroundSpec
from culvert.playground.teardown import _instances

SHOP = Layout("shop", STATE_ROOT / "shop")


@pytest.mark.parametrize("name", ["shop-2", "Shop", "2shop", "", "a" * 16, "shop/x", "..", "shop.x"])
def test_a_name_that_could_own_another_playgrounds_things_is_not_taken(name: str) -> None:
    if not name:
        return  # empty means the default
    with pytest.raises(UsageError, match="not accepted"):
        layout_of(name, None)


def test_no_playgrounds_prefix_covers_anothers_names() -> None:
    other = Layout("shop2", STATE_ROOT / "shop2")
    assert not other.wire.startswith(SHOP.prefix)
    assert not other.pod("node-1", "default", "web").startswith(SHOP.prefix)


def test_namespaces_of_pods_with_the_same_name_differ() -> None:
    assert SHOP.pod("node-1", "a", "web") == "shop-node-1-web.a"
    assert SHOP.pod("node-1", "b", "web") == "shop-node-1-web.b"


def test_agents_instances_are_found_from_files_or_from_namespaces(tmp_path: Path) -> None:
    layout = Layout("shop", tmp_path)
    (tmp_path / "nodes" / "node-1").mkdir(parents=True)
    names = ["shop-control", "shop-wire", "shop-node-2", "shop-node-2-web.default"]
    assert _instances(layout, names) == ["shop-node-1", "shop-node-2"]


def test_the_meshs_processes_and_where_they_run() -> None:
    spec = PlaygroundSpec(node_names(2), True, "/bin", "/bin/python", "/src")
    programs = {item.name: item for item in mesh_programs(SHOP, spec)}
    assert list(programs) == ["control", "node-1.agent", "node-1.ztunnel", "node-2.agent", "node-2.ztunnel"]
    tunnel = programs["node-2.ztunnel"]
    assert (tunnel.program.netns, tunnel.needs_root_ca) == ("shop-node-2", True)
    assert tunnel.program.env["AUTH_TOKEN"] == "/run/culvert/shop/tokens/node-2"
    assert tunnel.program.env["XDS_ADDRESS"] == "https://172.30.0.10:15012"
    assert programs["node-1.agent"].program.env["CULVERT_INSTANCE"] == "shop-node-1"
    assert programs["control"].program.env["CULVERT_MANIFESTS"] == "/run/culvert/shop/objects:/run/culvert/shop/refused"
    assert mesh_programs(SHOP, PlaygroundSpec(node_names(2), False, "/bin", "/bin/python", "/src")) == []


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("pods", "pod"),
        ("po", "pod"),
        ("svc", "service"),
        ("deployment.apps", "deployment"),
        ("authorizationpolicies", "authorizationpolicy"),
        ("ap", "authorizationpolicy"),
        ("policies", "authorizationpolicy peerauthentication requestauthentication"),
        ("policy", "authorizationpolicy peerauthentication requestauthentication"),
        ("vs", "virtualservice"),
        ("virtualservices.networking.istio.io", "virtualservice"),
        ("httproutes", "httproute"),
        ("gateway", "gateway"),
        ("gateways.gateway.networking.k8s.io", "gateway"),
        ("gw", "gateway.networking.istio.io"),
        ("gateways.networking.istio.io", "gateway.networking.istio.io"),
        ("NS", "namespace"),
    ],
)
def test_kinds_as_people_type_them(word: str, kind: str) -> None:
    assert resolve_kinds(word) == resolve_changeable(word) == tuple(kind.split())


@pytest.mark.parametrize("word", ["udproute", "banana", ""])
def test_kinds_that_do_not_exist(word: str) -> None:
    for resolve in (resolve_kinds, resolve_changeable):
        with pytest.raises(UsageError, match=r"known: pod \(po\), service"):
            resolve(word)


def test_nodes_are_only_shown() -> None:
    assert resolve_kinds("nodes") == ("node",)
    with pytest.raises(UsageError, match="nothing that can be changed"):
        resolve_changeable("nodes")


def test_what_is_missing_is_one_sentence_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = Config(path=str(tmp_path), name="culvert", python="python", source=tmp_path)
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 1000)
    assert requirements.missing(config, mesh=True) == ["The playground makes network namespaces and must run as root: try again with sudo."]
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 0)
    found = requirements.missing(config, mesh=True)
    assert [sentence.split(":")[0] for sentence in found] == ["The program nft is not installed", "The kernel programs are not built"]
    assert all("make -C bpf" in sentence or "apt-get" in sentence for sentence in found)
