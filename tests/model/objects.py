"""One object of every kind of Istio's and the Gateway API's, with most of what it can say; and mistakes in such objects."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import yaml

from mesh.model.manifest.kinds import SERVED

SPECS = {
    ("networking.istio.io", "VirtualService"): """
hosts: [Catalog, "*.catalog.example.com"]
gateways: [mesh, edge/public]
exportTo: [".", other]
http:
- name: canary
  match:
  - uri: {prefix: /api}
    method: {exact: GET}
    scheme: {exact: https}
    authority: {regex: "catalog(:[0-9]+)?"}
    headers: {X-Team: {exact: a}, x-any: {}, "@request.auth.claims[group]": {exact: staff}}
    withoutHeaders: {x-not: {prefix: b}}
    queryParams: {page: {regex: "[0-9]+"}}
    ignoreUriCase: true
    port: 8080
    sourceNamespace: shop
    gateways: [mesh]
  - uri: {prefix: ""}
  route:
  - {destination: {host: catalog, subset: v2, port: {number: 8080}}, weight: 10, headers: {response: {set: {x-version: v2}}}}
  - {destination: {host: catalog, subset: v1}, weight: 90}
  rewrite: {uri: /v2, authority: catalog.internal}
  timeout: 1m2.5s
  retries: {attempts: 3, perTryTimeout: 250ms, retryOn: "5xx, reset,503", retryRemoteLocalities: true, backoff: 25ms}
  fault: {delay: {fixedDelay: 2s, percentage: {value: 0.5}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 1}}}
  mirrors: [{destination: {host: shadow}, percentage: {value: 10}}, {destination: {host: other}}]
  corsPolicy: {allowOrigins: [{exact: "https://a.example"}], allowMethods: [GET], maxAge: 24h, allowCredentials: false}
  headers: {request: {set: {":authority": a, X-A: b}, add: {x-c: d}, remove: [x-e]}}
- match: [{uri: {prefix: /old}}]
  redirect: {prefixRewrite: /new, scheme: https, derivePort: FROM_REQUEST_PORT, redirectCode: 308}
- match: [{uri: {exact: /teapot}}]
  directResponse: {status: 418, body: {string: short and stout}}
- match: [{uri: {prefix: /d}}]
  delegate: {name: deeper, namespace: shop}
- route: [{destination: {host: catalog}}]
  mirror: {host: shadow}
  mirrorPercent: 5
  rewrite: {uriRegexRewrite: {match: "^/a/(.*)$", rewrite: '/b/\\1'}}
tls:
- match: [{sniHosts: [catalog, a.catalog.example.com], port: 443}]
  route: [{destination: {host: catalog}}]
tcp:
- match: [{port: 3306, destinationSubnets: [10.0.0.0/8, "fd00::1"]}]
  route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 3}]
""",
    ("networking.istio.io", "DestinationRule"): """
