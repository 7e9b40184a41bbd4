"""The delta xDS client as transcripts."""

from __future__ import annotations

import pytest

from mesh.model.errors import BugError, PeerError
from mesh.wire.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE, MAX_ERROR_TEXT, Backoff, DeltaClient, DeltaRequest, DeltaResponse, Resource


def resource(name: str, version: str = "1") -> Resource:
    return Resource(name, version, ADDRESS_TYPE, b"")


@pytest.fixture
def client() -> DeltaClient:
    return DeltaClient([ADDRESS_TYPE, AUTHORIZATION_TYPE])


def take(client: DeltaClient, response: DeltaResponse, **rejected: str) -> DeltaRequest:
    assert client.receive(response) is response
    return client.answer(rejected)


def test_the_first_stream(client: DeltaClient) -> None:
    assert client.connect() == [DeltaRequest(ADDRESS_TYPE, first=True), DeltaRequest(AUTHORIZATION_TYPE, first=True)]
    assert repr(client) == "<DeltaClient Address: 0, Authorization: 0; waits for Address, Authorization>"
    assert take(client, DeltaResponse(ADDRESS_TYPE, "n1", (resource("a"), resource("b")))) == DeltaRequest(ADDRESS_TYPE, "n1")
    assert client.unsynced == [AUTHORIZATION_TYPE]
    assert take(client, DeltaResponse(AUTHORIZATION_TYPE, "n2")) == DeltaRequest(AUTHORIZATION_TYPE, "n2")
    assert repr(client) == "<DeltaClient Address: 2, Authorization: 0>"


def test_a_reconnect_says_what_is_held(client: DeltaClient) -> None:
    client.connect()
    take(client, DeltaResponse(ADDRESS_TYPE, "n1", (resource("a"), resource("b"), resource("c"))))
    take(client, DeltaResponse(ADDRESS_TYPE, "n2", (resource("a", "2"),), ("b", "never-held")))
    assert client.connect()[0] == DeltaRequest(ADDRESS_TYPE, versions={"a": "2", "c": "1"}, first=True)
    assert client.unsynced == [AUTHORIZATION_TYPE]  # what came once has come


def test_bad_resources_are_named_and_asked_for_again_while_good_ones_count(client: DeltaClient) -> None:
    client.connect()
    take(client, DeltaResponse(ADDRESS_TYPE, "n1", (resource("a"), resource("b"))))
    answer = take(
        client, DeltaResponse(ADDRESS_TYPE, "n2", (resource("a", "2"), resource("b", "2"), resource("c", "1"))), b="bad ip", c="no uid"
    )
    assert answer == DeltaRequest(ADDRESS_TYPE, "n2", error="b: bad ip; c: no uid")
    # The empty version brings a rejected resource again, or its removal.
    assert client.connect()[0].versions == {"a": "2", "b": "", "c": ""}


def test_an_unanswered_response_is_forgotten_with_its_stream(client: DeltaClient) -> None:
    client.connect()
    client.receive(DeltaResponse(ADDRESS_TYPE, "n1", (resource("a"),)))
    assert repr(client).endswith("unanswered>")
    assert client.connect()[0].versions == {}
    with pytest.raises(BugError):
        client.answer({})


def test_what_the_server_must_not_do(client: DeltaClient) -> None:
    client.connect()
    with pytest.raises(PeerError, match="not asked for"):
        client.receive(DeltaResponse("type.googleapis.com/envoy.config.cluster.v3.Cluster", "n1"))
    with pytest.raises(PeerError, match="nonce"):
        client.receive(DeltaResponse(ADDRESS_TYPE, ""))
    client.receive(DeltaResponse(ADDRESS_TYPE, "n1"))
    with pytest.raises(BugError):
        client.receive(DeltaResponse(ADDRESS_TYPE, "n2"))


def test_the_error_text_is_bounded(client: DeltaClient) -> None:
    client.connect()
    names = [f"name-{number}" for number in range(10_000)]
    answer = take(client, DeltaResponse(ADDRESS_TYPE, "n1", tuple(map(resource, names))), **dict.fromkeys(names, "bad"))
    assert len(answer.error) < MAX_ERROR_TEXT + 40
    assert answer.error.endswith("(10000 rejected)")


def test_backoff() -> None:
    backoff = Backoff()
    assert [backoff.fail() for _ in range(13)] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 15.0, 15.0]
    backoff.succeed()
    assert backoff.fail() == 0.01
