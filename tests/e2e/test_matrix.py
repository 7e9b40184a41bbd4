"""The capture matrix: who talks × address family × which node × what kind of conversation, all on real namespaces and packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conversations import PORTS
from tests.e2e.mesh import Mesh, client, running, server
from tests.e2e.playground import eventually, namespace, strict

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

CONVERSATION = sorted(PORTS)
FAMILIES = ["v4", "v6", "mapped"]
NODES = {"same": "node-1", "other": "node-2"}
BULK = 100_000_000

# who → (client pod, server pod, whether it may, whether both ends are in the mesh)
REFUSALS = {"ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError", "EOFError", "JSONDecodeError"}
PAIRS = {
    "enrolled": ("client-mesh", "server-mesh", True, True),
    "not": ("client-mesh", "server-plain", True, False),
    "permissive": ("client-plain", "server-mesh", True, False),
    "strict-enrolled": ("client-mesh", "server-strict", True, True),
    "strict": ("client-plain", "server-strict", False, False),
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    base = tmp_path_factory.mktemp("matrix")
    objects = [namespace("mesh", ambient=True), namespace("strict", ambient=True), namespace("plain", ambient=False), strict("strict")]
    objects += [server(f"server-{kind}-{place}", kind, node) for kind in ("mesh", "plain", "strict") for place, node in NODES.items()]
    objects += [client(base, f"client-{kind}", kind, "node-1") for kind in ("mesh", "plain")]
    with running(base, "matrix", objects) as mesh:
        assert mesh.enrolled("client-mesh", *(f"server-{kind}-{place}" for kind in ("mesh", "strict") for place in NODES))
        eventually("STRICT is in force", lambda: not any(mesh.may("client-plain", mesh.v4(f"server-strict-{place}")) for place in NODES))
        yield mesh


@pytest.fixture(scope="module")
def addresses(mesh: Mesh) -> dict[tuple[str, str], str]:
    pods = [f"server-{kind}-{place}" for kind in ("mesh", "plain", "strict") for place in NODES] + ["client-mesh", "client-plain"]
    found = {(name, "v4"): mesh.v4(name) for name in pods} | {(name, "v6"): mesh.v6(name) for name in pods}
    return found | {(name, "mapped"): f"::ffff:{mesh.v4(name)}" for name in pods}


@pytest.fixture(scope="module")
def idle(mesh: Mesh, addresses: dict[tuple[str, str], str]) -> dict[str, str]:
    """Connections opened before everything else, to be used again after they were idle for a minute: key and client pod."""
    opened = {}
    for pair, (caller, called, may, _) in PAIRS.items():
        for family in FAMILIES:
            for place in NODES:
                if may:
                    key = f"{pair}-{family}-{place}"
                    answer = mesh.drive(caller, do="hold", host=addresses[f"{called}-{place}", family], key=key)
                    assert answer["ok"], (key, answer)
                    opened[key] = caller
    return opened


@pytest.mark.parametrize("conversation", CONVERSATION)
@pytest.mark.parametrize("place", list(NODES))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pair", list(PAIRS))
def test_conversation(
    mesh: Mesh, addresses: dict[tuple[str, str], str], idle: dict[str, str], pair: str, family: str, place: str, conversation: str
) -> None:
    caller, called, may, _ = PAIRS[pair]
    host = addresses[f"{called}-{place}", family]
    answer = mesh.drive(caller, do="talk", name=conversation, host=host, size=BULK)
    if not may:
        assert answer.get("error") in REFUSALS, answer
        return
    assert answer.get("ok"), answer
    plain_host = host.removeprefix("::ffff:")
    assert answer["server_seen"] == plain_host, "getpeername must show the peer that the app asked for"
    assert answer["server_port"] == PORTS[conversation]
    own = addresses[caller, "v6" if family == "v6" else "v4"]
    assert answer["own"] == own, "getsockname must show the pod's own address"
    if conversation != "bulk":
        assert answer["client_seen"] == own, "the server must see the client's real address"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_idle_connections_live_on(mesh: Mesh, idle: dict[str, str]) -> None:
    """Opened first, used last: everything above ran in between. The wait covers what is left of a minute."""
    for key, caller in idle.items():
        answer = mesh.drive(caller, do="touch", key=key, idle=60)
        assert answer["ok"], (key, answer)
