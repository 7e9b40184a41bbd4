"""`--consul`: what is taken, how the control plane gets there, and the port that leads out of its namespace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from culvert.cli.output import UsageError
from culvert.cli.up import _spec, consul_options
from culvert.config import Config
from culvert.playground.consul import ConsulOptions, checked, environment, target
from culvert.playground.forward import MAX_CONNECTIONS, Forward
from culvert.playground.layout import STATE_ROOT, Layout, node_names
from culvert.playground.meshprograms import mesh_programs
from culvert.playground.spec import PlaygroundSpec

CONFIG = Config(path="/bin", name="culvert", python="python", source=Path("/src"))


@pytest.mark.parametrize(
    ("options", "forwarded", "variables"),
    [
        (ConsulOptions(), None, {}),
        (ConsulOptions("http://172.30.0.11:8500"), None, {"CULVERT_CONSUL": "http://172.30.0.11:8500"}),
        (ConsulOptions("http://[fd00:172:30::b]:8500"), None, {"CULVERT_CONSUL": "http://[fd00:172:30::b]:8500"}),
        (ConsulOptions("http://127.0.0.1:8501", "/token"), ("127.0.0.1", 8501), {"CULVERT_CONSUL": "http://127.0.0.1:8500"}),
        (ConsulOptions("http://consul.example:80/base"), ("consul.example", 80), {"CULVERT_CONSUL": "http://127.0.0.1:8500/base"}),
        (
            ConsulOptions("https://consul.example:8501", "", "/ca.pem"),
            ("consul.example", 8501),
            {
                "CULVERT_CONSUL": "https://127.0.0.1:8500",
                "CULVERT_CONSUL_SERVER_NAME": "consul.example",
                "CULVERT_CONSUL_CA_FILE": "/ca.pem",
            },
        ),
    ],
)
def test_a_consul_beyond_the_wire_is_asked_by_way_of_the_supervisor(
    options: ConsulOptions, forwarded: tuple[str, int] | None, variables: dict[str, str]
) -> None:
    assert target(options) == forwarded
    if options.token_file:
        variables = variables | {"CULVERT_CONSUL_TOKEN_FILE": options.token_file}
    if forwarded is not None:
        variables = variables | {"CULVERT_CONSUL_CALLED": options.address}
    assert environment(options) == variables


def test_what_the_control_plane_is_told_it_understands() -> None:
    for address in ("https://consul.example/base", "http://172.30.0.11"):
        given = checked(ConsulOptions(address))
        assert checked(ConsulOptions(environment(given)["CULVERT_CONSUL"])).address == environment(given)["CULVERT_CONSUL"]


def test_the_control_plane_of_a_playground_is_told(tmp_path: Path) -> None:
    spec = PlaygroundSpec(node_names(1), True, "/bin", "python", "/src", consul=ConsulOptions("http://127.0.0.1:8500"))
    programs = {item.name: item for item in mesh_programs(Layout("shop", STATE_ROOT / "shop"), spec)}
    assert programs["control"].program.env["CULVERT_CONSUL"] == "http://127.0.0.1:8500"
    assert "CULVERT_CONSUL" not in programs["node-1.ztunnel"].program.env


def test_a_playground_remembers_its_consul(tmp_path: Path) -> None:
    layout = Layout("shop", tmp_path)
    consul = ConsulOptions("http://127.0.0.1:8500", "/token")
    PlaygroundSpec(node_names(1), True, "/bin", "python", "/src", consul=consul).save(layout)
    assert _spec(layout, CONFIG, None, mesh=True, certificate_lifetime=None).consul == consul
    assert _spec(layout, CONFIG, None, mesh=True, certificate_lifetime=None, consul=consul).consul == consul
    with pytest.raises(UsageError, match=r"reads services from Consul at http://127\.0\.0\.1:8500.*culvert down --name shop"):
        _spec(layout, CONFIG, None, mesh=True, certificate_lifetime=None, consul=ConsulOptions("http://10.0.0.1:8500"))


def test_a_playground_from_before_there_was_consul_has_none(tmp_path: Path) -> None:
    layout = Layout("shop", tmp_path)
    layout.spec.write_text('{"nodes": ["node-1"], "mesh": true, "path": "/bin", "python": "python", "source": "/src"}')
    found = PlaygroundSpec.load(layout)
    assert found is not None
    assert not found.consul
    with pytest.raises(UsageError, match="reads services from no Consul"):
        _spec(layout, CONFIG, None, mesh=True, certificate_lifetime=None, consul=ConsulOptions("http://10.0.0.1:8500"))


def test_options_are_taken_whole_or_refused_by_their_names(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    assert consul_options(None, None, None) is None
    assert consul_options("http://127.0.0.1", token, None) == ConsulOptions("http://127.0.0.1:8500", str(token))
    with pytest.raises(UsageError, match="which one, with --consul"):
        consul_options(None, token, None)
    with pytest.raises(UsageError, match="missing is no file"):
        consul_options("http://127.0.0.1", tmp_path / "missing", None)
    with pytest.raises(UsageError, match=r"--consul: '127\.0\.0\.1:8500' is not accepted; accepted: http://HOST"):
        consul_options("127.0.0.1:8500", None, None)
    with pytest.raises(UsageError, match=r"--consul-ca-file: .* accepted: nothing"):
        consul_options("http://127.0.0.1", None, token)


def test_without_a_mesh_there_is_nobody_to_read_from_consul(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out --no-mesh"):
        _spec(Layout("shop", tmp_path), CONFIG, None, mesh=False, certificate_lifetime=None, consul=ConsulOptions("http://h"))


# The forwarder


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says what it heard, when that has ended."""
    writer.write(b"heard " + await reader.read())
    writer.close()


