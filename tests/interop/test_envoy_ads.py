"""Envoy beside a client, fed by our control plane in both variants of ADS: it takes everything, and its requests go where users wrote."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop import fed, isolated, plane
from tests.interop.proxied import eventually
from tests.interop.upstream import upstream

pytestmark = pytest.mark.interop


CLIENT = "router~127.0.0.1~client.shop~shop.svc.cluster.local"
WEB = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.5, selector: {app: web}, ports: [{port: 80, name: http, targetPort: PORT}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
"""
ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - {match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: web, subset: v2}}]}
  - {match: [{uri: {prefix: /teapot}}], directResponse: {status: 418}}
  - {route: [{destination: {host: web, subset: v1}, weight: 80}, {destination: {host: web, subset: v2}, weight: 20}]}
"""
MOVED = ROUTES.replace("host: web, subset: v1}, weight: 80", "host: web, subset: v2}, weight: 80")


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_requests_follow_virtual_services_and_their_changes(tmp_path: Path, delta: bool) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(upstream("v1", "127.0.0.31"))
        second = stack.enter_context(upstream("v2", "127.0.0.32", first.port))
        files = {
            "web": WEB.replace("PORT", str(first.port)),
            "routes": ROUTES,
            "v1": plane.pod("web-1", "127.0.0.31", labels="app: web, version: v1"),
            "v2": plane.pod("web-2", "127.0.0.32", labels="app: web, version: v2"),
        }
        mesh = stack.enter_context(plane.running(tmp_path / "plane", files))
        proxy = stack.enter_context(fed.running(tmp_path / "envoy", mesh, node=CLIENT, delta=delta))
        found = Counter(proxy.ask("web.shop.svc.cluster.local").server for _ in range(200))
        assert 120 < found["v1"] < 195, found
        assert Counter(proxy.ask("web.shop", end_user="jason").server for _ in range(20)) == {"v2": 20}
        assert proxy.ask("web.shop", "/teapot").status == 418
        mesh.put(routes=MOVED)
        eventually(lambda: {proxy.ask("web.shop").server for _ in range(10)} == {"v2"}, "everything to v2")
        mesh.put(v2="")
        eventually(lambda: proxy.ask("web.shop").status == 503, "v2 has no endpoints")
        mesh.put(routes="")
        eventually(lambda: proxy.ask("web.shop").server == "v1", "without routes to whoever is there")
        assert second.name == "v2"


RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outliers, namespace: shop}
spec: {host: web, trafficPolicy: {outlierDetection: {consecutive5xxErrors: ERRORS}}}
"""


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_a_destination_rule_changes_a_cluster_whose_endpoints_stay(tmp_path: Path, delta: bool) -> None:
    with ExitStack() as stack:
        app = stack.enter_context(upstream("v1", "127.0.0.31"))
        files = {
            "web": WEB.replace("PORT", str(app.port)),
            "rule": "",
            "v1": plane.pod("web-1", "127.0.0.31", labels="app: web, version: v1"),
        }
        mesh = stack.enter_context(plane.running(tmp_path / "plane", files))
        proxy = stack.enter_context(fed.running(tmp_path / "envoy", mesh, node=CLIENT, delta=delta))

        def errors() -> str:
            found = [one for config in proxy.dump()["configs"] for one in config.get("dynamic_active_clusters", ())]
            (cluster,) = [one["cluster"] for one in found if one["cluster"]["name"] == "outbound|80||web.shop.svc.cluster.local"]
            return str(cluster.get("outlier_detection", {}).get("consecutive_5xx", ""))

        assert errors() == ""
        for wanted in ("3", "4", ""):
            mesh.put(rule=RULE.replace("ERRORS", wanted) if wanted else "")
            eventually(lambda wanted=wanted: errors() == wanted and not warming(proxy), "what the rule says is in force", SOON)  # type: ignore[misc]
            assert proxy.ask("web.shop").server == "v1"


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_a_service_with_a_waypoint_is_asked_at_its_address(tmp_path: Path, delta: bool) -> None:
    """Where, in a mesh, the tunnel of the client's node takes the request to the waypoint."""
    with ExitStack() as stack:
        app = stack.enter_context(upstream("v1", "127.0.0.31"))
        node = stack.enter_context(upstream("node", "127.0.0.33"))
        web = WEB.replace("10.96.0.5", node.host).replace("port: 80,", f"port: {node.port},").replace("PORT", str(app.port))
        files = {
            "web": web,
            "routes": ROUTES,
            "waypoint": plane.WAYPOINT,
            "v1": plane.pod("web-1", "127.0.0.31", labels="app: web, version: v1"),
        }
        mesh = stack.enter_context(plane.running(tmp_path / "plane", files))
        proxy = stack.enter_context(fed.running(tmp_path / "envoy", mesh, node=CLIENT, delta=delta))
        host = f"web.shop:{node.port}"
        assert proxy.ask(host, "/teapot").status == 418
        mesh.put(
            web=web.replace("name: web, namespace: shop}", "name: web, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}", 1)
        )
        eventually(lambda: {proxy.ask(host, path).server for path in ("/", "/teapot") * 5} == {"node"}, "its address", SOON)
        mesh.put(web=web)
        eventually(lambda: proxy.ask(host, "/teapot").status == 418, "its routes are the client's again", SOON)


