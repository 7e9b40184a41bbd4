"""Which misspelt documents the last accepted versions make up for: one each, and only those that may be new versions of them."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.catalog import KEPT_FILE, Catalog, Origin
from control.held import NOTHING, Held, Said, held
from control.resolve import Mesh, MeshSettings
from mesh.model.errors import Refusal
from mesh.model.manifest import Key, Parsed, Refused, parse_file
from tests.control.objects import feed, pod, service
from tests.control.test_misspelt import DB, KIND, NAMELESS, PODS, TEXT, WEB, after, file, kept
from tests.control.test_policies import ALL, denied

SHOP = "kind: AuthorizationPolicy\nmetadata: {name: z, namespace: shop}\nspec: ["
SERVICE = service("p", "ports: [{port: 1}]")
NAMELESS_DB = DB.replace("name: q,", "nmae: q,")
OFF = WEB.replace("app: web", "app: nobody")
KUSTOMIZATION = "{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization, resources: []}"
JOB = "{apiVersion: batch/v1, kind: Job, metadata: {generateName: j-, namespace: shop}}"
TEMPLATE = "{{ if .Values.shop }}"

SHOPS = {"web", "db"}
EXCUSES = {
    # what a file held, one edit after another, and who is denied at last
    "one for one": ((WEB, TEXT), {"web"}),
    "two for two": ((file(WEB, DB), file(KIND, NAMELESS_DB)), SHOPS),
    "two that may be either, for two": ((file(WEB, DB), file(TEXT, SHOP)), SHOPS),
    "the one with least choice first": ((file(WEB, DB), file(NAMELESS, DB.replace("namespace: shop", "namespace: Shop"))), SHOPS),
    "one that comes later": ((WEB, TEXT, file(TEXT, SHOP)), SHOPS),
    "two for one": ((WEB, file(TEXT, SHOP)), ALL),
    "two alike for one": ((WEB, file(SHOP, SHOP)), SHOPS),
    "by what is no policy": ((SERVICE, SHOP), SHOPS),
    "by what is no policy, of its name": ((SERVICE, KIND), {"web"}),
    "by what is none beside what is": ((file(SERVICE, DB), file(TEXT, NAMELESS_DB)), ALL),
    "beside one of its name": ((WEB, NAMELESS, file(NAMELESS, NAMELESS_DB)), SHOPS),
    "one that took the place of one that denied": ((file(NAMELESS_DB, WEB), SHOP), SHOPS),
    "one that took the place of a refused one": ((file(DB.replace("action", "actoin"), WEB), NAMELESS_DB), SHOPS),
    "when what it was taken for is there again": ((WEB, SHOP, file(SHOP, WEB)), SHOPS),
    "when that is, and it may be another": ((file(WEB, DB), SHOP, file(SHOP, WEB)), SHOPS),
    "one that comes when it is not known which is meant": ((WEB, file(NAMELESS, NAMELESS), file(NAMELESS, NAMELESS, SHOP)), SHOPS),
    "one that is taken back": ((WEB, KIND, file(KIND, NAMELESS_DB), KIND), {"web"}),
}


@pytest.mark.parametrize(("steps", "expected"), EXCUSES.values(), ids=EXCUSES)
def test_each_object_excuses_one_document(steps: tuple[str, ...], expected: set[str]) -> None:
    found = after(*steps)
    assert denied(found) == expected
    for _ in range(2):
        feed(found, steps[-1] + "\n---\n# an edit beside it", *PODS)
        assert denied(found) == expected
    feed(found, "", *PODS)
    assert (denied(found), kept(found), found.catalog._held, found.catalog._holders) == (set(), [], {}, {})


@pytest.mark.parametrize("beside", [KUSTOMIZATION, JOB, TEMPLATE, TEXT, SHOP], ids=["kind", "name", "template", "text", "policy"])
def test_what_is_taken_out_beside_what_stays_as_it_is_goes(beside: str) -> None:
    """Or else a file that somebody generates would fill the mesh with all that ever was in it."""
    found = after(beside)
    before = denied(found)
    for number in range(5):
        feed(found, file(beside, DB.replace("name: q", f"name: q{number}")), *PODS)
        assert [key.name for key in found.catalog.objects if key.kind == "AuthorizationPolicy"] == [f"q{number}"]
    feed(found, file("# moved down by a line", beside), *PODS)
    assert denied(found) == before
    assert not [key for key in found.catalog.objects if key.kind == "AuthorizationPolicy"]


def test_what_is_held_for_one_goes_when_only_others_are_left_that_were_there_before() -> None:
    found = after(file(TEMPLATE, WEB), file(TEMPLATE, KIND))
    assert denied(found) == {"web"}
    feed(found, TEMPLATE, *PODS)
    assert denied(found) == set()


@pytest.mark.parametrize(
    ("first", "misspelt"),
    [((WEB, "#"), (KIND, "#")), ((WEB, "#"), (TEXT, "#")), ((WEB, OFF), (KIND, OFF))],
    ids=["known by name", "text", "after a conflict"],
)
def test_what_is_held_is_not_another_files(first: tuple[str, str], misspelt: tuple[str, str]) -> None:
    found = Mesh(MeshSettings())
    for texts in ((WEB, "#"), first, misspelt):
        feed(found, *texts, *PODS)
        assert denied(found) == {"web"}
    feed(found, misspelt[0], OFF, *PODS)
    assert denied(found) == {"web"}
    (told,) = [entry.refusals[0] for entry, _ in found.refused() if entry.file == "1.yaml"]
    assert told.value == "p, as in 0.yaml, where it is misspelt"
    feed(found, misspelt[0], "#", *PODS)
    assert denied(found) == {"web"}
    feed(found, misspelt[0], OFF, *PODS)
    feed(found, "#", OFF, *PODS)
    assert (denied(found), kept(found)) == (set(), []), "without the misspelt one it is the other's"
    feed(found, "#", "#", *PODS)
    assert not [key for key in found.catalog.objects if key.kind == "AuthorizationPolicy"]


def test_a_file_of_which_nothing_can_be_read_is_excused_by_whatever_it_held() -> None:
    """A disk's error in a file of Services does not shut the mesh."""
    garbled = Parsed((), (Refused((Refusal("a.yaml", "", "", "byte 3 is no UTF-8", "UTF-8 text"),), "a.yaml", policy=True),))
    found = Catalog()
    origin = Origin("files", "a.yaml")
    found.put(origin, garbled)
    found.update()
    assert found.rejections[origin].kept == "", "nothing of it was ever read: it may hold any policy"
    found.put(origin, parse_file(service("web", "ports: [{port: 80}]"), "a.yaml"))
    found.update()
    for again in (garbled, replace(garbled, refused=(replace(garbled.refused[0], file="b.yaml"),))):
        found.put(origin, again)
        found.update()
        assert (list(found.objects), found.rejections[origin].kept) == ([Key("Service", "shop", "web")], KEPT_FILE)


