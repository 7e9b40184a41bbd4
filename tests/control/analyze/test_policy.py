"""What is found in policies, mutual TLS, tokens and telemetry."""

from __future__ import annotations

import pytest

from control.analyze import Options, analyze
from tests.control.analyze.manifests import (
    AMBIENT,
    MESH,
    PLAIN,
    SHOP,
    TUNNELS,
    Case,
    account,
    ap,
    cart,
    deployment,
    found,
    found_in_cluster,
    gateway,
    given,
    pa,
    ra,
    thing,
    vs,
    waypoint,
)
from tests.control.objects import namespace, service

SELECT = "selector: {matchLabels: {app: cart}}"
TARGET = "targetRefs: [{kind: Service, group: '', name: cart}]"
WEB = deployment("web", spec="serviceAccountName: web")
TELEMETRY = "telemetry.istio.io/v1"
SOURCE = "spec.rules[0].from[0].source"
OPERATION = "spec.rules[0].to[0].operation"
JWKS = '{"keys": [{"kty": "oct", "k": "AQAB"}]}'
KEYED = f"jwtRules: [{{issuer: me, jwks: '{JWKS}'}}]"


def source(text: str, where: str = SELECT) -> str:
    return f"{where}, rules: [{{from: [{{source: {{{text}}}}}]}}]"


def operation(text: str, where: str = SELECT) -> str:
    return f"{where}, rules: [{{to: [{{operation: {{{text}}}}}]}}]"


def telemetry(name: str, spec: str, where: str = "shop") -> str:
    return thing(TELEMETRY, "Telemetry", name, spec, where)


