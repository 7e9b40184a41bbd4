"""What tags are called: readable where that can be, and never two alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.sources.consul.names import meta_label, subset_name, tag_label
from mesh.model.manifest.shapes import DNS_LABEL, LABEL_KEY, LABEL_VALUE, Report
from mesh.model.manifest.tree import Node


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("v2", "v2"),
        ("primary-eu-1", "primary-eu-1"),
        ("v1.2.3", "v1--2--3"),
        ("a.b-c.d", "a--b-c--d"),
        ("V2", "v2---47cfe5eb8a"),
        ("Team A", "team-a---e18d322f14"),
        ("a--b", "a-b---90827a2e56"),
        ("-a", "a---c274891790"),
        ("v1.", "v1---d146c29a61"),
        ("", "tag---e3b0c44298"),
        ("日本", "tag---cf2abf0c5b"),
        ("traefik.http.routers.web.rule=Host(`web.example.com`)", "traefik-http-routers-web-rule-host-web-example-com---3e0b548416"),
        ("x" * 64, "x" * 50 + "---7ce100971f"),
        ("x" * 32 + "." + "y" * 31, "x" * 32 + "-" + "y" * 17 + "---0a26369875"),
    ],
)
def test_a_tag_has_one_name(tag: str, name: str) -> None:
    assert subset_name(tag) == name


TAGS = st.text(alphabet="ab01.-_A/ ", max_size=70) | st.text(max_size=20)


def taken(shape: object, value: str) -> bool:
    report = Report("")
    shape.read(Node(value, 0), "", report)  # type: ignore[attr-defined]
    return not report.refusals


@settings(deadline=None)
@given(st.lists(TAGS, unique=True, max_size=20))
def test_names_are_dns_labels_and_differ(tags: list[str]) -> None:
    names = [subset_name(tag) for tag in tags]
    assert len(set(names)) == len(tags)
    assert all(taken(DNS_LABEL, name) for name in names)


@settings(deadline=None)
@given(TAGS)
def test_labels_are_labels_and_say_the_tag_where_they_can(tag: str) -> None:
    key, value = tag_label(tag)
    assert taken(LABEL_KEY, key)
    assert taken(LABEL_VALUE, value)
    assert value in (tag, "")
    assert (value == tag) == taken(LABEL_VALUE, tag)


@settings(deadline=None)
@given(st.text(max_size=70), st.text(max_size=70))
def test_meta_is_a_label_or_none(key: str, value: str) -> None:
    found = meta_label(key, value)
    if found is not None:
        assert found == (f"consul.meta/{key}", value)
        assert taken(LABEL_KEY, found[0])
        assert taken(LABEL_VALUE, value)


def test_meta_that_can_be_no_label_is_none() -> None:
    assert meta_label("version", "1.2") == ("consul.meta/version", "1.2")
    assert meta_label("url", "http://x") is None
    assert meta_label("_x", "y") is None