@pytest.mark.parametrize("denied_before", [SHOP, NAMELESS, KIND])
def test_a_file_that_cannot_be_read_any_more_denies_on_if_something_of_it_did(denied_before: str) -> None:
    found, origin = Catalog(), Origin("files", "a.yaml")
    found.put(origin, parse_file(file(SERVICE, denied_before), "a.yaml"))
    found.update()
    for why in ("byte 3 is no UTF-8", "byte 4 is no UTF-8"):
        garbled = Refused((Refusal("a.yaml", "", "", why, "UTF-8 text"),), "a.yaml", policy=True)
        found.put(origin, Parsed((), (garbled,)))
        found.update()
        assert list(found.objects) == [Key("Service", "shop", "p")]
        assert found.rejections[origin].kept == ""
        assert [entry.policy for entry in found.rejections[origin].refused] == [True]


def test_what_one_file_holds_ends_when_it_is_mended_there() -> None:
    found = after(WEB, KIND)
    assert kept(found) == [KEPT_FILE]
    feed(found, OFF, *PODS)
    assert (denied(found), kept(found)) == (set(), [])


def test_a_policy_that_does_not_say_where_it_is_denies_everywhere_it_may_be() -> None:
    """Also where another file has the one that it would be if its namespace were left out."""
    unplaced = WEB.replace("namespace: shop", "nmespace: shop")
    assert denied(after(unplaced)) == {"web", "other", "root"}
    found = Mesh(MeshSettings())
    here = OFF.replace("namespace: shop", "namespace: default")
    feed(found, "#", here, *PODS)
    feed(found, unplaced, here, *PODS)
    assert denied(found) == {"web", "other", "root"}
    feed(found, WEB, here, *PODS)
    assert (denied(found), kept(found)) == ({"web"}, [])