CASES: dict[str, Case] = {
    # Whom policies are for
    "a policy for pods that are there": ([*TUNNELS, ap("p", operation("ports: ['8080']"))], []),
    "a policy that selects nothing": (
        [*TUNNELS, ap("p", "selector: {matchLabels: {app: crat}}, rules: [{}]")],
        ["CV0801 warning AuthorizationPolicy shop/p spec.selector.matchLabels[app]"],
    ),
    "a policy alone": ([ap("p", f"{SELECT}, rules: [{{}}]")], []),
    "a policy of the root namespace": ([*TUNNELS, ap("p", "selector: {matchLabels: {app: cart}}, rules: [{}]", "istio-system")], []),
    "a policy for a WorkloadEntry": (
        [
            PLAIN,
            thing("networking.istio.io/v1", "WorkloadEntry", "vm", "address: 10.1.1.1, labels: {app: vm}"),
            service("vm", "selector: {app: vm}, ports: [{port: 80}]"),
            ap("p", "selector: {matchLabels: {app: vm}}, rules: [{}]"),
        ],
        [],
    ),
    "a modes' selector that selects nothing": (
        [*TUNNELS, pa("p", "selector: {matchLabels: {app: crat}}, mtls: {mode: STRICT}")],
        ["CV0801 warning PeerAuthentication shop/p spec.selector.matchLabels[app]"],
    ),
    "a target that is not there": (
        [*MESH, ap("p", "targetRefs: [{kind: Service, group: '', name: crat}], rules: [{}]")],
        ["CV0802 error AuthorizationPolicy shop/p spec.targetRefs[0].name"],
    ),
    "a single target that is not there": (
        [*MESH, ap("p", "targetRef: {kind: Gateway, group: gateway.networking.k8s.io, name: wpp}, rules: [{}]")],
        ["CV0802 error AuthorizationPolicy shop/p spec.targetRef.name"],
    ),
    "targets in files without services": ([ap("p", f"{TARGET}, rules: [{{}}]")], []),
    # What needs a waypoint
    "requests without a waypoint": (
        [*TUNNELS, ap("p", operation("methods: [GET], ports: ['8080']"))],
        [f"CV0803 error AuthorizationPolicy shop/p {OPERATION}.methods"],
    ),
    "a selector where there is a waypoint": (
        [*MESH, ap("p", operation("paths: [/a]"))],
        [f"CV0803 error AuthorizationPolicy shop/p {OPERATION}.paths"],
    ),
    "request principals and headers without a waypoint": (
        [
            *TUNNELS,
            ap(
                "p",
                f"{SELECT}, rules: [{{from: [{{source: {{requestPrincipals: [a/b]}}}}]}}, "
                f"{{when: [{{key: 'request.headers[x]', values: [y]}}]}}]",
            ),
        ],
        [
            f"CV0803 error AuthorizationPolicy shop/p {SOURCE}.requestPrincipals",
            "CV0803 error AuthorizationPolicy shop/p spec.rules[1].when[0].key",
        ],
    ),
    "requests at a waypoint": ([*MESH, ap("p", operation("methods: [GET], paths: [/a]", TARGET))], []),
    "a target without a waypoint": (
        [*TUNNELS, ap("p", operation("methods: [GET]", TARGET))],
        ["CV0804 error AuthorizationPolicy shop/p spec.targetRefs[0]"],
    ),
    "a target whose waypoint is missing": (
        [SHOP, cart(), deployment("cart"), ap("p", operation("methods: [GET]", TARGET))],
        [
            "CV0301 error Namespace shop metadata.labels[istio.io/use-waypoint]",
            "CV0804 error AuthorizationPolicy shop/p spec.targetRefs[0]",
        ],
    ),
    "a target in a namespace whose labels are not known": ([cart(), deployment("cart"), ap("p", operation("methods: [GET]", TARGET))], []),
    "a Gateway that is a waypoint": (
        [*MESH, ap("p", "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}], rules: [{}]")],
        [],
    ),
    # Rules that never match
    "a method in small letters": (
        [*MESH, ap("p", operation("methods: [GET, post]", TARGET))],
        [f"CV0805 warning AuthorizationPolicy shop/p {OPERATION}.methods[1]"],
    ),
    "a value that is taken away again": (
        [*TUNNELS, ap("p", operation("ports: ['8080'], notPorts: ['8080', '9090']"))],
        [f"CV0805 warning AuthorizationPolicy shop/p {OPERATION}.notPorts"],
    ),
    "a value that is not taken away": ([*TUNNELS, ap("p", operation("ports: ['8080'], notPorts: ['9090']"))], []),
    "a condition that never holds": (
        [*TUNNELS, ap("p", f"{SELECT}, rules: [{{when: [{{key: source.namespace, values: [shop], notValues: [shop]}}]}}]")],
        ["CV0805 warning AuthorizationPolicy shop/p spec.rules[0].when[0].notValues"],
    ),
    "principals of one namespace, and another": (
        [*TUNNELS, account("web"), namespace("other"), ap("p", source("principals: [cluster.local/ns/shop/sa/web], namespaces: [other]"))],
        [f"CV0805 warning AuthorizationPolicy shop/p {SOURCE}.namespaces"],
    ),
    "the Service's port at the pods": (
        [*TUNNELS, ap("p", operation("ports: ['80']"))],
        [f"CV0805 warning AuthorizationPolicy shop/p {OPERATION}.ports[0]"],
    ),
    "a port of pods that declare none": ([PLAIN, deployment("cart", ports="[]"), ap("p", operation("ports: ['80']"))], []),
    "a port by its key": (
        [*TUNNELS, ap("p", f"{SELECT}, rules: [{{when: [{{key: destination.port, values: ['80']}}]}}]")],
        ["CV0805 warning AuthorizationPolicy shop/p spec.rules[0].when[0].values[0]"],
    ),
    "the pods' port at a waypoint": (
        [*MESH, ap("p", operation("ports: ['8080']", TARGET))],
        [f"CV0805 warning AuthorizationPolicy shop/p {OPERATION}.ports[0]"],
    ),
    "the Service's port at a waypoint": ([*MESH, ap("p", operation("ports: ['80']", TARGET))], []),
    # Identities
    "an identity that somebody has": ([*TUNNELS, WEB, ap("p", source("principals: [cluster.local/ns/shop/sa/web]"))], []),
    "an identity of another trust domain": (
        [*TUNNELS, WEB, ap("p", source("principals: [prod.local/ns/shop/sa/web]"))],
        [f"CV0806 warning AuthorizationPolicy shop/p {SOURCE}.principals[0]"],
    ),
    "what is no identity": (
        [*TUNNELS, ap("p", source("principals: [shop/web]"))],
        [f"CV0806 warning AuthorizationPolicy shop/p {SOURCE}.principals[0]"],
    ),
    "identities with a wildcard": (
        [*TUNNELS, ap("p", source("principals: ['cluster.local/ns/shop/*', '*/sa/web', '*']"))],
        [],
    ),
    "a service account that is not there": (
        [*TUNNELS, account("web"), ap("p", source("principals: [cluster.local/ns/shop/sa/wbe]"))],
        [f"CV0807 warning AuthorizationPolicy shop/p {SOURCE}.principals[0]"],
    ),
    "a service account by its own field": (
        [*TUNNELS, account("web"), ap("p", source("serviceAccounts: [web, shop/wbe]"))],
        [f"CV0807 warning AuthorizationPolicy shop/p {SOURCE}.serviceAccounts[1]"],
    ),
    "the default account, a waypoint's and a gateway's": (
        [
            *MESH,
            gateway("in", "gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]"),
            ap(
                "p",
                source("principals: [cluster.local/ns/shop/sa/default, cluster.local/ns/shop/sa/wp, cluster.local/ns/shop/sa/in-istio]"),
            ),
        ],
        ["CV0614 info Gateway shop/in spec.gatewayClassName"],
    ),
    "an account where no accounts are in the input": (
        [deployment("cart"), ap("p", source("principals: [cluster.local/ns/other/sa/web]"))],
        [],
    ),
    "a namespace that is misspelt": (
        [*TUNNELS, ap("p", source("namespaces: [shpo]"))],
        [f"CV0808 warning AuthorizationPolicy shop/p {SOURCE}.namespaces[0]"],
    ),
    "a namespace that may be elsewhere": ([*TUNNELS, ap("p", source("namespaces: [monitoring]"))], []),
    "a namespace in an identity and in a condition": (
        [
            *TUNNELS,
            ap(
                "p",
                f"{SELECT}, rules: [{{from: [{{source: {{notPrincipals: [cluster.local/ns/shpo/sa/x]}}}}], "
                f"when: [{{key: source.namespace, values: [shpo]}}]}}]",
            ),
        ],
        [
            f"CV0808 warning AuthorizationPolicy shop/p {SOURCE}.notPrincipals[0]",
            "CV0808 warning AuthorizationPolicy shop/p spec.rules[0].when[0].values[0]",
        ],
    ),
    # Policies as a whole
    "nothing is allowed": ([*TUNNELS, ap("p", "")], ["CV0809 warning AuthorizationPolicy shop/p spec"]),
    "nothing but what another allows": ([*TUNNELS, ap("p", ""), ap("q", operation("ports: ['8080']"))], []),
    "nothing but what another allows to some": (
        [
            *TUNNELS,
            WEB,
            service("web", "selector: {app: web}, ports: [{port: 80, name: http, targetPort: 8080}]"),
            ap("p", ""),
            ap("q", operation("ports: ['8080']")),
        ],
        ["CV0809 warning AuthorizationPolicy shop/p spec"],
    ),
    "nothing to what is only a client": ([*TUNNELS, WEB, ap("p", ""), ap("q", operation("ports: ['8080']"))], []),
    "nothing in the whole mesh": ([*TUNNELS, ap("p", "", "istio-system")], ["CV0809 warning AuthorizationPolicy istio-system/p spec"]),
    "nothing at the pods but what is allowed at a waypoint": (
        [*MESH, ap("p", "", "istio-system"), ap("q", operation("methods: [GET]", TARGET))],
        ["CV0809 warning AuthorizationPolicy istio-system/p spec"],
    ),
    "nothing in files without pods": ([ap("p", "")], []),
    "nothing is allowed at a target": ([*MESH, ap("p", TARGET)], ["CV0809 warning AuthorizationPolicy shop/p spec"]),
    "everything is denied": ([ap("p", "action: DENY, rules: [{}]")], ["CV0809 warning AuthorizationPolicy shop/p spec.rules[0]"]),
    "something is denied": ([*TUNNELS, ap("p", f"{SELECT}, action: DENY, rules: [{{from: [{{source: {{notNamespaces: [shop]}}}}]}}]")], []),
    "a dry run": (
        [*TUNNELS, ap("p", "", meta="annotations: {istio.io/dry-run: 'true'}")],
        ["CV0810 info AuthorizationPolicy shop/p metadata.annotations[istio.io/dry-run]"],
    ),
    "a dry run of targets without a waypoint": (
        [*TUNNELS, ap("p", operation("methods: [GET]", TARGET), meta="annotations: {istio.io/dry-run: 'true'}")],
        [
            "CV0804 error AuthorizationPolicy shop/p spec.targetRefs[0]",
            "CV0810 info AuthorizationPolicy shop/p metadata.annotations[istio.io/dry-run]",
        ],
    ),
    "an audit": ([*TUNNELS, ap("p", f"{SELECT}, action: AUDIT, rules: [{{}}]")], ["CV0811 warning AuthorizationPolicy shop/p spec.action"]),
    "an authorizer at a tunnel": (
        [*TUNNELS, ap("p", f"{SELECT}, action: CUSTOM, provider: {{name: opa}}, rules: [{{}}]")],
        ["CV0812 error AuthorizationPolicy shop/p spec.action"],
    ),
    "an authorizer at a waypoint": (
        [*MESH, ap("p", f"{TARGET}, action: CUSTOM, provider: {{name: opa}}, rules: [{{}}]")],
        ["CV0812 error AuthorizationPolicy shop/p spec.provider.name"],
    ),
    # Tokens
    "tokens at a tunnel": ([*TUNNELS, ra("r", f"{SELECT}, {KEYED}")], ["CV0813 error RequestAuthentication shop/r spec.selector"]),
    "tokens of a namespace": ([*TUNNELS, ra("r", KEYED)], ["CV0813 error RequestAuthentication shop/r spec"]),
    "no tokens at all": ([*TUNNELS, ra("r", SELECT)], []),
    "tokens at a waypoint": ([*MESH, ra("r", f"{TARGET}, {KEYED}")], []),
    "tokens at a target without a waypoint": (
        [*TUNNELS, ra("r", f"{TARGET}, {KEYED}")],
        ["CV0804 error RequestAuthentication shop/r spec.targetRefs[0]"],
    ),
    "keys of which none can be used": (
        [*MESH, ra("r", f"{TARGET}, jwtRules: [{{issuer: me, jwks: '{JWKS.replace('oct', 'RSA')}'}}]")],
        ["CV0815 error RequestAuthentication shop/r spec.jwtRules[0]"],
    ),
    "keys of which nobody says where they are": (
        [*MESH, ra("r", f"{TARGET}, jwtRules: [{{issuer: 'https://me.test'}}]")],
        ["CV0815 error RequestAuthentication shop/r spec.jwtRules[0]"],
    ),
    "keys that proxies fetch": ([*MESH, ra("r", f"{TARGET}, jwtRules: [{{issuer: me, jwksUri: 'https://keys.test/jwks'}}]")], []),
    "requests on a port of TCP": (
        [*MESH[:2], cart("{port: 80, name: tcp, targetPort: 8080}"), MESH[3], ap("p", operation("methods: [GET]", TARGET))],
        ["CV0816 warning AuthorizationPolicy shop/p spec.rules[0]"],
    ),
    "a route of another service leads around": (
        [
            *MESH,
            ap("p", operation("methods: [GET]", TARGET)),
            service("front", "clusterIP: 10.96.0.7, selector: {app: cart}, ports: [{port: 80, name: http, targetPort: 8080}]"),
            vs("v", "hosts: [front], http: [{route: [{destination: {host: cart}}]}]"),
        ],
        ["CV0819 warning AuthorizationPolicy shop/p spec.targetRefs[0]"],
    ),
    # What comes through a waypoint
    "a client is let in where the waypoint comes": (
        [*MESH, WEB, ap("p", source("principals: [cluster.local/ns/shop/sa/web]"))],
        ["CV0817 error AuthorizationPolicy shop/p spec.rules"],
    ),
    "a client is let in where nobody else comes": ([*TUNNELS, WEB, ap("p", source("principals: [cluster.local/ns/shop/sa/web]"))], []),
    "the waypoint is let in": ([*MESH, ap("p", source("principals: [cluster.local/ns/shop/sa/wp]"))], []),
    "the waypoint is let in by another policy": (
        [*MESH, WEB, ap("p", source("principals: [cluster.local/ns/shop/sa/web]")), ap("q", source("namespaces: [shop]"))],
        [],
    ),
    "the waypoint is let in as anybody": ([*MESH, ap("p", operation("ports: ['8080']"))], []),
    "the waypoint is denied": (
        [
            *MESH,
            WEB,
            ap("p", f"action: DENY, {source('notPrincipals: [cluster.local/ns/shop/sa/web]')}"),
        ],
        ["CV0817 error AuthorizationPolicy shop/p spec.rules[0]"],
    ),
    "a client is denied where the waypoint comes in its place": (
        [*MESH, WEB, ap("p", f"action: DENY, {source('principals: [cluster.local/ns/shop/sa/web]')}")],
        ["CV0818 error AuthorizationPolicy shop/p spec.rules[0]"],
    ),
    "a client is denied by a condition": (
        [*MESH, ap("p", f"{SELECT}, action: DENY, rules: [{{when: [{{key: source.namespace, values: [default]}}]}}]")],
        ["CV0818 error AuthorizationPolicy shop/p spec.rules[0]"],
    ),
    "a client is denied where no waypoint is": (
        [*TUNNELS, WEB, ap("p", f"action: DENY, {source('principals: [cluster.local/ns/shop/sa/web]')}")],
        [],
    ),
    "a client is denied at the waypoint as well": (
        [
            *MESH,
            WEB,
            ap("p", f"action: DENY, {source('principals: [cluster.local/ns/shop/sa/web]')}"),
            ap("q", f"action: DENY, {source('principals: [cluster.local/ns/shop/sa/web]', TARGET)}"),
        ],
        [],
    ),
    "a port is denied to everybody": (
        [*MESH, ap("p", "action: DENY, " + operation("ports: ['9090']"))],
        ["CV0805 warning AuthorizationPolicy shop/p spec.rules[0].to[0].operation.ports[0]"],
    ),
    "addresses are let in, and that of the waypoint is not known": ([*MESH, ap("p", source("ipBlocks: [10.0.0.0/8]"))], []),
    "a policy of the namespace keeps the waypoint out": (
        [*MESH, WEB, ap("p", "rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]")],
        ["CV0817 error AuthorizationPolicy shop/p spec.rules"],
    ),
    # Who enforces
    "a policy for pods outside": (
        [namespace("shop"), cart(), deployment("cart"), ap("p", operation("ports: ['8080']"))],
        ["CV0814 warning AuthorizationPolicy shop/p spec.selector"],
    ),
    "a policy for a namespace of which some are outside": (
        [PLAIN, cart(), deployment("cart"), deployment("db", labels="app: db, istio.io/dataplane-mode: none"), ap("p", "rules: [{}]")],
        [],
    ),
    "STRICT outside": (
        [namespace("shop"), deployment("cart"), pa("p", "mtls: {mode: STRICT}")],
        ["CV0814 warning PeerAuthentication shop/p metadata.namespace"],
    ),
    "PERMISSIVE outside": ([namespace("shop"), deployment("cart"), pa("p", "mtls: {mode: PERMISSIVE}")], []),
    "a policy for pods of which it is not known": ([deployment("cart"), ap("p", operation("ports: ['8080']"))], []),
    # Mutual TLS
    "two modes for one namespace": (
        [*TUNNELS, pa("a", "mtls: {mode: STRICT}"), pa("b", "mtls: {mode: PERMISSIVE}")],
        ["CV0901 warning PeerAuthentication shop/b metadata.name"],
    ),
    "a mode for a namespace and one for its pods": (
        [*TUNNELS, pa("a", "mtls: {mode: STRICT}"), pa("b", f"{SELECT}, mtls: {{mode: PERMISSIVE}}")],
        [],
    ),
    "a mode for the mesh and one for a namespace": (
        [*TUNNELS, pa("a", "mtls: {mode: STRICT}", "istio-system"), pa("b", "mtls: {mode: PERMISSIVE}")],
        [],
    ),
    "two modes for the same pods": (
        [*TUNNELS, pa("a", f"{SELECT}, mtls: {{mode: STRICT}}"), pa("b", f"{SELECT}, mtls: {{mode: PERMISSIVE}}")],
        ["CV0901 warning PeerAuthentication shop/b spec.selector"],
    ),
    "two modes for some of the same pods": (
        [
            *TUNNELS,
            deployment("web", labels="app: web, tier: front"),
            deployment("cart2", labels="app: cart, tier: front"),
            pa("a", f"{SELECT}, mtls: {{mode: STRICT}}"),
            pa("b", "selector: {matchLabels: {tier: front}}, mtls: {mode: PERMISSIVE}"),
        ],
        [],
    ),
    "a mode for a port that is not there": (
        [*TUNNELS, pa("a", f"{SELECT}, mtls: {{mode: STRICT}}, portLevelMtls: {{'80': {{mode: PERMISSIVE}}}}")],
        ["CV0902 warning PeerAuthentication shop/a spec.portLevelMtls[80]"],
    ),
    "a mode for a port that is there": (
        [*TUNNELS, pa("a", f"{SELECT}, mtls: {{mode: STRICT}}, portLevelMtls: {{'8080': {{mode: PERMISSIVE}}}}")],
        [],
    ),
    "modes that are disabled": (
        [*TUNNELS, pa("a", f"{SELECT}, mtls: {{mode: DISABLE}}, portLevelMtls: {{'8080': {{mode: DISABLE}}}}")],
        ["CV0903 info PeerAuthentication shop/a spec.mtls.mode", "CV0903 info PeerAuthentication shop/a spec.portLevelMtls[8080].mode"],
    ),
    # Telemetry
    "a provider that is not there": (
        [
            *MESH,
            telemetry("t", f"{TARGET}, accessLogging: [{{providers: [{{name: envy}}]}}], tracing: [{{providers: [{{name: zipkin}}]}}]"),
        ],
        [
            "CV1001 warning Telemetry shop/t spec.accessLogging[0].providers",
            "CV1001 warning Telemetry shop/t spec.tracing[0].providers",
        ],
    ),
    "a provider that is there": ([*MESH, telemetry("t", f"{TARGET}, accessLogging: [{{providers: [{{name: envoy}}]}}]")], []),
    "metrics are as they are": (
        [*MESH, telemetry("t", f"{TARGET}, metrics: [{{overrides: [{{disabled: true}}]}}]")],
        ["CV0030 warning Telemetry shop/t spec.metrics"],
    ),
    "telemetry of a target without a waypoint": (
        [*TUNNELS, telemetry("t", f"{TARGET}, accessLogging: [{{}}]")],
        ["CV1002 warning Telemetry shop/t spec.targetRefs[0]"],
    ),
    "telemetry of pods": ([*MESH, telemetry("t", f"{SELECT}, accessLogging: [{{}}]")], ["CV1002 warning Telemetry shop/t spec.selector"]),
    "telemetry of a namespace with a waypoint": ([*MESH, telemetry("t", "accessLogging: [{}]")], []),
    "telemetry of a namespace without": (
        [*TUNNELS, telemetry("t", "accessLogging: [{}]")],
        ["CV1002 warning Telemetry shop/t metadata.namespace"],
    ),
    "telemetry of the mesh": ([*TUNNELS, telemetry("t", "accessLogging: [{}]", "istio-system")], []),
    "telemetry alone": ([telemetry("t", "accessLogging: [{}]")], []),
}

