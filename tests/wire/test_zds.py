"""ZDS as bytes, and its two ends as transcripts; hypothesis: PeerError is the only exception that a peer can cause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.errors import BugError, PeerError
from mesh.model.reasons import Reason
from mesh.wire.zds import (
    MAX_MESSAGE,
    Ack,
    Acked,
    Add,
    AgentSession,
    Connected,
    Delete,
    Hello,
    Keep,
    Phase,
    Request,
    SnapshotSent,
    TunnelSession,
    WorkloadInfo,
    decode_ack,
    decode_hello,
    decode_request,
    encode_ack,
    encode_hello,
    encode_request,
)

INFO = WorkloadInfo("reviews-1", "shop", "reviews")
ADD = Add("u1", INFO)

# Field numbers as in Istio's zds.proto, written out: the encoder and the decoder could be wrong in the same way.
BYTES: list[tuple[Request, bytes]] = [
    (Add("u1", WorkloadInfo("n", "s", "a")), b"\x0a\x0f\x0a\x02u1\x12\x09\x0a\x01n\x12\x01s\x1a\x01a"),
    (Delete("u1"), b"\x12\x04\x12\x02u1"),
    (SnapshotSent(), b"\x1a\x00"),
    (Keep("u1"), b"\x2a\x04\x0a\x02u1"),
]


@pytest.mark.parametrize(("request_", "data"), BYTES, ids=[type(request).__name__ for request, _ in BYTES])
def test_bytes_are_istios(request_: Request, data: bytes) -> None:
    assert encode_request(request_) == data
    assert decode_request(data) == request_


def test_hello_and_acks_are_istios() -> None:
    assert encode_hello(Hello()) == b"\x08\x01"
    assert decode_hello(b"\x08\x01") == Hello(1)
    assert encode_ack(Ack()) == b"\x0a\x00"
    assert decode_ack(b"\x0a\x00") == Ack("")
    assert encode_ack(Ack("no")) == b"\x0a\x04\x0a\x02no"
    assert decode_ack(b"\x0a\x04\x0a\x02no") == Ack("no")


def test_a_long_error_is_cut_and_still_text() -> None:
    data = encode_ack(Ack("ü" * 2000))
    assert len(data) <= MAX_MESSAGE
    assert set(decode_ack(data).error) == {"ü"}


def test_what_does_not_fit_is_our_own_mistake() -> None:
    with pytest.raises(BugError):
        encode_request(Add("u", WorkloadInfo("n" * MAX_MESSAGE, "s", "a")))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="no protobuf"),
        pytest.param(b"\x0a\x04\x0a\x02u1", id="add without workload_info"),
        pytest.param(b"\x0a\x04\x12\x02\x0a\x00", id="add without uid"),
        pytest.param(b"\x12\x00", id="delete without uid"),
        pytest.param(b"\x2a\x00", id="keep without uid"),
        pytest.param(b"\x12\x04\x12\x02\xff\xfe", id="uid that is no text"),
        pytest.param(b"\x32\x00", id="unknown payload"),
    ],
)
def test_bad_requests_are_the_peers_fault(data: bytes) -> None:
    with pytest.raises(PeerError) as raised:
        decode_request(data)
    assert raised.value.reason is Reason.ZDS_PROTOCOL


@pytest.mark.parametrize("data", [b"", b"\x08\x00", b"\x08\x02", b"\xff\xff"])
def test_only_version_one_says_hello(data: bytes) -> None:
    with pytest.raises(PeerError):
        decode_hello(data)


names = st.text(max_size=60).filter(lambda text: text.isprintable())
uids = names.filter(bool)
requests = st.one_of(
    st.builds(Add, uids, st.builds(WorkloadInfo, names, names, names)),
    st.builds(Keep, uids),
    st.builds(Delete, uids),
    st.just(SnapshotSent()),
)


@given(requests)
def test_requests_survive_the_wire(request_: Request) -> None:
    assert decode_request(encode_request(request_)) == request_


@given(st.binary(max_size=200), st.integers(0, 3))
def test_any_bytes_to_the_tunnel(data: bytes, descriptors: int) -> None:
    session = TunnelSession()
    try:
        session.receive(data, descriptors)
    except PeerError:
        return
    assert session.pending is not None


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\x08\x01", b"\x0a\x00", b"\x0a\x04\x0a\x02no"])), max_size=8))
def test_any_packets_to_the_agent(packets: list[bytes]) -> None:
    session = AgentSession(0.0)
    for data in packets:
        try:
            event = session.receive(data)
        except PeerError:
            return
        if isinstance(event, Connected):
            session.snapshot([ADD, Keep("u2")])
        session.next_request(0.0)


@given(st.lists(st.tuples(requests, st.integers(0, 2)), max_size=12))
def test_any_order_of_requests_to_the_tunnel(script: list[tuple[Request, int]]) -> None:
    """What the tunnel keeps is what was named and not deleted, whatever the agent says in whatever order."""
    session, named = TunnelSession(), set()
    for request, descriptors in script:
        before = session.snapshot_received
        try:
            got = session.receive(encode_request(request), descriptors)
        except PeerError:
            misplaced = before and isinstance(request, Keep | SnapshotSent)
            assert misplaced or descriptors != isinstance(request, Add)
            return
        assert got == request
        match request:
            case Add(uid, _) | Keep(uid):
                named.add(uid)
            case Delete(uid):
                named.discard(uid)
        assert session.announced == named
        assert decode_ack(session.ack()) == Ack()


# The agent's side


def agent(snapshot: list[Add | Keep] | None = None) -> AgentSession:
    """After hello, with a snapshot queued."""
    session = AgentSession(0.0)
    assert session.receive(encode_hello(Hello())) == Connected()
    session.snapshot(snapshot if snapshot is not None else [])
    return session


def answer(session: AgentSession, error: str = "") -> Acked:
    event = session.receive(encode_ack(Ack(error)))
    assert isinstance(event, Acked)
    return event


def test_snapshot_then_deltas_one_at_a_time() -> None:
    session = agent([ADD, Keep("u2")])
    session.submit(Delete("u9"))
    for request in (ADD, Keep("u2"), SnapshotSent(), Delete("u9")):
        assert session.phase is (Phase.SNAPSHOT if request != Delete("u9") else Phase.LIVE)
        assert session.next_request(1.0) == request
        assert session.next_request(1.0) is None
        assert answer(session) == Acked(request, "")
    assert session.next_request(1.0) is None
    assert session.next_deadline() is None


def test_a_refusal_is_an_answer() -> None:
    session = agent([ADD])
    session.next_request(0.0)
    assert answer(session, "cannot bind") == Acked(ADD, "cannot bind")
    assert session.next_request(0.0) == SnapshotSent()


def test_a_later_request_replaces_an_unsent_one_in_its_place() -> None:
    session = agent([ADD, Add("u2", INFO)])
    session.submit(Delete("u1"))
    assert session.is_queued("u1")
    assert [session.next_request(0.0), answer(session) and session.next_request(0.0)] == [Delete("u1"), Add("u2", INFO)]
    session.submit(Delete("u2"))
    assert session.in_flight == Add("u2", INFO)
    assert session.queued == 2


def test_the_queue_is_bounded_by_the_number_of_pods() -> None:
    session = agent()
    for turn in range(1000):
        session.submit(ADD if turn % 2 else Delete("u1"))
    assert session.queued == 2


@pytest.mark.parametrize("late", ["hello", "ack"])
def test_deadlines(late: str) -> None:
    session = AgentSession(10.0) if late == "hello" else agent([ADD])
    if late == "ack":
        session.next_request(10.0)
    assert session.next_deadline() == 15.0
    session.on_timer(14.9)
    with pytest.raises(PeerError) as raised:
        session.on_timer(15.0)
    assert raised.value.reason is Reason.ZDS_TIMEOUT
    assert late in raised.value.detail


def test_no_deadline_while_nothing_is_awaited() -> None:
    session = agent([])
    assert session.next_deadline() is None
    session.on_timer(1e9)


@pytest.mark.parametrize("data", [b"\x0a\x00", b"\x08\x01"], ids=["ack", "second hello"])
def test_an_answer_without_a_question(data: bytes) -> None:
    with pytest.raises(PeerError):
        agent([]).receive(data)


def test_misuse_is_our_own_bug() -> None:
    with pytest.raises(BugError):
        AgentSession(0.0).snapshot([])
    with pytest.raises(BugError):
        AgentSession(0.0).submit(ADD)
    with pytest.raises(BugError):
        agent([]).snapshot([])
    with pytest.raises(BugError):
        TunnelSession().ack()


# The tunnel's side


def feed(session: TunnelSession, request: Request, descriptors: int | None = None) -> Request:
    return session.receive(encode_request(request), isinstance(request, Add) if descriptors is None else descriptors)


def test_the_tunnel_knows_what_to_drop_at_the_end_of_the_snapshot() -> None:
    session = TunnelSession()
    assert session.hello() == b"\x08\x01"
    for request in (ADD, Add("u2", INFO), Keep("u3"), Delete("u2"), SnapshotSent()):
        assert feed(session, request) == request
        session.ack()
    assert session.snapshot_received
    assert session.announced == {"u1", "u3"}


def finished() -> TunnelSession:
    session = TunnelSession()
    feed(session, SnapshotSent())
    session.ack()
    return session


@pytest.mark.parametrize(
    ("session", "request_", "descriptors", "detail"),
    [
        (finished, SnapshotSent(), 0, "second snapshot"),
        (finished, Keep("u1"), 0, "keep after the snapshot"),
        (TunnelSession, ADD, 0, "Add with 0 descriptors"),
        (TunnelSession, ADD, 2, "Add with 2 descriptors"),
        (TunnelSession, Delete("u1"), 1, "Delete with 1 descriptors"),
    ],
)
def test_what_the_agent_must_not_say(session: type[TunnelSession], request_: Request, descriptors: int, detail: str) -> None:
    with pytest.raises(PeerError, match=detail) as raised:
        feed(session(), request_, descriptors)
    assert raised.value.reason is Reason.ZDS_PROTOCOL


def test_one_message_in_flight() -> None:
    session = TunnelSession()
    feed(session, ADD)
    with pytest.raises(PeerError, match="before the ack"):
        feed(session, Delete("u1"))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20), st.lists(st.sampled_from("abcd"), max_size=4))
def test_two_ends_back_to_back_agree(changes: list[tuple[str, bool]], snapshot: list[str]) -> None:
    """Whatever changes are submitted when, the tunnel ends with the pods that the agent last said are there."""
    left, right = AgentSession(0.0), TunnelSession()
    left.receive(right.hello())
    left.snapshot([Add(uid, INFO) for uid in snapshot])
    wanted, has = set(snapshot), set()

    def turn() -> None:
        request = left.next_request(0.0)
        if request is not None:
            match feed(right, request):
                case Add(uid, _):
                    has.add(uid)
                case Delete(uid):
                    has.discard(uid)
            left.receive(right.ack())

    for uid, there in changes:
        left.submit(Add(uid, INFO) if there else Delete(uid))
        wanted = wanted | {uid} if there else wanted - {uid}
        turn()
    while left.queued:
        turn()
    assert has == wanted == right.announced
