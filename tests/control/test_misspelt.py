"""An edit that misspells what an object is does not take it out of force; what is taken out of a file goes, whatever stands beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.catalog import KEPT, KEPT_FILE, Catalog, Origin
from control.resolve import Mesh, MeshSettings
from mesh.model.manifest import Key, Parsed, parse_file, parse_object
from tests.control.objects import feed, pod, policy, service
from tests.control.test_policies import ALL, denied

PODS = (
    pod("web", "10.0.0.1", labels="app: web"),
    pod("db", "10.0.0.2", labels="app: db"),
    pod("other", "10.0.0.3", labels="app: web", meta="namespace: other"),
    pod("root", "10.0.0.4", labels="app: web", meta="namespace: istio-system"),
)
WEB = policy("p", "selector: {matchLabels: {app: web}}, action: DENY, rules: [{}]")
DB = policy("q", "selector: {matchLabels: {app: db}}, action: DENY, rules: [{}]")
OTHER = policy("p", "action: DENY, rules: [{}]", "other")
CERTIFICATE = "{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: %s, namespace: shop}, spec: {a: 1}}"
KIND = WEB.replace("AuthorizationPolicy", "AuthorizationPolcy")
GROUP = WEB.replace("security.istio.io", "security.istoi.io")
NAMELESS = WEB.replace("name: p,", "nmae: p,")
TEXT = "kind: AuthorizationPolicy\nmetadata: ["


def file(*documents: str) -> str:
    return "\n---\n".join(documents)


def after(*steps: str) -> Mesh:
    found = Mesh(MeshSettings())
    for text in steps:
        feed(found, text, *PODS)
    return found


def kept(found: Mesh) -> list[str]:
    return [sentence for _, sentence in found.refused()]


MISSPELT = {
    "kind": KIND,
    "kind, in another case": WEB.replace("AuthorizationPolicy", "authorizationpolicy"),
    "another kind of ours": WEB.replace("AuthorizationPolicy", "Service"),
    "no kind": WEB.replace("kind: AuthorizationPolicy, ", ""),
    "kind, of no group": KIND.replace("security.istio.io/v1", "v1"),
    "kind and group": KIND.replace("security.istio.io", "security.istoi.io"),
    "no version": WEB.replace("apiVersion: security.istio.io/v1, ", ""),
    "neither": WEB.replace("apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, ", ""),
    "group": GROUP,
    "version": WEB.replace("io/v1", "io/vv1"),
    "name is a number": WEB.replace("name: p,", "name: 5,"),
    "name is none": WEB.replace("name: p,", "name: 'P!',"),
    "no name": WEB.replace("name: p, ", ""),
    "the name's field": NAMELESS,
    "namespace is none": WEB.replace("namespace: shop", "namespace: Shop"),
    "the namespace's field": WEB.replace("namespace: shop", "namspace: shop"),
    "namespace beside the metadata": WEB.replace("namespace: shop, ", "").replace("spec: {", "namespace: shop, spec: {"),
    "namespace in the spec": WEB.replace("namespace: shop, ", "").replace("spec: {", "spec: {namespace: shop, "),
    "the metadata's field": WEB.replace("metadata:", "metdata:"),
    "metadata is a list": WEB.replace("metadata: {", "metadata: [").replace("annotations: {}}", "annotations: {}]"),
    "a list's kind": f"{{apiVersion: v1, kind: Lisst, metadata: {{resourceVersion: ''}}, items: [{WEB}]}}",
    "the kind of a list that has a name": f"{{apiVersion: v1, kind: Lisst, metadata: {{name: l, namespace: tools}}, items: [{WEB}]}}",
    "the version of a list that has a name": f"{{apiVersion: v2, kind: List, metadata: {{name: l}}, items: [{WEB}]}}",
    "a list's items": f"{{apiVersion: v1, kind: List, metadata: {{resourceVersion: ''}}, itmes: [{WEB}]}}",
    "no mapping": "just words",
    "no YAML": TEXT,
}


@pytest.mark.parametrize("text", MISSPELT.values(), ids=MISSPELT)
def test_what_is_misspelt_stays_in_force_and_denies_nothing_else(text: str) -> None:
    for before, now, expected in ((WEB, text, {"web"}), (file(DB, WEB), file(DB, text), {"web", "db"})):
        found = after(before, now)
        assert denied(found) == expected
        assert kept(found) in ([KEPT_FILE], [KEPT])
        feed(found, now, *PODS, "# nothing")
        feed(found, now + "\n# an edit beside it", *PODS)
        assert denied(found) == expected, "and goes on so"
        feed(found, before, *PODS)
        assert (denied(found), kept(found)) == (expected, [])
        feed(found, "", *PODS)
        assert denied(found) == set()


@pytest.mark.parametrize("text", [KIND, GROUP, NAMELESS, TEXT])
def test_what_was_never_accepted_denies(text: str) -> None:
    for steps in ((text,), ("", text), (DB.replace("DENY", "ALLOW"), file(DB.replace("DENY", "ALLOW"), text))):
        found = after(*steps)
        assert denied(found) == (ALL if text == TEXT else {"web"})
        assert KEPT_FILE not in kept(found)


GOES = {
    # what a file held, what it holds then, who is denied
    "beside somebody else's": ((file(WEB, CERTIFICATE % "p"), CERTIFICATE % "p"), set()),
    "beside one that comes": ((WEB, CERTIFICATE % "q"), set()),
    "beside one of its name that comes": ((WEB, CERTIFICATE % "p"), {"web"}),
    "after that one was taken for it": ((WEB, CERTIFICATE % "p", file(WEB, CERTIFICATE % "p"), CERTIFICATE % "p"), set()),
    "beside another that was misspelt before": ((file(WEB, DB), file(KIND, DB), KIND), {"web"}),
    "from another namespace": ((file(WEB, OTHER), KIND), {"web"}),
    "of another kind than the nameless": ((file(WEB, service("s", "ports: [{port: 1}]")), NAMELESS), {"web"}),
    "of any name beside a nameless of its kind": ((file(WEB, DB), NAMELESS), {"web", "db"}),
    "beside a misspelt one that goes, too": ((file(WEB, DB), file(KIND, DB), DB), {"db"}),
    "anything beside no YAML": ((file(WEB, DB, OTHER), TEXT), {"web", "db", "other"}),
    "while it is misspelt in other words": ((WEB, KIND, KIND.replace("Polcy", "Pollicy"), GROUP, NAMELESS), {"web"}),
    "when its name is another": ((WEB, WEB.replace("name: p", "name: pp").replace("web", "db")), {"db"}),
}


@pytest.mark.parametrize(("steps", "expected"), GOES.values(), ids=GOES)
def test_what_goes_and_what_stays(steps: tuple[str, ...], expected: set[str]) -> None:
    assert denied(after(*steps)) == expected


def test_what_goes_beside_a_misspelt_one_goes_for_itself() -> None:
    found = after(file(WEB, service("s", "ports: [{port: 1}]")), NAMELESS)
    assert Key("Service", "shop", "s") not in found.catalog.objects
    assert Key("AuthorizationPolicy", "shop", "p") in found.catalog.objects


@pytest.mark.parametrize("text", [KIND, TEXT])
def test_one_that_denied_already_is_not_excused_by_what_goes_wrong_beside_it(text: str) -> None:
    found = after(text, file(text, DB))
    before = denied(found)
    assert before >= {"web", "db"}
    feed(found, file(text, DB.replace("AuthorizationPolicy", "AuthorizationPolcy")), *PODS)
    assert denied(found) == before
    feed(found, file(text, "a: ["), *PODS)
    assert denied(found) == before
    feed(found, file(text, DB), *PODS)
    assert denied(found) == before


def test_it_covers_what_it_could_be_where_nothing_of_before_is_like_it() -> None:
    assert denied(after(DB, file(DB, KIND))) == {"web", "db"}
    assert denied(after(DB, file(DB, "kind: AuthorizationPolicy\nmetadata: {name: p, namespace: ["))) == ALL


def test_objects_that_live_in_no_namespace_are_held_too() -> None:
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"
    found = after(namespace, namespace.replace("Namespace", "Namespce"))
    assert Key("Namespace", "", "shop") in found.catalog.objects
    found = after(namespace, namespace.replace("apiVersion: v1", "apiVersion: security.istio.io/v1"))
    assert Key("Namespace", "", "shop") in found.catalog.objects


FOO = Origin("files", "foo.yaml")
P = Key("AuthorizationPolicy", "shop", "p")


def put(catalog: Catalog, text: str) -> None:
    catalog.put(FOO, parse_file(text, "foo.yaml"))


@pytest.mark.parametrize(
    ("between", "stays"),
    [
        ((KIND, ""), False),
        ((KIND, "", KIND), False),
        (("", KIND), False),
        (("", WEB, KIND), False),
        ((KIND, "", WEB.replace("action", "actoin")), False),
        ((KIND, WEB.replace("action", "actoin")), True),
        ((WEB.replace("action", "actoin"), KIND), True),
        ((KIND, GROUP), True),
    ],
)
def test_what_was_gone_for_a_moment_has_no_past(between: tuple[str, ...], stays: bool) -> None:
    """Whether or not somebody looked in between."""
    catalog = Catalog()
    put(catalog, WEB)
    catalog.update()
    for text in between:
        put(catalog, text)
    catalog.update()
    assert (P in catalog.objects) == stays


def test_who_is_told_by_an_api_server_is_known() -> None:
    """There an origin is one object, and a refused version of it is one of it."""
    value = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "shop"}}
    catalog, origin = Catalog(), Origin("kubernetes", "authorizationpolicies/shop/p")
    catalog.put(origin, parse_object({**value, "spec": {}}, origin.name))
    catalog.update()
    catalog.put(origin, parse_object({**value, "spec": {"actoin": "DENY"}}, origin.name))
    catalog.update()
    assert P in catalog.objects
    assert catalog.rejections[P].kept == KEPT
    catalog.remove(origin)
    catalog.update()
    assert (catalog.objects, catalog.rejections) == ({}, {})


WORDS = [WEB, DB, OTHER, KIND, GROUP, NAMELESS, TEXT, CERTIFICATE % "p", DB.replace("action", "actoin"), service("p", "ports: [{port: 1}]")]
FILES = st.lists(st.sampled_from(WORDS), max_size=4)


@given(st.lists(st.tuples(FILES, st.booleans()), max_size=8))
def test_any_history_ends_where_a_fresh_start_does(history: list[tuple[list[str], bool]]) -> None:
    """Nothing is left of what was held when a file is empty; and until then nothing is in force that its origin never said."""
    catalog = Catalog()
    said: set[Key] = set()
    for texts, looked in history:
        parsed = parse_file(file(*texts), "foo.yaml")
        said |= {entry.key for entry in parsed.objects}
        catalog.put(FOO, parsed)
        if looked:
            catalog.update()
            vague = any(entry.guise is not None for entry in parsed.refused)
            told = {entry.key for entry in (*parsed.objects, *parsed.refused) if entry.key is not None}
            assert set(catalog.objects) <= (said if vague else told)
    catalog.put(FOO, Parsed())
    catalog.update()
    assert (catalog.objects, catalog.rejections) == ({}, {})
    assert (catalog._held, catalog._holders, catalog._found) == ({}, {}, {})
