"""The capture matrix: who talks × address family × which node × what kind of conversation, all on real namespaces and packets."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.conversations import CLIENT_FIRST, PORTS
from tests.e2e.playground import CONVERSATIONS, Playground, eventually, namespace, pod, strict

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
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    base = tmp_path_factory.mktemp("matrix")
    directory = base / "manifests"
    directory.mkdir()
    playground = Playground("cvmatrix", directory)
    serve = [sys.executable, str(CONVERSATIONS), "serve"]
    objects = [namespace("mesh", ambient=True), namespace("strict", ambient=True), namespace("plain", ambient=False), strict("strict")]
    for kind in ("mesh", "plain", "strict"):
        for place, node in NODES.items():
            objects.append(pod(f"server-{kind}-{place}", kind, node, serve, port=CLIENT_FIRST))
    for kind in ("mesh", "plain"):
        name = f"client-{kind}"
        objects.append(pod(name, kind, "node-1", [sys.executable, str(CONVERSATIONS), "drive", str(playground.drive_socket(name))]))
    (directory / "all.yaml").write_text(yaml.safe_dump_all(objects))
    try:
        playground.up()
        meshed = [f"server-{kind}-{place}" for kind in ("mesh", "strict") for place in NODES] + ["client-mesh"]
        eventually("every labelled pod is in the mesh", lambda: _enrolled(playground, meshed))
        eventually("STRICT is in force", lambda: _refused(playground))
        yield playground
    finally:
        playground.down()


def _enrolled(playground: Playground, names: list[str]) -> bool:
    pods = playground.pods()
    return all(pods[name]["metadata"].get("annotations", {}).get("ambient.istio.io/redirection") == "enabled" for name in names)


def _refused(playground: Playground) -> bool:
    hosts = [playground.ips(f"server-strict-{place}")[0] for place in NODES]
    answers = [playground.drive("client-plain", do="talk", name="client_first", host=host, size=0) for host in hosts]
    return all("error" in answer for answer in answers)


def _host(playground: Playground, server: str, family: str) -> str:
    v4, v6 = playground.ips(server)
    return {"v4": v4, "v6": v6, "mapped": f"::ffff:{v4}"}[family]


@pytest.fixture(scope="module")
def addresses(mesh: Playground) -> dict[tuple[str, str], str]:
    pods = [f"server-{kind}-{place}" for kind in ("mesh", "plain", "strict") for place in NODES] + ["client-mesh", "client-plain"]
    return {(name, family): _host(mesh, name, family) for name in pods for family in FAMILIES}


@pytest.fixture(scope="module")
def idle(mesh: Playground, addresses: dict[tuple[str, str], str]) -> dict[str, str]:
    """Connections opened before everything else, to be used again after they were idle for a minute: key and client pod."""
    opened = {}
    for pair, (client, server, may, _) in PAIRS.items():
        for family in FAMILIES:
            for place in NODES:
                if may:
                    key = f"{pair}-{family}-{place}"
                    answer = mesh.drive(client, do="hold", host=addresses[f"{server}-{place}", family], key=key)
                    assert answer["ok"], (key, answer)
                    opened[key] = client
    return opened


@pytest.mark.parametrize("conversation", CONVERSATION)
@pytest.mark.parametrize("place", list(NODES))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pair", list(PAIRS))
def test_conversation(
    mesh: Playground, addresses: dict[tuple[str, str], str], idle: dict[str, str], pair: str, family: str, place: str, conversation: str
) -> None:
    client, server, may, _ = PAIRS[pair]
    host = addresses[f"{server}-{place}", family]
    answer = mesh.drive(client, do="talk", name=conversation, host=host, size=BULK)
    if not may:
        assert answer.get("error") in {
            "ConnectionResetError",
            "ConnectionRefusedError",
            "BrokenPipeError",
            "EOFError",
            "JSONDecodeError",
        }, answer
        return
    assert answer.get("ok"), answer
    plain_host = host.removeprefix("::ffff:")
    assert answer["server_seen"] == plain_host, "getpeername must show the peer that the app asked for"
    assert answer["server_port"] == PORTS[conversation]
    own = addresses[client, "v6" if family == "v6" else "v4"]
    assert answer["own"] == own, "getsockname must show the pod's own address"
    if conversation != "bulk":
        assert answer["client_seen"] == own, "the server must see the client's real address"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_idle_connections_live_on(mesh: Playground, idle: dict[str, str]) -> None:
    """Opened first, used last: everything above ran in between. The wait covers what is left of a minute."""
    for key, client in idle.items():
        answer = mesh.drive(client, do="touch", key=key, idle=60)
        assert answer["ok"], (key, answer)