host: catalog
exportTo: ["*"]
trafficPolicy:
  loadBalancer:
    consistentHash: {httpCookie: {name: user, ttl: 0s, path: /, attributes: [{name: SameSite, value: Lax}]}, maglev: {tableSize: 65537}}
    localityLbSetting: {distribute: [{from: eu/a/*, to: {eu/a/*: 80, eu/b/*: 20}}]}
  connectionPool:
    tcp: {maxConnections: 100, connectTimeout: 30ms, tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}, idleTimeout: 0s}
    http: {http1MaxPendingRequests: 10, http2MaxRequests: 1000, maxRequestsPerConnection: 1, h2UpgradePolicy: UPGRADE,
           http2KeepAlive: {interval: 10s, timeout: 5s}}
  outlierDetection: {consecutive5xxErrors: 7, interval: 5m, baseEjectionTime: 15m, maxEjectionPercent: 100,
                     outlierDetectionHttpErrorCodes: [500, 502]}
  tls: {mode: MUTUAL, clientCertificate: /a, privateKey: /b, caCertificates: /c, subjectAltNames: [x], sni: y}
  portLevelSettings:
  - port: {number: 80}
    loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 1m, aggression: 2}}
  retryBudget: {percent: 25.5, minRetryConcurrency: 5}
  proxyProtocol: {version: V2}
subsets:
- {name: v1, labels: {version: v1}}
- name: v2
  labels: {version: v2}
  trafficPolicy: {outlierDetection: {}, loadBalancer: {simple: LEAST_CONN}}
""",
    ("networking.istio.io", "ServiceEntry"): """
hosts: [api.example.com]
addresses: [240.0.0.1, "fd00::/64"]
ports: [{number: 443, name: tls, protocol: tls}, {number: 80, name: http, protocol: HTTP, targetPort: 8080}]
location: MESH_EXTERNAL
resolution: STATIC
endpoints: [{address: 192.0.2.1, ports: {tls: 8443}, locality: eu/a, weight: 2}, {address: "2001:db8::1", labels: {version: v1}}]
exportTo: ["."]
subjectAltNames: [api.example.com]
""",
    ("networking.istio.io", "WorkloadEntry"): """
address: vm.example.com
ports: {http: 8080}
labels: {app: legacy}
locality: eu/a/rack1
weight: 3
serviceAccount: legacy
network: vms
""",
    ("networking.istio.io", "Gateway"): """
selector: {istio: ingressgateway}
servers:
- {port: {number: 80, name: http, protocol: http}, hosts: ["*"], tls: {httpsRedirect: true}}
- port: {number: 443, name: https, protocol: HTTPS}
  hosts: [shop/a.example.com, "./*.b.example.com"]
  tls: {mode: MUTUAL, credentialName: shop, minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]}
- {port: {number: 8443, name: pass, protocol: TLS}, hosts: ["*.c.example.com"], tls: {mode: PASSTHROUGH}}
""",
    ("telemetry.istio.io", "Telemetry"): """
targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]
tracing:
- providers: [{name: zipkin}]
  randomSamplingPercentage: 12.5
  customTags: {team: {literal: {value: a}}, who: {header: {name: x-who, defaultValue: "-"}}}
metrics:
- providers: [{name: prometheus}]
  overrides:
  - {match: {metric: REQUEST_COUNT, mode: SERVER}, tagOverrides: {path: {value: request.path}, source_app: {operation: REMOVE}}}
  - {match: {customMetric: mine}, disabled: true}
  reportingInterval: 10s
accessLogging:
- {match: {mode: SERVER}, filter: {expression: "response.code >= 500"}}
""",
    ("security.istio.io", "AuthorizationPolicy"): """
targetRefs: [{kind: Service, group: "", name: catalog}]
action: ALLOW
rules:
- from: [{source: {principals: [cluster.local/ns/shop/sa/web], notNamespaces: ["test-*"]}}]
  to: [{operation: {methods: [GET], paths: ["/api/{*}/items/{**}", "/health*", "*.css"], hosts: ["*.example.com"], notPorts: ["9090"]}}]
  when: [{key: "request.headers[x-team]", values: [a]}, {key: remote.ip, notValues: [10.0.0.0/8]}]
""",
    ("security.istio.io", "PeerAuthentication"): """
selector: {matchLabels: {app: web}}
mtls: {mode: STRICT}
portLevelMtls: {"8080": {mode: PERMISSIVE}}
""",
    ("security.istio.io", "RequestAuthentication"): """
targetRefs: [{kind: Service, name: catalog}]
jwtRules:
- issuer: https://issuer.example.com
  audiences: [shop]
  jwksUri: https://issuer.example.com/keys
  fromHeaders: [{name: X-Token, prefix: "Bearer "}]
  fromParams: [token]
  fromCookies: [session]
  outputPayloadToHeader: x-payload
  outputClaimToHeaders: [{header: x-sub, claim: sub}]
  forwardOriginalToken: true
  timeout: 2s
  spaceDelimitedClaims: [groups]
- {issuer: inline, jwks: '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}'}
""",
    ("gateway.networking.k8s.io", "GatewayClass"): """
controllerName: culvert.dev/control
description: for the tests
""",
    ("gateway.networking.k8s.io", "Gateway"): """
gatewayClassName: culvert
listeners:
- {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
- name: https
  hostname: "*.example.com"
  port: 443
  protocol: HTTPS
  tls: {certificateRefs: [{name: shop}]}
  allowedRoutes:
    namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [a, b]}]}}
    kinds: [{kind: HTTPRoute}]
infrastructure: {labels: {a: b}, annotations: {c: d}}
""",
    ("gateway.networking.k8s.io", "HTTPRoute"): """
parentRefs: [{group: "", kind: Service, name: catalog, port: 8080}, {name: public, namespace: edge, sectionName: https}]
hostnames: [shop.example.com]
rules:
- name: api
  matches:
  - {path: {type: PathPrefix, value: /api}, headers: [{name: X-Team, value: a}], method: GET}
  - {path: {type: PathPrefix, value: /v2}, queryParams: [{type: RegularExpression, name: page, value: "[0-9]+"}]}
  filters:
  - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}], add: [{name: x-c, value: d}], remove: [x-e]}}
  - {type: URLRewrite, urlRewrite: {hostname: catalog.internal, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 8080}, percent: 10}}
  - {type: CORS, cors: {allowOrigins: ["https://*.example.com"], allowMethods: [GET], maxAge: 60}}
  backendRefs:
  - {name: catalog-v1, port: 8080, weight: 90}
  - name: catalog-v2
    port: 8080
    weight: 10
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-version, value: v2}]}}]
  timeouts: {request: 10s, backendRequest: 2s}
  retry: {codes: [503], attempts: 2, backoff: 100ms}
- matches: [{path: {type: Exact, value: /old}}]
  filters:
  - {type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301}}
""",
    ("gateway.networking.k8s.io", "GRPCRoute"): """
parentRefs: [{group: "", kind: Service, name: books}]
rules:
- matches: [{method: {service: shop.Books, method: Find}, headers: [{name: x-team, value: a}]}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}]}}]
  backendRefs: [{name: books-v1, port: 9000, weight: 9}, {name: books-v2, port: 9000}]
""",
    ("gateway.networking.k8s.io", "TCPRoute"): """
parentRefs: [{group: "", kind: Service, name: mariadb}]
rules: [{backendRefs: [{name: mariadb-a, port: 3306, weight: 3}, {name: mariadb-b, port: 3306}]}]
""",
    ("gateway.networking.k8s.io", "TLSRoute"): """
parentRefs: [{name: public, namespace: edge}]
hostnames: [db.example.com, "*.db.example.com"]
rules: [{name: all, backendRefs: [{name: db, port: 5432}]}]
""",
    ("gateway.networking.k8s.io", "ReferenceGrant"): """
from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}]
to: [{group: "", kind: Service}, {group: "", kind: Secret, name: shop}]
""",
}


def document(key: tuple[str, str], spec: Any, version: str = "", name: str = "a", namespace: str = "shop") -> dict[str, Any]:
    """An object of a kind; in its first version if none is named."""
    version, cls = next((each, cls) for each, cls in SERVED[key].items() if each.endswith(f"/{version}" if version else ""))
    metadata = {"name": name, "namespace": namespace} if cls.NAMESPACED else {"name": name}
    return {"apiVersion": version, "kind": key[1], "metadata": metadata, "spec": spec}


def full(key: tuple[str, str], version: str = "") -> dict[str, Any]:
    return document(key, yaml.safe_load(SPECS[key]), version)


class Mistake(NamedTuple):
    """`spec` as YAML; `field` is where the parser reports it. `webhook`: only it can know, an API server's schema takes it."""

    key: tuple[str, str]
    spec: str
    field: str
    webhook: bool = False

    @property
    def document(self) -> dict[str, Any]:
        return document(self.key, yaml.safe_load(self.spec))

    def __str__(self) -> str:
        return f"{self.key[1]} {self.field} {json.dumps(yaml.safe_load(self.spec))}"[:90]


def within(key: tuple[str, str], frame: str, at: str, rows: list[tuple[Any, ...]]) -> list[Mistake]:
    """Rows of (what is put into the frame, where below `at` it is reported, and perhaps that only the webhook knows)."""
    return [Mistake(key, frame % row[0], join(at, row[1]), *row[2:]) for row in rows]


def join(at: str, field: str) -> str:
    return f"{at}{field}" if not field or field.startswith("[") else f"{at}.{field}"
