"""The fault proxy does each of its faults, and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from pathlib import Path

import pytest

from tests.cluster.api import Api, ApiError
from tests.cluster.apiserver import ApiServer
from tests.cluster.conversation import GONE, assert_expired, config_map, in_background, maps_in
from tests.cluster.faultproxy import FaultProxy
from tests.cluster.faults import Cut, Delay, Fault, Silence, Stale, call, error, gone, gone_event, too_many

pytestmark = pytest.mark.cluster


class Through:
    """A namespace of the shared server, and a client that sees it through the proxy."""

    def __init__(self, server: ApiServer, proxy: FaultProxy, namespace: str) -> None:
        self.direct = server.api
        self.api = Api(proxy.url, server.ca, server.pki.admin_token)
        self.path = maps_in(namespace)
        self.listed, self.watched = call("LIST", self.path), call("WATCH", self.path)

    def add(self, name: str) -> None:
        self.direct.post(self.path, config_map(name))

    def names(self) -> set[str]:
        return {item["metadata"]["name"] for item in self.api.items(self.path)}

    def version(self) -> str:
        version: str = self.direct.get(self.path)["metadata"]["resourceVersion"]
        return version

    def watch(self, version: str, seconds: int = 10) -> tuple[list[str], bool]:
        """(names that events told of, whether the watch was cut before its end)."""
        seen: list[str] = []
        try:
            seen.extend(event["object"]["metadata"]["name"] for event in self.api.watch(self.path, version, seconds))
        except (OSError, http.client.HTTPException, ValueError):
            return seen, True
        return seen, False


@pytest.fixture
def through(server: ApiServer, fault_proxy: FaultProxy, namespace: str) -> Through:
    return Through(server, fault_proxy, namespace)


def test_without_rules_the_proxy_changes_nothing_and_counts_by_verb_and_path(through: Through, fault_proxy: FaultProxy) -> None:
    version = through.version()
    made = through.api.post(through.path, config_map("one", size="x" * 300_000))
    assert through.api.patch(f"{through.path}/one", {"data": {"b": "2"}})["data"] == made["data"] | {"b": "2"}
    assert through.names() == {"one"}
    assert through.watch(version, seconds=1) == (["one", "one"], False)
    with pytest.raises(ApiError) as caught:
        through.api.get(f"{through.path}/none")
    assert caught.value.status == 404
    seen = [(verb, fault_proxy.count(call(verb))) for verb in ("POST", "PATCH", "LIST", "WATCH", "GET")]
    assert seen == [("POST", 1), ("PATCH", 1), ("LIST", 1), ("WATCH", 1), ("GET", 1)]
    assert fault_proxy.count(call("GET", f"{through.path}/none")) == 1


def test_kubectl_works_through_the_proxy(server: ApiServer, through: Through, fault_proxy: FaultProxy) -> None:
    through.add("one")
    config = server.admin_kubeconfig(fault_proxy.url)
    found = server.kubectl("get", "configmaps", "-n", through.path.split("/")[4], "-o", "name", kubeconfig=config)
    assert "configmap/one" in found


def test_plaintext_towards_the_client(server: ApiServer, namespace: str) -> None:
    with FaultProxy(server.url, server.ca) as proxy:
        assert proxy.url.startswith("http://")
        assert Api(proxy.url, server.ca, server.pki.admin_token).items(maps_in(namespace)) == []


def test_a_watch_event_is_passed_on_at_once(through: Through) -> None:
    watch = through.api.watch(through.path, through.version(), seconds=60)
    with contextlib.closing(watch):
        for name in ("one", "two"):
            through.add(name)
            assert next(watch)["object"]["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("fault", "code", "header"),
    [(too_many(retry_after=7), 429, ("retry-after", "7")), (error(), 500, None), (gone(), GONE, None)],
)
def test_answers_that_the_server_never_gave(
    through: Through, fault_proxy: FaultProxy, fault: Fault, code: int, header: tuple[str, str] | None
) -> None:
    rule = fault_proxy.inject(fault, through.listed, times=2)
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            through.names()
        assert caught.value.status == code
        assert header is None or header in caught.value.headers.items()
    assert through.names() == set()
    assert (rule.hits, fault_proxy.count(through.listed)) == (2, 3)


def test_a_watch_is_told_410_as_the_server_would(through: Through, fault_proxy: FaultProxy) -> None:
    fault_proxy.inject(gone_event(), through.watched, times=1)
    assert_expired(through.api, through.path, "1")
    assert through.watch(through.version(), seconds=1) == ([], False)


@pytest.mark.parametrize("half_line", [False, True])
@pytest.mark.parametrize("events", [0, 1, 2])
def test_a_watch_is_cut_after_so_many_events(through: Through, fault_proxy: FaultProxy, events: int, half_line: bool) -> None:
    version = through.version()
    names = ["one", "two", "three"]
    for name in names:
        through.add(name)
    rule = fault_proxy.inject(Cut(events=events, half_line=half_line), through.watched, times=1)
    assert through.watch(version) == (names[:events], True)
    assert rule.hits == 1
    assert through.watch(version, seconds=1) == (names, False)


def test_half_a_line_is_really_on_the_wire(through: Through, fault_proxy: FaultProxy) -> None:
    version = through.version()
    through.add("one")
    fault_proxy.inject(Cut(events=0, half_line=True), through.watched)
    with through.api.open("GET", through.path, query={"watch": 1, "resourceVersion": version}) as response:
        piece = response.read1(100_000)
    assert piece.startswith(b'{"type":"ADDED"')
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(piece)


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_an_answer_is_cut_after_so_many_bytes(through: Through, fault_proxy: FaultProxy, size: int) -> None:
    through.direct.post(through.path, config_map("large", a="x" * 5000))
    fault_proxy.inject(Cut(after_bytes=size), through.listed)
    with through.api.open("GET", through.path) as response, pytest.raises(http.client.IncompleteRead) as caught:
        response.read()
    assert len(caught.value.partial) == size


def test_running_watches_are_cut_on_request(through: Through, fault_proxy: FaultProxy) -> None:
    with in_background(lambda: through.watch("", seconds=60)) as outcome:
        fault_proxy.wait_for_calls(1, through.watched)
        assert fault_proxy.cut(call("LIST")) == 0
        assert fault_proxy.cut(through.watched) == 1
        assert outcome() == ([], True)


def test_latency(through: Through, fault_proxy: FaultProxy) -> None:
    fault_proxy.inject(Delay(0.3), through.listed, times=1)
    began = time.monotonic()
    through.names()
    assert time.monotonic() - began >= 0.3


def test_nobody_listens_until_somebody_does_again(through: Through, fault_proxy: FaultProxy) -> None:
    fault_proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        through.names()
    fault_proxy.accept()
    assert through.names() == set()


def test_refusing_resets_what_runs(through: Through, fault_proxy: FaultProxy) -> None:
    with in_background(lambda: through.watch("", seconds=60)) as outcome:
        fault_proxy.wait_for_calls(1, through.watched)
        fault_proxy.refuse()
        assert outcome() == ([], True)


def test_a_stale_list_is_an_earlier_one_again(through: Through, fault_proxy: FaultProxy) -> None:
    rule = fault_proxy.inject(Stale(), through.listed)
    through.add("one")
    assert through.names() == {"one"}
    through.add("two")
    assert through.names() == {"one"}
    rule.remove()
    assert through.names() == {"one", "two"}


def test_a_silent_watch_says_nothing_and_does_not_end(through: Through, fault_proxy: FaultProxy) -> None:
    rule = fault_proxy.inject(Silence(), through.watched)
    with in_background(lambda: through.watch("", seconds=1)) as outcome:
        fault_proxy.wait_for_calls(1, through.watched)
        through.add("one")
        with pytest.raises(TimeoutError):
            outcome(1.5)
        assert fault_proxy.cut() == 1
        assert outcome() == ([], True)
    assert rule.hits == 1


def test_the_proxy_serves_its_certificate_to_whom_trusts_the_ca(server: ApiServer, fault_proxy: FaultProxy) -> None:
    stranger = Api(fault_proxy.url, Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"))
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.text("/readyz")
    assert Api(fault_proxy.url, server.ca).text("/readyz") == "ok"
