"""Manifests as people write them, in which nothing is wrong: nothing may be found; and the project's own examples."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from control.analyze import Given, Options, analyze
from culvert.analysis.files import read
from tests.control.analyze.manifests import said

ROOT = Path(__file__).parents[3]

CANARY = """
apiVersion: v1
kind: Namespace
metadata:
  name: reviews
  labels:
    istio.io/dataplane-mode: ambient
    istio.io/use-waypoint: waypoint
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: reviews
  labels:
    istio.io/waypoint-for: service
spec:
  gatewayClassName: istio-waypoint
  listeners:
    - name: mesh
      port: 15008
      protocol: HBONE
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: reviews-v1, namespace: reviews}
spec:
  selector: {app: reviews, version: v1}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: reviews-v2, namespace: reviews}
spec:
  selector: {app: reviews, version: v2}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: productpage, namespace: reviews}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reviews, namespace: reviews}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1, namespace: reviews}
spec:
  selector: {matchLabels: {app: reviews, version: v1}}
  template:
    metadata: {labels: {app: reviews, version: v1}}
    spec:
      serviceAccountName: reviews
      containers: [{name: reviews, image: reviews:1, ports: [{containerPort: 9080}]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v2, namespace: reviews}
spec:
  selector: {matchLabels: {app: reviews, version: v2}}
  template:
    metadata: {labels: {app: reviews, version: v2}}
    spec:
      serviceAccountName: reviews
      containers: [{name: reviews, image: reviews:2, ports: [{containerPort: 9080}]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: productpage, namespace: reviews}
spec:
  selector: {matchLabels: {app: productpage}}
  template:
    metadata: {labels: {app: productpage}}
    spec:
      serviceAccountName: productpage
      containers: [{name: productpage, image: productpage:1, ports: [{containerPort: 9080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: reviews}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews, port: 9080}]
  rules:
    - matches: [{headers: [{name: end-user, value: jason}]}]
      backendRefs: [{name: reviews-v2, port: 9080}]
    - backendRefs:
        - {name: reviews-v1, port: 9080, weight: 90}
        - {name: reviews-v2, port: 9080, weight: 10}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: reviews}
spec:
  targetRefs: [{kind: Service, group: "", name: reviews}]
  action: ALLOW
  rules:
    - from: [{source: {principals: [cluster.local/ns/reviews/sa/productpage]}}]
      to: [{operation: {methods: [GET], paths: ["/reviews/*"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-by-the-waypoint, namespace: reviews}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
    - from: [{source: {principals: [cluster.local/ns/reviews/sa/waypoint]}}]
      to: [{operation: {ports: ["9080"]}}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs, namespace: reviews}
spec:
  accessLogging: [{providers: [{name: envoy}]}]
"""

ISTIO = """
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Namespace
    metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}
  - apiVersion: gateway.networking.k8s.io/v1
    kind: Gateway
    metadata: {name: wp, namespace: shop}
    spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec:
  selector: {app: catalog}
  ports: [{name: http-web, port: 80, targetPort: web}, {name: grpc, port: 9000, targetPort: 9000}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: catalog, namespace: shop}
spec:
  serviceName: catalog
  selector: {matchLabels: {app: catalog}}
  template:
    metadata: {labels: {app: catalog, version: v1}}
    spec:
      containers:
        - name: catalog
          image: catalog:1
          ports: [{name: web, containerPort: 8080}, {name: grpc, containerPort: 9000}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog, namespace: shop}
spec:
  host: catalog
  trafficPolicy:
    connectionPool: {http: {http1MaxPendingRequests: 100}}
    outlierDetection: {consecutive5xxErrors: 5, interval: 30s, baseEjectionTime: 30s}
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog, namespace: shop}
spec:
  hosts: [catalog]
  http:
    - name: books
      match: [{uri: {prefix: /books}, method: {exact: GET}}]
      route: [{destination: {host: catalog, subset: v1, port: {number: 80}}}]
      retries: {attempts: 2, perTryTimeout: 2s, retryOn: "5xx,reset"}
    - match: [{uri: {prefix: /pay}}]
      delegate: {name: pay}
    - name: rest
      route: [{destination: {host: catalog, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: shop}
spec:
  http:
    - match: [{uri: {prefix: /pay/card}}]
      route: [{destination: {host: cards.example.com, port: {number: 443}}}]
    - route: [{destination: {host: catalog}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cards, namespace: shop}
spec:
  hosts: [cards.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cards, namespace: shop}
spec:
  host: cards.example.com
  trafficPolicy: {tls: {mode: SIMPLE, sni: cards.example.com}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {a: b}
"""

LOCKED_DOWN = """
apiVersion: v1
kind: Namespace
metadata: {name: front, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: back, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: front}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: front}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {serviceAccountName: web, containers: [{name: web, image: web:1, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: back}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: postgres, port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: back}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: postgres:17, ports: [{containerPort: 5432}, {containerPort: 9187, name: metrics}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: metrics, namespace: back}
spec:
  selector: {matchLabels: {app: db}}
  portLevelMtls: {"9187": {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: back}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web-to-db, namespace: back}
spec:
  selector: {matchLabels: {app: db}}
  rules:
    - from: [{source: {principals: [cluster.local/ns/front/sa/web]}}]
      to: [{operation: {ports: ["5432"]}}]
    - from: [{source: {namespaces: [monitoring]}}]
      to: [{operation: {ports: ["9187"]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: back}
spec: {podSelector: {matchLabels: {app: db}}}
"""

INGRESS = """
apiVersion: v1
kind: Namespace
metadata: {name: edge}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: istio
  listeners:
    - {name: http, port: 80, protocol: HTTP, hostname: "*.example.com", allowedRoutes: {namespaces: {from: All}}}
    - name: https
      port: 443
      protocol: HTTPS
      hostname: "*.example.com"
      tls: {certificateRefs: [{name: example-com}]}
      allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {public: "yes"}}}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: example, namespace: edge}
spec: {secretName: example-com, issuerRef: {name: ca}}
---
apiVersion: v1
kind: Namespace
metadata: {name: app, labels: {public: "yes"}}
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: app}
spec: {selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: app, labels: {app: app}}
spec: {containers: [{name: app, image: app:1}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: redirect, namespace: app}
spec:
  parentRefs: [{name: public, namespace: edge, sectionName: http}]
  hostnames: [app.example.com]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: app}
spec:
  parentRefs: [{name: public, namespace: edge, sectionName: https}]
  hostnames: [app.example.com]
  rules: [{backendRefs: [{name: app, port: 80}]}]
"""


NOT_OURS = "CV0614 info Gateway edge/public spec.gatewayClassName"
"""Right as it is, and another control plane's business."""


@pytest.mark.parametrize("text", [CANARY, ISTIO, LOCKED_DOWN, INGRESS], ids=["canary", "istio", "locked down", "ingress"])
def test_nothing_is_found_in_what_is_right(text: str) -> None:
    made = Given()
    made.file("sample.yaml", text)
    assert said(analyze(made, Options())) == ([NOT_OURS] if text is INGRESS else [])


@pytest.mark.parametrize("text", [CANARY, ISTIO, LOCKED_DOWN, INGRESS], ids=["canary", "istio", "locked down", "ingress"])
def test_nor_in_parts_of_it(text: str) -> None:
    """Each document by itself: what it refers to may be elsewhere. (A Namespace in the input says that all of it is there.)"""
    for document in text.split("\n---\n"):
        alone = Given()
        alone.file("alone.yaml", document)
        if "kind: Namespace" not in document:
            assert said(analyze(alone, Options())) == ([NOT_OURS] if "gatewayClassName: istio\n" in document else []), document


METRICS = "CV0030 warning Telemetry bookstore/bookstore spec.metrics"
EXAMPLES: dict[tuple[str, ...], list[str]] = {
    ("bookstore",): [],
    ("bookstore-policies",): [],
    ("waypoint",): [],
    ("routing",): [],
    ("gateway-api",): [],
    ("external",): [],
    ("telemetry",): [METRICS],
    # The bookstore is labelled after it was applied; until then its policies are enforced by nobody.
    ("bookstore", "bookstore-policies"): [
        "CV0814 warning AuthorizationPolicy bookstore/mariadb-callers spec.selector",
        "CV0814 warning AuthorizationPolicy bookstore/redis-keep-out spec.selector",
        "CV0814 warning PeerAuthentication bookstore/strict metadata.namespace",
    ],
    ("bookstore", "waypoint"): [],
    # These policies are at the pods, where the waypoint would come in its clients' place.
    ("bookstore", "bookstore-policies", "waypoint"): [
        "CV0817 error AuthorizationPolicy bookstore/mariadb-callers spec.rules",
        "CV0818 error AuthorizationPolicy bookstore/redis-keep-out spec.rules[0]",
    ],
    ("bookstore", "waypoint", "routing"): [],
    ("bookstore", "waypoint", "external"): [],
    ("bookstore", "waypoint", "gateway-api"): [
        "CV0201 warning Service bookstore/catalog-v1 spec.selector[version]",
        "CV0201 warning Service bookstore/catalog-v2 spec.selector[version]",
        "CV0201 warning Service bookstore/recommendations spec.selector",
        "CV0201 warning Service bookstore/recommendations-next spec.selector",
    ],
    ("bookstore", "waypoint", "telemetry"): [METRICS],
}


def test_every_example_is_among_these() -> None:
    there = {path.parent.relative_to(ROOT / "examples").parts[0] for path in (ROOT / "examples").rglob("*.yaml")}
    assert there == {name for names in EXAMPLES for name in names}


@pytest.mark.parametrize("names", EXAMPLES, ids=" and ".join)
def test_examples(names: tuple[str, ...]) -> None:
    made, _ = read((ROOT / "examples" / name for name in names), StringIO())
    assert said(analyze(made, Options())) == EXAMPLES[names]
