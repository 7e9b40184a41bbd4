"""A name that is looked up may have pods behind it: those are told like any others, as far as a proxy can do both."""

from __future__ import annotations

from control.resolve.l7.plans import CLUSTER_TYPE, ENDPOINT_TYPE
from tests.control.objects import feed, pod, resolved, told
from tests.control.resolve.l7 import CLIENT, Served
from tests.control.resolve.test_entries import entry, machine
from tests.control.resolve.test_l7 import cluster
from tests.control.resolve.test_through import MESHED, TUNNELS, dialled

HOST = "ext.example.com"
SPEC = f"hosts: [{HOST}], ports: [{{number: 80, name: http}}], resolution: DNS, workloadSelector: {{labels: {{app: web}}}}"
EXT = entry("ext", SPEC, "labels: {networking.istio.io/enable-autoallocate-ip: 'false'}")
FAR = machine("far", "address: far.example.net, labels: {app: web}")


def test_where_all_have_addresses_they_come_from_us() -> None:
    name, mesh = cluster(host=HOST), resolved(EXT, *MESHED)
    plain, tunnels = Served(CLIENT, mesh=mesh), Served(TUNNELS, mesh=mesh)
    for _ in range(2):
        assert plain.addresses(name) == dialled(mesh, name) == ["10.0.0.1:80", "10.0.0.2:80"]
        assert tunnels.addresses(name) == ["tunnel 10.0.0.1:80", "10.0.0.2:80"]
        feed(mesh, EXT, *MESHED, FAR)
        made = tunnels.get(CLUSTER_TYPE, name)
        ends = {one.endpoint.address.socket_address.address for group in made.load_assignment.endpoints for one in group.lb_endpoints}
        assert (made.type, ends) == (made.STRICT_DNS, {"far.example.net", "10.0.0.2"}), "past the tunnel of the other leads nothing"
        assert name not in tunnels.names(ENDPOINT_TYPE)
        feed(mesh, EXT, *MESHED)


def test_names_beside_pods_in_the_mesh_are_told() -> None:
    mesh = resolved(EXT, *MESHED)
    assert told(mesh) == []
    feed(mesh, EXT, *MESHED, FAR)
    (status,) = told(mesh)
    assert status.notes == (
        "far.example.net is looked up, shop/web-1 is in the mesh: waypoints, and Envoys that tunnel, reach only what is looked up",
    )
    feed(mesh, EXT, pod("web-1", "10.0.0.1"), FAR)
    assert told(mesh) == []