def forwarding(handler: Callable[..., Coroutine[Any, Any, None]], test: Callable[[Forward, tuple[str, int]], Awaitable[None]]) -> None:
    """`handler` is whoever is at the other end."""

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(lambda *streams: tasks.append(asyncio.create_task(handler(*streams))), "127.0.0.1", 0)
        forward = Forward(server.sockets[0].getsockname()[:2], lambda: None)
        sock = socket.create_server(("127.0.0.1", 0))
        await forward.serve(sock)
        try:
            async with asyncio.timeout(10):
                await test(forward, sock.getsockname()[:2])
        finally:
            await forward.close()
            server.close()
            await asyncio.gather(*tasks)

    asyncio.run(main())


def test_bytes_and_ends_pass_both_ways() -> None:
    async def test(forward: Forward, address: tuple[str, int]) -> None:
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x" * 300_000)
            writer.write_eof()
            assert await reader.read() == b"heard " + b"x" * 300_000
            writer.close()
        assert forward.problem == ""

    forwarding(echo, test)


def test_a_reset_on_one_side_is_an_end_on_the_other() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.transport.abort()

    async def test(forward: Forward, address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x")
        assert await reader.read() == b""
        writer.close()

    forwarding(reset, test)


def test_nobody_there_is_said_and_forgotten_when_somebody_is() -> None:
    async def test(forward: Forward, address: tuple[str, int]) -> None:
        good, forward.target = forward.target, ("127.0.0.1", 9)
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""
        writer.close()
        assert forward.problem.startswith("127.0.0.1:9 cannot be reached")
        forward.target = good
        reader, writer = await asyncio.open_connection(*address)
        writer.write_eof()
        assert await reader.read() == b"heard "
        writer.close()
        assert forward.problem == ""

    forwarding(echo, test)


def test_connections_have_a_bound() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def test(forward: Forward, address: tuple[str, int]) -> None:
        held = [await asyncio.open_connection(*address) for _ in range(MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""
        writer.close()
        for _, one in held:
            one.close()

    forwarding(hold, test)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        said: list[str] = []
        forward = Forward(("127.0.0.1", 9), lambda: said.append("changed"))
        await forward.start("no-such-namespace", ("127.0.0.1", 8500))
        assert "nothing can listen at 127.0.0.1:8500 of no-such-namespace" in forward.problem
        assert said == ["changed"]

    asyncio.run(main())