(NAME_SERVER,) = re.findall(r"^nameserver (\S+)", Path("/etc/resolv.conf").read_text(), re.M)[:1] or ["127.0.0.1"]
SOON = 8.0
"""Seconds; less than the 15 after which Envoy goes on without what it has asked for."""
LATE = """
apiVersion: v1
kind: Service
metadata: {name: late, namespace: shop}
spec: {clusterIP: 10.96.0.6, selector: {app: web}, ports: [{port: 80, name: http, targetPort: PORT}]}
---
"""
ABROAD = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: abroad, namespace: shop}
spec: {hosts: [abroad.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
"""


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_what_comes_later_is_there_at_once(tmp_path: Path, delta: bool) -> None:
    """Envoy answers to new clusters when they are warm, for which it wants their endpoints."""
    with ExitStack() as stack:
        app = stack.enter_context(upstream("v1", "127.0.0.31"))
        files = {
            "web": WEB.replace("PORT", str(app.port)),
            "v1": plane.pod("web-1", "127.0.0.31", labels="app: web, version: v1"),
        }
        mesh = stack.enter_context(plane.running(tmp_path / "plane", files))
        proxy = stack.enter_context(fed.running(tmp_path / "envoy", mesh, node=CLIENT, delta=delta))
        assert proxy.ask("web.shop").server == "v1"
        mesh.put(late=LATE.replace("PORT", str(app.port)))
        eventually(lambda: proxy.ask("late.shop").server == "v1", "the new service", SOON)
        mesh.put(routes=ROUTES)
        eventually(lambda: proxy.ask("web.shop", "/teapot").status == 418, "routes to subsets, which are new clusters", SOON)


CHOSEN = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: shop, labels: {networking.istio.io/enable-autoallocate-ip: 'false'}}
spec:
  hosts: [ext.example.com]
  resolution: HOW
  ports: [{number: PORT, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: web}}
---
"""
NAMED = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: named, namespace: shop}
spec: {address: localhost, labels: {app: web}}
---
"""


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
@pytest.mark.parametrize("resolution", ["DNS", "DNS_ROUND_ROBIN"])
def test_pods_in_the_mesh_behind_an_entry_that_is_looked_up(tmp_path: Path, resolution: str, delta: bool) -> None:
    """None of them, several, with a name beside them, and without it again: each is another kind of cluster to Envoy."""
    with ExitStack() as stack:
        first = stack.enter_context(upstream("first", "127.0.0.31"))
        stack.enter_context(upstream("second", "127.0.0.32", first.port))
        stack.enter_context(upstream("named", "127.0.0.1", first.port))
        pods = {
            name: plane.pod(name, host, labels="app: web", annotations="ambient.istio.io/redirection: enabled")
            for name, host in (("first", "127.0.0.31"), ("second", "127.0.0.32"))
        }
        chosen = CHOSEN.replace("HOW", resolution).replace("PORT", str(first.port))
        mesh = stack.enter_context(plane.running(tmp_path / "plane", {"chosen": chosen}))
        proxy = stack.enter_context(fed.running(tmp_path / "envoy", mesh, node=CLIENT, delta=delta))

        def served() -> set[str]:
            return {proxy.ask(f"ext.example.com:{first.port}").server for _ in range(20)}

        assert proxy.ask(f"ext.example.com:{first.port}").status == 503, "nobody is there"
        mesh.put(**pods)
        eventually(lambda: served() == {"first", "second"}, "by their addresses", SOON)
        mesh.put(named=NAMED)
        eventually(lambda: served() == {"first", "second", "named"}, "by its name, too", SOON)
        mesh.put(named="")
        eventually(lambda: served() == {"first", "second"}, "by their addresses again", SOON)


def warming(proxy: fed.Envoy) -> int:
    (count,) = proxy.stats("^cluster_manager.warming_clusters$").values()
    return count


@pytest.mark.netns
@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state of the world"])
def test_a_name_server_that_does_not_answer_keeps_nothing_else_back(tmp_path: Path, delta: bool) -> None:
    """Envoy answers to no cluster before all are warm, and asks for two minutes."""
    with ExitStack() as stack:
        place = stack.enter_context(isolated.isolated())
        stack.enter_context(place.silent(NAME_SERVER))
        app = stack.enter_context(upstream("v1", "127.0.0.31", listener=place.listen("127.0.0.31")))
        stack.enter_context(upstream("v2", "127.0.0.32", listener=place.listen("127.0.0.32", app.port)))
        files = {
            "web": WEB.replace("PORT", str(app.port)),
            "v1": plane.pod("web-1", "127.0.0.31", labels="app: web, version: v1"),
        }
        mesh = stack.enter_context(plane.running(tmp_path / "plane", files))
        door = stack.enter_context(isolated.door(place, mesh.port))
        control = fed.over_tls(mesh, door.port)
        proxy = stack.enter_context(fed.running(tmp_path / "envoy", mesh, node=CLIENT, delta=delta, place=place, control=control))
        mesh.put(abroad=ABROAD)
        eventually(lambda: warming(proxy) == 1, "it asks")
        mesh.put(late=LATE.replace("PORT", str(app.port)))
        mesh.put(v1="", v2=plane.pod("web-2", "127.0.0.32", labels="app: web, version: v2"))
        mesh.put(routes=ROUTES)
        eventually(lambda: proxy.ask("late.shop").server == "v2", "another service", SOON)
        eventually(lambda: proxy.ask("web.shop", "/teapot").status == 418, "other routes", SOON)
        eventually(lambda: proxy.ask("web.shop", end_user="jason").server == "v2", "other endpoints", SOON)
        assert warming(proxy) > 0, "it asks no more: nothing was seen"
        mesh.put(abroad="")
        eventually(lambda: not warming(proxy), "what is not wanted any more is not asked for", SOON)
