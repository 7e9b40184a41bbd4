"""Manifests on their way in: whole objects are taken or refused, and a refused policy goes on to deny."""

from __future__ import annotations

from pathlib import Path

import pytest

from culvert.playground.apply import NoManifests, apply, check, forget_refused, manifest_files, remembered_refusals
from culvert.playground.documents import ObjectKey, dump, load_documents
from culvert.playground.editing import LabelChange, check_labels, delete_objects, find_objects, set_labels
from culvert.playground.layout import Layout
from culvert.playground.store import Store, source_of
from culvert.playground.wanted import interpret
from mesh.model.errors import ConfigError

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {ports: ["%s"]}}]}]}
"""
DENY_KEY = ObjectKey("AuthorizationPolicy", "security.istio.io", "shop", "closed")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout("test", tmp_path / "test")
    for directory in found.directories(("node-1",)):
        directory.mkdir(parents=True)
    return found


def join(*documents: str) -> str:
    return "---\n".join(documents)


def names(layout: Layout) -> list[str]:
    return sorted(key.name for key in Store(layout.applied).load())


def test_created_unchanged_configured(layout: Layout) -> None:
    verbs = []
    for port in ("80", "80", "81"):
        applied, refusals = apply(layout, {"a.yaml": join(NAMESPACE, SERVICE.replace("port: 80", f"port: {port}"))})
        assert refusals == []
        verbs.append([item.verb for item in applied])
    assert verbs == [["created", "created"], ["unchanged", "unchanged"], ["unchanged", "configured"]]


def test_an_object_remembers_the_users_own_file_and_line(layout: Layout) -> None:
    apply(layout, {"/srv/a.yaml": join(NAMESPACE, SERVICE)})
    assert sorted(source_of(document) for document in Store(layout.applied).load().values()) == ["/srv/a.yaml:1", "/srv/a.yaml:5"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (SERVICE.replace("port: 80", "port: 80000"), "spec.ports[0].port"),
        (SERVICE.replace("selector", "selektor"), "spec.selektor"),
        (SERVICE.replace("shop", "nowhere"), "metadata.namespace"),
        (SERVICE.replace("kind: Service", "kind: Sevrice"), "kind"),
        (SERVICE.replace("name: web", "name: Web!"), "metadata.name"),
        (POLICY % "99999", "spec.rules[0].to[0].operation.ports[0]"),
    ],
)
def test_one_bad_object_is_refused_whole_and_the_rest_goes_on(layout: Layout, bad: str, field: str) -> None:
    applied, refusals = apply(layout, {"a.yaml": join(NAMESPACE, bad), "b.yaml": SERVICE.replace("web", "other")})
    assert [item.key.name for item in applied] == ["shop", "other"]
    assert {refusal.field for refusal in refusals} == {field}
    assert all(refusal.where.startswith("a.yaml:") and refusal.accepted for refusal in refusals)
    assert remembered_refusals(layout) == refusals


def test_text_that_is_no_yaml_spoils_only_its_document(layout: Layout) -> None:
    applied, refusals = apply(layout, {"a.yaml": join(NAMESPACE, "oops: [\n", SERVICE)})
    assert [item.key.name for item in applied] == ["shop", "web"]
    assert len(refusals) == 1


def test_an_object_given_twice_is_refused(layout: Layout) -> None:
    applied, refusals = apply(layout, {"a.yaml": join(NAMESPACE, SERVICE), "b.yaml": SERVICE})
    assert [item.key.name for item in applied] == ["shop"]
    assert {refusal.subject for refusal in refusals} == {"Service shop/web"}


def test_refusals_of_a_file_are_forgotten_when_it_is_applied_again(layout: Layout) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, SERVICE.replace("80", "0")), "b.yaml": "x: ["})
    assert len(remembered_refusals(layout)) == 2
    apply(layout, {"a.yaml": join(NAMESPACE, SERVICE)})
    assert [refusal.where.partition(":")[0] for refusal in remembered_refusals(layout)] == ["b.yaml"]


def test_a_refused_policy_is_held_for_the_control_plane_until_it_is_fixed(layout: Layout) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "99999")})
    held = list(layout.refused_objects.iterdir())
    assert len(held) == 1
    assert "99999" in held[0].read_text()
    apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "80")})
    assert list(layout.refused_objects.iterdir()) == []
    assert names(layout) == ["closed", "shop"]


def test_a_policy_in_force_stays_when_its_update_is_refused(layout: Layout) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "80")})
    _, refusals = apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "99999")})
    assert len(refusals) == 1
    assert list(layout.refused_objects.iterdir()) == []
    assert Store(layout.applied).load()[DENY_KEY].body["spec"]["rules"] == [{"to": [{"operation": {"ports": ["80"]}}]}]


@pytest.mark.parametrize(
    ("right", "wrong", "denies"),
    [
        ("kind: AuthorizationPolicy", "kind: AuthorizationPolcy", False),
        ("security.istio.io/v1", "security.istio.oi/v1", False),
        ("name: closed", "name: Closed!", True),
        ("namespace: shop", "namespace: default", True),
    ],
)
def test_a_policy_in_force_stays_when_its_update_is_misspelt(layout: Layout, right: str, wrong: str, denies: bool) -> None:
    """What is told to be another denies until it is mended; and the one in force stays in any case."""
    apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "80")})
    misspelt = (POLICY % "80").replace(right, wrong).replace("ports:", "prots:" if denies else "ports:")
    assert misspelt != POLICY % "80"
    _, refusals = apply(layout, {"a.yaml": join(NAMESPACE, misspelt)})
    assert refusals
    assert len(list(layout.refused_objects.iterdir())) == denies
    assert DENY_KEY in Store(layout.applied).load()


@pytest.mark.parametrize(
    "beside",
    ["kind: AuthorizationPolicy", "kind: AuthorizationPolcy", "kind: PeerAuthentcation"],
    ids=["the policy itself", "another of its name", "one that may be it"],
)
def test_one_policy_in_force_makes_up_for_one_misspelt_text(layout: Layout, beside: str) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "80")})
    misspelt = (POLICY % "80").replace("kind: AuthorizationPolicy", "kind: AuthorizationPolcy")
    other = (POLICY % "80").replace("kind: AuthorizationPolicy", beside)
    apply(layout, {"b.yaml": join(misspelt, other)})
    assert len(list(layout.refused_objects.iterdir())) == 2 - (beside == "kind: AuthorizationPolicy")
    apply(layout, {"b.yaml": misspelt})
    assert list(layout.refused_objects.iterdir()) == []


def test_a_policy_that_does_not_say_its_namespace_is_no_version_of_one_that_does(layout: Layout) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "80")})
    apply(layout, {"b.yaml": (POLICY % "80").replace("namespace:", "nmespace:")})
    assert len(list(layout.refused_objects.iterdir())) == 1


def test_a_misspelt_policy_is_no_version_of_what_is_called_so_and_is_none(layout: Layout) -> None:
    misspelt = (POLICY % "80").replace("kind: AuthorizationPolicy", "kind: AuthorizationPolcy").replace("closed", "web")
    apply(layout, {"a.yaml": join(NAMESPACE, SERVICE, misspelt)})
    assert len(list(layout.refused_objects.iterdir())) == 1


def test_deleting_a_refused_policy_ends_its_denying(layout: Layout) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "99999")})
    assert delete_objects(layout, [DENY_KEY]).objects == [DENY_KEY]
    assert list(layout.refused_objects.iterdir()) == []


def dropped(layout: Layout, kind: str, name: str, namespace: str | None = "shop") -> list[str]:
    """What `culvert delete KIND NAME` deletes and lets go of."""
    keys = find_objects(layout, kind, name, namespace, refused=True)
    deleted = [str(key) for key in delete_objects(layout, keys).objects]
    return deleted + [f"refused {subject}" for subject in forget_refused(layout, {}, keys)]


def test_one_refusal_is_dropped_by_its_name_and_nothing_else_goes(layout: Layout) -> None:
    settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: shop}\n"
    broken = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec: {replicas: x}\n"
    apply(layout, {"a.yaml": join(NAMESPACE, settings, SERVICE.replace("name: web", "name: w"), broken, ROUTES % "{}")})
    before = names(layout)
    assert not find_objects(layout, "configmap", "settings", None)  # nothing that could be labelled
    assert dropped(layout, "configmap", "settings") == ["refused ConfigMap shop/settings"]
    assert dropped(layout, "deployment", "web") == ["refused Deployment shop/web"]
    assert dropped(layout, "gateway.networking.istio.io", "edge") == ["refused Gateway.networking.istio.io shop/edge"]
    assert (names(layout), remembered_refusals(layout)) == (before, [])


def test_a_refused_namespace_takes_nothing_along(layout: Layout) -> None:
    apply(layout, {"a.yaml": SERVICE.replace("shop", "default")})
    apply(layout, {"b.yaml": NAMESPACE.replace("{name: shop}", "{name: default, labels: {a: 'b c'}}")})
    assert dropped(layout, "namespace", "default", None) == ["refused Namespace default"]
    assert names(layout) == ["web"]


def test_an_object_that_is_refused_anew_is_refused_where_it_is_now(layout: Layout) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, SERVICE.replace("80", "0"), POLICY % "99999")})
    apply(layout, {"copy.yaml": join(SERVICE.replace("80", "0"), POLICY % "99998")})
    assert {refusal.where.partition(":")[0] for refusal in remembered_refusals(layout)} == {"copy.yaml"}
    (held,) = layout.refused_objects.glob("*.yaml")
    assert "99998" in held.read_text()
    forget_refused(layout, {"copy.yaml": ""}, ())
    assert (remembered_refusals(layout), list(layout.refused_objects.glob("*.yaml"))) == ([], [])


@pytest.mark.parametrize("noted", ["/srv/shop.yaml:3", "stdin:1"])
def test_where_an_object_once_came_from_does_not_count_in_a_file_that_is_applied_anew(layout: Layout, noted: str) -> None:
    note = f"metadata: {{annotations: {{culvert.dev/source: '{noted}'}}, "
    manifests = join(*(text.replace("metadata: {", note) for text in (NAMESPACE, SERVICE, SERVICE.replace("name: web", "name: Bad!"))))
    _, refusals = apply(layout, {"/tmp/copy.yaml": manifests})
    assert [refusal.where for refusal in refusals] == ["/tmp/copy.yaml:12"]
    assert sorted(source_of(document) for document in Store(layout.applied).load().values()) == ["/tmp/copy.yaml:1", "/tmp/copy.yaml:5"]
    assert remembered_refusals(layout) == refusals


def labelled(value: str) -> str:
    return NAMESPACE.replace("{name: shop}", f"{{name: shop, labels: {{from: {value}}}}}")


@pytest.mark.parametrize(
    ("layers", "label", "fields"),
    [
        ([labelled("a"), labelled("b")], "b", []),
        ([labelled("'no label'"), labelled("b")], "b", []),
        ([labelled("a"), labelled("'no label'")], "a", ["metadata.labels.from"]),
        ([labelled("'no label'"), labelled("'nor this'"), labelled("c")], "c", []),
    ],
)
def test_what_is_applied_later_goes_on_top(layout: Layout, layers: list[str], label: str, fields: list[str]) -> None:
    applied, refusals = apply(layout, *({f"{number}.yaml": text} for number, text in enumerate(layers)))
    assert [str(item.key) for item in applied] == ["Namespace shop"]
    (document,) = Store(layout.applied).load().values()
    assert document.body["metadata"]["labels"] == {"from": label}
    assert [refusal.value for refusal in refusals] == ["'no label'"] * len(fields)
    assert remembered_refusals(layout) == refusals


def test_a_namespace_may_come_in_a_later_layer_than_what_is_in_it(layout: Layout) -> None:
    applied, refusals = apply(layout, {"a.yaml": SERVICE}, {"b.yaml": NAMESPACE})
    assert ([item.key.name for item in applied], refusals) == (["web", "shop"], [])


def test_a_policy_that_is_refused_in_two_layers_is_held_once(layout: Layout) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, POLICY % "99999")}, {"b.yaml": POLICY % "99998"})
    (held,) = layout.refused_objects.glob("*.yaml")
    assert "99998" in held.read_text()
    assert [refusal.where for refusal in remembered_refusals(layout)] == ["b.yaml:4"]


def test_a_namespace_takes_what_is_in_it_along(layout: Layout) -> None:
    apply(layout, {"a.yaml": join(NAMESPACE, SERVICE, NAMESPACE.replace("shop", "other"))})
    delete_objects(layout, [ObjectKey("Namespace", "", "", "shop")])
    assert names(layout) == ["other"]


def test_labels_set_by_hand_stay_through_an_apply_unless_the_manifest_says_otherwise(layout: Layout) -> None:
    apply(layout, {"a.yaml": NAMESPACE})
    key = find_objects(layout, "namespace", "shop", None)[0]
    set_labels(layout, key, [LabelChange.parse("mode=ambient"), LabelChange.parse("team=a")])

    def labels() -> object:
        return Store(layout.applied).load()[key].body["metadata"].get("labels")

    assert labels() == {"mode": "ambient", "team": "a"}
    assert [item.verb for item in apply(layout, {"a.yaml": NAMESPACE})[0]] == ["unchanged"]
    apply(layout, {"a.yaml": NAMESPACE.replace("{name: shop}", "{name: shop, labels: {team: b}}")})
    assert labels() == {"mode": "ambient", "team": "b"}
    set_labels(layout, key, [LabelChange.parse("mode-")])
    assert labels() == {"team": "b"}


@pytest.mark.parametrize("word", ["team=a b", "a/b/c=x", f"k={'v' * 64}"])
def test_labels_are_judged_by_the_parser_before_they_are_stored(layout: Layout, word: str) -> None:
    apply(layout, {"a.yaml": NAMESPACE})
    key = find_objects(layout, "namespace", "shop", None)[0]
    change = LabelChange.parse(word)
    with pytest.raises(ConfigError, match=r"^Namespace shop: metadata\.labels.* is not accepted; accepted: "):
        check_labels(key, [LabelChange.parse("fine=1"), change])
    # What is stored is refused by the control plane, for good.
    set_labels(layout, key, [change])
    assert check([{"b.yaml": dump(Store(layout.applied).load()[key].body)}], ()).refusals


def test_good_labels_and_removals_are_taken(layout: Layout) -> None:
    check_labels(DENY_KEY, [LabelChange.parse(word) for word in ("a=", "example.com/b=c_d.e", "x y-")])


def test_a_built_in_namespace_can_be_labelled_without_a_manifest(layout: Layout) -> None:
    keys = find_objects(layout, "namespace", "default", None, built_in_namespaces=True)
    set_labels(layout, keys[0], [LabelChange.parse("a=b")])
    assert check([{"a.yaml": SERVICE.replace("shop", "default")}], ()).refusals == []
    assert names(layout) == ["default"]


def test_paths_that_give_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoManifests, match="does not exist"):
        manifest_files([tmp_path / "none"])
    with pytest.raises(NoManifests, match="subdirectories are not read"):
        manifest_files([tmp_path])
    (tmp_path / "b.yml").write_text("")
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "c.txt").write_text("")
    assert [path.name for path in manifest_files([tmp_path])] == ["a.yaml", "b.yml"]


def test_deleting_a_file_lets_go_of_what_could_not_be_read_in_it(layout: Layout) -> None:
    broken = {"/srv/a.yaml": "kind: AuthorizationPolicy\nmetadata: {name: [\n"}
    apply(layout, broken)
    assert list(layout.refused_objects.glob("*.yaml"))
    (cleared,) = forget_refused(layout, broken, [])
    assert cleared.startswith("what could not be read in /srv/a.yaml")
    assert not list(layout.refused_objects.glob("*.yaml"))
    assert remembered_refusals(layout) == forget_refused(layout, broken, []) == []


ROUTES = """\
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: edge, namespace: shop}, spec: %s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint}
spec: {controllerName: culvert.dev/control}
"""
SERVERS = "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}"


def test_gateways_of_two_groups_are_two_objects(layout: Layout) -> None:
    applied, refusals = apply(layout, {"a.yaml": join(NAMESPACE, ROUTES % SERVERS)})
    assert not refusals
    assert [item.key.label for item in applied] == [
        "namespace/shop",
        "gateway.networking.istio.io/edge",
        "gateway.gateway.networking.k8s.io/edge",
        "virtualservice.networking.istio.io/web",
        "gatewayclass.gateway.networking.k8s.io/istio-waypoint",
    ]
    (istio,) = find_objects(layout, "gateway.networking.istio.io", "edge", None)
    (gateway,) = find_objects(layout, "gateway", "edge", None)
    assert (istio.group, gateway.group) == ("networking.istio.io", "gateway.networking.k8s.io")
    delete_objects(layout, [istio])
    assert find_objects(layout, "gateway", "edge", None) == [gateway]
    assert not find_objects(layout, "gateway.networking.istio.io", "edge", None)


def test_what_is_refused_of_one_gateway_is_not_refused_of_the_other(layout: Layout) -> None:
    applied, refusals = apply(layout, {"a.yaml": join(NAMESPACE, ROUTES % "{}")})
    taken = [str(item.key) for item in applied]
    assert taken == ["Namespace shop", "Gateway shop/edge", "VirtualService shop/web", "GatewayClass istio-waypoint"]
    assert [(refusal.subject, refusal.field) for refusal in refusals] == [("Gateway.networking.istio.io shop/edge", "spec.servers")]


def test_all_of_it_is_handed_on_to_the_control_plane() -> None:
    documents, _ = load_documents(ROUTES % SERVERS, "a.yaml")
    wanted = interpret(documents)
    assert not wanted.refusals
    assert wanted.passed_on == documents
    assert len({document.key.file for document in documents}) == 4