APPS = ("web", "db", "cache")
APP_PODS = [pod(app, f"10.0.1.{number}", labels=f"app: {app}") for number, app in enumerate(APPS)]
BLOCK = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: p%(app)s
  namespace: shop
spec:
  selector: {matchLabels: {app: %(app)s}}
  action: DENY
  rules: [{}]
"""
SPELLINGS = {
    # what of BLOCK becomes what
    "right": ("", ""),
    "kind": ("AuthorizationPolicy", "AuthorizationPolcy"),
    "group": ("istio.io", "istoi.io"),
    "version": ("io/v1", "io/v9"),
    "no name": ("  name: p%(app)s\n", ""),
    "the name's field": ("  name:", "  nmae:"),
    "no such name": ("name: p", "name: p_"),
    "the namespace's field": ("namespace:", "namespce:"),
    "the namespace's place": ("  namespace:", "namespace:"),
    "no such namespace": (": shop", ": Shop"),
    "the metadata's field": ("metadata", "metdata"),
    "a field": ("action", "actoin"),
    "no YAML": ("rules: [{}]", "rules: ["),
    "a tab": ("  action", "\taction"),
}
EDITS = st.tuples(st.sampled_from(APPS), st.sampled_from([None, 0, 0, 0, 1]), st.sampled_from(["right"] * 6 + list(SPELLINGS)))


@settings(max_examples=60, deadline=None)
@given(st.lists(EDITS, min_size=2, max_size=8))
def test_who_edits_one_document_at_a_time_opens_nothing(edits: list[tuple[str, int | None, str]]) -> None:
    """Each of two files holds some policies. An edit writes one of them anew, in either file (None: in neither). Where one goes and another
    comes misspelt in the same edit, nobody could tell that from an edit of one, so that is no part of this.
    """
    found = Mesh(MeshSettings())
    written: dict[str, tuple[int, str]] = {}
    for app, where, spelling in edits:
        written.pop(app, None)
        if where is not None:
            written[app] = (where, BLOCK.replace(*SPELLINGS[spelling]) % {"app": app})
        feed(found, *("---\n".join(text for at, text in written.values() if at == number) for number in (0, 1)), *APP_PODS)
        assert denied(found) >= written.keys()
        assert found.refused() or denied(found) == written.keys()
    feed(found, "", "", *APP_PODS)
    assert (denied(found), found.catalog._held, found.catalog._holders) == (set(), {}, {})


DOCUMENT = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {%s: p%s%d, namespace: shop}
spec: {action: DENY, rules: [{}]}
"""


def many(count: int, field: str, between: str) -> Parsed:
    return parse_file("---\n".join(DOCUMENT % (field, between, number) for number in range(count)), "a.yaml")


@pytest.mark.parametrize(("field", "between"), [("name", "_"), ("nmae", "-")])
def test_what_many_misspelt_ones_cost_grows_as_they_do(field: str, between: str) -> None:
    """Each may be each of those that are gone. The loop waits for this."""

    def cost(count: int) -> int:
        """How many functions are called, and generators gone on with."""
        good, bad = many(count, "name", "-"), many(count, field, between)
        catalog, origin = Catalog(), Origin("files", "a.yaml")
        catalog.put(origin, good)
        catalog.update()
        calls = 0

        def noted(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(noted)
        try:
            catalog.put(origin, bad)
            catalog.put(origin, Parsed(refused=bad.refused[1:]))
            catalog.update()
        finally:
            sys.setprofile(None)
        assert len(catalog.objects) == count
        return calls

    assert cost(600) < 20 * cost(60), "10 times as many; 100 times as much if each is compared with each"


def test_nothing_is_noted_where_nothing_is_held() -> None:
    kustomization, web, db = (Said.of(parse_file(text, "a.yaml")) for text in (KUSTOMIZATION, WEB, DB))
    assert held(NOTHING, Said.of(Parsed()), kustomization, lambda key: True) is NOTHING
    assert held(Held(3), web, db, lambda key: True) is NOTHING
