"""The mesh's own processes as the playground starts them: one control plane, and an agent and a tunnel per node. Pure but for paths."""

from __future__ import annotations

from dataclasses import dataclass

from culvert.playground.addresses import CONTROL_HOST, node_wire_addresses, wire_addresses
from culvert.playground.consul import environment
from culvert.playground.launch import Program
from culvert.playground.layout import Layout
from culvert.playground.probespec import ProbeKind, ProbeSpec
from culvert.playground.spec import PlaygroundSpec

CONTROL = "control"
AGENT = "agent"
TUNNEL = "ztunnel"
XDS_PORT, CONTROL_HTTP_PORT, AGENT_HTTP_PORT, TUNNEL_ADMIN_PORT, TUNNEL_READY_PORT = 15012, 15014, 15030, 15000, 15021
SERVER_NAME = "istiod.istio-system.svc"
ROOT_CERTIFICATE = "root-cert.pem"
LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class MeshProgram:
    """`name` is unique in the playground: `control`, `node-1.agent`, `node-1.ztunnel`.

    `needs_root_ca`: not to be started before the control plane wrote its root certificate.
    """

    name: str
    kind: str
    node: str
    program: Program
    readiness: ProbeSpec
    needs_root_ca: bool = False


def mesh_programs(layout: Layout, spec: PlaygroundSpec) -> list[MeshProgram]:
    if not spec.mesh:
        return []
    programs = [_control(layout, spec)]
    for number, node in enumerate(spec.nodes, 1):
        programs += [_agent(layout, spec, node), _tunnel(layout, spec, node, str(node_wire_addresses(number)[0]))]
    return programs


def _control(layout: Layout, spec: PlaygroundSpec) -> MeshProgram:
    env = {
        "CULVERT_INSTANCE": layout.name,
        "CULVERT_MANIFESTS": f"{layout.objects}:{layout.refused_objects}",
        "CULVERT_CA_DIR": str(layout.ca),
        "CULVERT_NODE_TOKENS": str(layout.tokens),
        "CULVERT_XDS_ADDRESS": f"[::]:{XDS_PORT}",
        "CULVERT_HTTP_ADDRESS": f"[::]:{CONTROL_HTTP_PORT}",
        "CULVERT_SERVER_NAMES": SERVER_NAME,
    }
    if spec.certificate_lifetime is not None:
        env["CULVERT_CERT_TTL"] = str(spec.certificate_lifetime)
    env |= environment(spec.consul)
    return _program(layout, spec, CONTROL, "", env, (CONTROL_HTTP_PORT, "/ready"))


def _agent(layout: Layout, spec: PlaygroundSpec, node: str) -> MeshProgram:
    env = {
        "CULVERT_INSTANCE": layout.instance(node),
        "NODE_NAME": node,
        "CULVERT_PODS_DIR": str(layout.agent_pods(node)),
        "CULVERT_REDIRECTION_DIR": str(layout.redirection(node)),
        "CULVERT_RUN_DIR": str(layout.run_dir(node)),
        "CULVERT_HTTP_ADDRESS": f"{LOCAL}:{AGENT_HTTP_PORT}",
    }
    return _program(layout, spec, AGENT, node, env, (AGENT_HTTP_PORT, "/readyz"))


def _tunnel(layout: Layout, spec: PlaygroundSpec, node: str, address: str) -> MeshProgram:
    control = f"https://{wire_addresses(CONTROL_HOST)[0]}:{XDS_PORT}"
    root = str(layout.ca / ROOT_CERTIFICATE)
    env = {
        "CULVERT_INSTANCE": layout.instance(node),
        "NODE_NAME": node,
        "POD_NAME": f"ztunnel-{node}",
        "POD_NAMESPACE": "istio-system",
        "INSTANCE_IP": address,
        "CLUSTER_ID": "Kubernetes",
        "XDS_ADDRESS": control,
        "XDS_ROOT_CA": root,
        "CA_ADDRESS": control,
        "CA_ROOT_CA": root,
        "ALT_XDS_HOSTNAME": SERVER_NAME,
        "AUTH_TOKEN": str(layout.tokens / node),
        "INPOD_UDS": str(layout.run_dir(node) / "ztunnel.sock"),
        "CULVERT_MARK_FILE": str(layout.run_dir(node) / "tunnel-mark"),
    }
    return _program(layout, spec, TUNNEL, node, env, (TUNNEL_READY_PORT, "/healthz/ready"))


def _program(layout: Layout, spec: PlaygroundSpec, kind: str, node: str, env: dict[str, str], ready: tuple[int, str]) -> MeshProgram:
    """`ready` is the port and path that answer 200 when the process is."""
    name = f"{node}.{kind}" if node else kind
    base = {"PATH": spec.path, "HOME": "/root", "LANG": "C.UTF-8", "LOG_FORMAT": "json", "PYTHONPATH": spec.source}
    program = Program(
        argv=(spec.python, "-m", kind),
        env=base | env,
        netns=layout.node(node) if node else layout.control,
        log=layout.logs / f"{name}.log",
        cwd=str(layout.state),
    )
    probe = ProbeSpec("readinessProbe", ProbeKind.HTTP, port=ready[0], path=ready[1], host=LOCAL, period=2, timeout=2)
    return MeshProgram(name, kind, node, program, probe, needs_root_ca=kind == TUNNEL)