IN_CLUSTER: dict[str, Case] = {
    "nobody runs as an account": (
        [account("web"), deployment("cart"), ap("p", source("principals: [cluster.local/ns/shop/sa/web]"))],
        ["CV0814 warning AuthorizationPolicy shop/p spec.selector", f"CV0806 warning AuthorizationPolicy shop/p {SOURCE}.principals[0]"],
    ),
    "a namespace that is not there": (
        [ap("p", "action: DENY, rules: [{from: [{source: {namespaces: [monitoring]}}]}]")],
        [f"CV0808 warning AuthorizationPolicy shop/p {SOURCE}.namespaces[0]"],
    ),
    "a policy of the mesh that selects nothing": (
        [ap("p", "selector: {matchLabels: {app: x}}, rules: [{}]", "istio-system")],
        ["CV0801 warning AuthorizationPolicy istio-system/p spec.selector.matchLabels"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_finds(case: str) -> None:
    texts, expected = CASES[case]
    assert found(*texts) == expected


@pytest.mark.parametrize("case", IN_CLUSTER)
def test_finds_in_a_cluster(case: str) -> None:
    texts, expected = IN_CLUSTER[case]
    assert sorted(found_in_cluster(*texts)) == sorted(expected)


def test_the_ports_of_services_and_pods_are_told_apart() -> None:
    (finding,) = analyze(given(*TUNNELS, ap("p", operation("ports: ['80']"))), Options()).findings
    assert finding.hint == "80 is the port of Service shop/cart; its pods have 8080"


@pytest.mark.parametrize(
    ("action", "effect"), [("ALLOW", "this rule allows nothing"), ("DENY", "this rule denies whatever the request is")]
)
def test_what_a_tunnel_cannot_judge_is_closed_and_it_says_how(action: str, effect: str) -> None:
    rule = f"{SELECT}, action: {action}, rules: [{{to: [{{operation: {{methods: [GET], paths: [/a]}}}}]}}]"
    (finding,) = analyze(given(*TUNNELS, ap("p", rule)), Options()).findings
    assert finding.message == f"a tunnel cannot judge to[0].operation.methods, to[0].operation.paths: {effect}"


def test_another_trust_domain_is_known_by_its_option() -> None:
    from control.resolve import MeshSettings

    texts = *TUNNELS, WEB, ap("p", source("principals: [prod.local/ns/shop/sa/web]"))
    assert found(*texts, options=Options(MeshSettings(trust_domain="prod.local"))) == []


def test_the_namespace_of_the_mesh_is_known_by_its_option() -> None:
    from control.resolve import MeshSettings

    texts = PLAIN, namespace("root", AMBIENT), deployment("cart"), deployment("x", "root"), ap("p", f"{SELECT}, rules: [{{}}]", "root")
    assert found(*texts) == ["CV0801 warning AuthorizationPolicy root/p spec.selector.matchLabels"]
    assert found(*texts, options=Options(MeshSettings(root_namespace="root"))) == []


def test_a_waypoint_of_workloads_is_no_waypoint_of_the_service_that_is_targeted() -> None:
    texts = (
        SHOP,
        waypoint(meta="labels: {istio.io/waypoint-for: workload}"),
        cart(),
        deployment("cart"),
        ap("p", operation("methods: [GET]", TARGET)),
    )
    assert found(*texts) == ["CV0804 error AuthorizationPolicy shop/p spec.targetRefs[0]"]
