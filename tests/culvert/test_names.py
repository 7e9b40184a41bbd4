"""Names that the control plane tells: which are taken, how they are asked for, and what stays while it says nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from culvert.playground.names import MAX_ADDRESSES, MAX_BYTES, MAX_NAMES, Names, NamesError, parse_names
from culvert.playground.namewatch import NameWatch
from mesh.io.http import HttpServer, Request, Response, json_response, text


def document(names: Any, number: Any = 1) -> dict[str, Any]:
    return {"number": number, "names": names}


def test_names_and_addresses_are_taken_as_they_are() -> None:
    told = {"web.service.consul": ["240.240.1.2", "fd00:240::1:2"], "api.example.com": ["240.240.1.3"], "empty.service.consul": []}
    assert parse_names(document(told, 7)) == Names(
        7, {"api.example.com": ("240.240.1.3",), "empty.service.consul": (), "web.service.consul": ("240.240.1.2", "fd00:240::1:2")}
    )


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "ip6-loopback",
        "web.localhost",
        "localhost.localdomain",
        "Web.service.consul",
        "*.example.com",
        "web.service.consul.",
        ".consul",
        "web..consul",
        "-web.consul",
        "web_1.consul",
        "web.service.consul evil.example.com",
        "web.consul\n127.0.0.1 evil",
        "web.consul\tevil",
        "10.0.0.1",
        "a." + "b" * 64,
        ".".join(["a" * 60] * 5),
        "",
    ],
)
def test_a_name_that_no_hosts_file_can_have_is_left_out_and_said(name: str) -> None:
    found = parse_names(document({"web.service.consul": ["240.240.1.2"], "db": ["240.240.1.4"], name: ["240.240.1.3"]}))
    assert set(found.names) == {"web.service.consul", "db"}
    assert found.unusable == (name,)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "fe80::1", "fd00::1%eth0", "240.240.1.2 evil", "240.240.1.0/24", "web", "", "1"]
)
def test_a_name_with_an_address_that_is_none_here_is_left_out_and_said(address: str) -> None:
    found = parse_names(document({"web.service.consul": ["240.240.1.2", address], "db.service.consul": []}))
    assert (found.names, found.unusable) == ({"db.service.consul": ()}, ("web.service.consul",))


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {},
        {"number": 1},
        {"number": 1, "names": {}, "more": 1},
        document([]),
        document({}, -1),
        document({}, True),
        document({}, 1.0),
        document({}, 2**70),
        document({"web.service.consul": "240.240.1.2"}),
        document({"web.service.consul": None}),
        document({"web.service.consul": [1]}),
        document({"web.service.consul": [["240.240.1.2"]]}),
        document({"web.service.consul": ["240.240.1.2"] * (MAX_ADDRESSES + 1)}),
        document({f"web-{number}.service.consul": [] for number in range(MAX_NAMES + 1)}),
    ],
)
def test_what_is_no_such_document_is_not_taken(told: Any) -> None:
    with pytest.raises(NamesError):
        parse_names(told)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(JSON | st.builds(document, st.dictionaries(st.text(max_size=30), st.lists(st.text(max_size=20), max_size=3), max_size=4)))
def test_nothing_that_is_taken_can_break_a_line(told: Any) -> None:
    try:
        found = parse_names(told)
    except NamesError:
        return
    for name, addresses in found.names.items():
        assert not any(character.isspace() or character == "#" for text in (name, *addresses) for character in text)


# Asking


class Teller:
    """A control plane that tells names; each answer may be replaced. `asked` are the tags that it was asked with."""

    def __init__(self, told: Any) -> None:
        self.told = told
        self.replaced: Response | None = None
        self.tagged = True
        self.asked: list[str] = []
        self.server = HttpServer({("GET", "/debug/names"): self._answer})

    def _answer(self, request: Request) -> Response:
        self.asked.append(request.headers.get("if-none-match", ""))
        if self.replaced is not None:
            return self.replaced
        tag = f'"{self.told["number"]}"'
        if self.tagged and self.asked[-1] == tag:
            return Response(304, headers=(("etag", tag),))
        found = json_response(self.told)
        return Response(200, found.body, found.content_type, (("etag", tag),) if self.tagged else ())


class Rig:
    def __init__(self, teller: Teller, memory: Path) -> None:
        self.teller = teller
        self.memory = memory
        self.changes = 0
        self.address = teller.server.addresses[0]
        self.watch = self.another()

    def another(self) -> NameWatch:
        """As a supervisor that was started again has."""
        return NameWatch(_socket, self.address, self.memory, self._changed, period=0.01)

    def _changed(self) -> None:
        self.changes += 1


def _socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def asking(tmp_path: Path, told: Any, test: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        teller = Teller(told)
        await teller.server.start("127.0.0.1:0")
        try:
            await test(Rig(teller, tmp_path / "names.json"))
        finally:
            await teller.server.close(0.1)

    asyncio.run(main())


WEB = document({"web.service.consul": ["240.240.1.2"]}, 1)
MORE = document({"web.service.consul": ["240.240.1.2"], "db.service.consul": ["240.240.1.3"]}, 2)


def test_what_is_told_is_taken_and_what_is_gone_goes(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.watch.look()
        assert rig.watch.names == {"web.service.consul": ("240.240.1.2",)}
        rig.teller.told = MORE
        await rig.watch.look()
        assert set(rig.watch.names) == {"web.service.consul", "db.service.consul"}
        rig.teller.told = document({}, 3)
        await rig.watch.look()
        assert (rig.watch.names, rig.changes) == ({}, 3)

    asking(tmp_path, WEB, test)


@pytest.mark.parametrize("tagged", [True, False])
def test_nothing_new_changes_nothing(tmp_path: Path, tagged: bool) -> None:
    async def test(rig: Rig) -> None:
        rig.teller.tagged = tagged
        for _ in range(3):
            await rig.watch.look()
        assert rig.changes == 1
        assert rig.teller.asked == ["", '"1"' if tagged else "", '"1"' if tagged else ""]

    asking(tmp_path, WEB, test)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (text("no", 500), "answers 500"),
        (json_response({"number": 1}), "not a mapping with number and names"),
        (json_response(document({"web.service.consul": "240.240.1.2"})), "addresses of 'web.service.consul' are not a list"),
        (text("<html>"), "no JSON"),
        (text("[" * 100_000), "no JSON"),
        (Response(200, b"x" * (MAX_BYTES + 1)), f"more than {MAX_BYTES} bytes"),
    ],
)
def test_what_is_not_taken_leaves_what_is_known_and_is_said(tmp_path: Path, answer: Response, problem: str) -> None:
    async def test(rig: Rig) -> None:
        await rig.watch.look()
        rig.teller.replaced = answer
        await rig.watch.look()
        assert rig.watch.names == {"web.service.consul": ("240.240.1.2",)}
        assert problem in rig.watch.problem
        assert rig.changes == 2
        rig.teller.replaced = None
        await rig.watch.look()
        assert (rig.watch.problem, rig.changes) == ("", 3)

    asking(tmp_path, WEB, test)


def test_what_pods_cannot_be_given_is_said_apart_from_problems(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.teller.told = document({"web.service.consul": ["240.240.1.2"], "localhost": ["240.240.1.3"]})
        await rig.watch.look()
        assert set(rig.watch.names) == {"web.service.consul"}
        assert (rig.watch.unusable, rig.watch.problem, rig.changes) == (("localhost",), "", 1)

    asking(tmp_path, WEB, test)


def test_a_control_plane_that_knows_no_such_question_has_no_names(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.teller.replaced = text("not found", 404)
        await rig.watch.look()
        assert (rig.watch.names, rig.watch.problem, rig.changes) == ({}, "", 0)

    asking(tmp_path, WEB, test)


def test_names_outlive_the_control_plane_and_the_supervisor(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.watch.look()
        await rig.teller.server.close(0)
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await rig.watch.look()
        assert rig.watch.names == rig.another().names == {"web.service.consul": ("240.240.1.2",)}

    asking(tmp_path, WEB, test)


def test_what_is_remembered_is_not_taken_on_trust(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.memory.write_text(json.dumps(document({"localhost": ["10.0.0.1"]})))
        assert rig.another().names == {}

    asking(tmp_path, WEB, test)


def test_it_asks_again_and_again_also_where_nobody_answers(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.teller.server.close(0)
        watching = asyncio.create_task(rig.watch.run())
        await asyncio.sleep(0.03)
        await rig.teller.server.start(f"{rig.address[0]}:{rig.address[1]}")
        async with asyncio.timeout(5):
            while not rig.watch.names:
                await asyncio.sleep(0.001)
        rig.teller.told = MORE
        async with asyncio.timeout(5):
            while len(rig.watch.names) < 2:
                await asyncio.sleep(0.001)
        watching.cancel()
        await asyncio.wait([watching])

    asking(tmp_path, WEB, test)
