"""What is left of a route for a proxyless gRPC client, and what is said of the rest."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mesh.model.l7.names import BLACK_HOLE
from mesh.model.l7.notes import Problem
from mesh.model.l7.routes import (
    NO_CLUSTER,
    ClaimMatch,
    Destination,
    Fault,
    Forward,
    Hash,
    HashKind,
    HeaderMatch,
    HeaderOps,
    Mirror,
    PathKind,
    PathMatch,
    PathRewrite,
    QueryMatch,
    Redirect,
    Respond,
    Retry,
    RewriteKind,
    Route,
    RouteMatch,
)
from mesh.model.l7.texts import PRESENT, exact, regex
from mesh.model.l7.translate.grpc import for_clients
from mesh.model.manifest import Key

SUBJECT = Key("Service", "shop", "app")
TO = Forward((Destination("c"),))


def fitted(match: RouteMatch = RouteMatch(), action: Forward | Redirect | Respond = TO, **fields: object) -> list[Route]:
    return list(for_clients([Route(match, action, "r", **fields)], SUBJECT).value)  # type: ignore[arg-type]


def matches(*headers: HeaderMatch, path: PathMatch = PathMatch()) -> list[RouteMatch]:
    return [route.match for route in fitted(RouteMatch(path, headers))]


NOT_ANN = HeaderMatch("x-user", exact("ann"), True)
ABSENT = HeaderMatch("x-user", PRESENT, True)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ((HeaderMatch("x-user", exact("ann")),), [(HeaderMatch("x-user", exact("ann")),)]),
        ((NOT_ANN,), [(ABSENT,), (NOT_ANN,)]),
        ((ABSENT,), [(ABSENT,)]),
        ((HeaderMatch("x-user", regex(".*"), True),), [(HeaderMatch("x-user", regex(".*"), True),)]),
        ((HeaderMatch(":method", exact("POST")),), [()]),
        ((HeaderMatch(":method", exact("GET")),), []),
        ((HeaderMatch(":method", exact("GET"), True),), [()]),
        ((HeaderMatch(":scheme", exact("http")),), [()]),
        ((HeaderMatch(":authority", exact("a")),), []),
        (tuple(HeaderMatch(f"x-{index}", exact("a"), True) for index in range(9)), []),
    ],
)
def test_headers(headers: tuple[HeaderMatch, ...], found: list[tuple[HeaderMatch, ...]]) -> None:
    assert [match.headers for match in matches(*headers)] == found


def test_segments() -> None:
    assert [match.path for match in matches(path=PathMatch(PathKind.SEGMENTS, "/a.B"))] == [
        PathMatch(PathKind.EXACT, "/a.B"),
        PathMatch(PathKind.PREFIX, "/a.B/"),
    ]


@pytest.mark.parametrize("match", [RouteMatch(query=(QueryMatch("q"),)), RouteMatch(claims=(ClaimMatch(("a",)),))])
def test_what_clients_do_not_look_at_never_matches(match: RouteMatch) -> None:
    found = for_clients([Route(match, TO), Route(RouteMatch(), TO)], SUBJECT)
    assert [route.match for route in found.value] == [RouteMatch()]
    assert [(note.problem, note.subject) for note in found.notes] == [(Problem.UNSUPPORTED, SUBJECT)]


def test_what_is_kept_and_what_is_not() -> None:
    action = Forward(
        (Destination("a", 3, HeaderOps(remove=("x",)), authority="h"), Destination(NO_CLUSTER, 1)),
        PathRewrite(RewriteKind.FULL, "/x"),
        "authority",
        timedelta(seconds=3),
        Retry(9, ("5xx", "unavailable", "cancelled"), (503,), timedelta(seconds=1), timedelta(milliseconds=1)),
        (Mirror("m"),),
        (Hash(HashKind.COOKIE, "c"), Hash(HashKind.HEADER, "x")),
        500,
    )
    fault = Fault(timedelta(seconds=1), 5)
    found = for_clients([Route(RouteMatch(), action, "r", HeaderOps(remove=("y",)), fault=fault)], SUBJECT)
    assert found.value == (
        Route(
            RouteMatch(),
            Forward(
                (Destination("a", 3), Destination(BLACK_HOLE, 1)),
                timeout=timedelta(seconds=3),
                retry=Retry(4, ("unavailable", "cancelled"), backoff=timedelta(milliseconds=25), elsewhere=False),
                hashes=(Hash(HashKind.HEADER, "x"),),
                missing_status=500,
            ),
            "r",
            fault=fault,
        ),
    )
    (note,) = found.notes
    for word in ("header changes", "destinations", "rewrites", "mirroring", "hashes"):
        assert word in note.message


@pytest.mark.parametrize("action", [Redirect("https"), Respond(403)])
def test_answers(action: Redirect | Respond) -> None:
    found = for_clients([Route(RouteMatch(), action)], SUBJECT)
    assert [route.action for route in found.value] == [action]
    assert [note.problem for note in found.notes] == [Problem.UNSUPPORTED]


@pytest.mark.parametrize("retry", [None, Retry(0, ("unavailable",)), Retry(2, ("5xx",))])
def test_no_retries(retry: Retry | None) -> None:
    (found,) = fitted(action=Forward((Destination("c"),), retry=retry))
    assert isinstance(found.action, Forward)
    assert found.action.retry is None
