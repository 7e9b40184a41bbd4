"""What manifests are refused for: one line per mistake, with the field that is named. And that nothing beside the mistake suffers."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.model.errors import ConfigError
from mesh.model.manifest import load_directory, parse, parse_file, parse_object

NS = "{apiVersion: v1, kind: Namespace, metadata: %s}"
POD = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: %s}"
CONTAINER = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [%s]}}"
STATUS = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c}]}, status: %s}"
SERVICE = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: %s}"
DEPLOYMENT = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: %s}"
POLICY = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a}, spec: %s}"
SOURCE = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {rules: [{from: [{source: %s}]}]}}"
TO = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {rules: [{to: [{operation: %s}]}]}}"
WHEN = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {rules: [{when: [%s]}]}}"
PEER = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a}, spec: %s}"
FROM, OPERATION, AT_WHEN = "spec.rules[0].from[0].source", "spec.rules[0].to[0].operation", "spec.rules[0].when[0]"
AT_CONTAINER = "spec.containers[0]"

# (frame, what is put into it, the field that the refusal names)
CASES = [
    # Objects at all
    ("%s", "just text", ""),
    ("%s", "[a, b]", ""),
    ("%s", "{apiVersion: v1, metadata: {name: x}}", "kind"),
    ("%s", "{apiVersion: v1, kind: 7, metadata: {name: x}}", "kind"),
    ("%s", "{apiVersion: v1, kind: Pood, metadata: {name: x}}", "kind"),
    ("%s", "{kind: Namespace, metadata: {name: x}}", "apiVersion"),
    ("%s", "{apiVersion: v2, kind: Namespace, metadata: {name: x}}", "apiVersion"),
    ("%s", "{apiVersion: security.istio.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: x}}", "apiVersion"),
    ("%s", "{apiVersion: v1, kind: Namespace}", "metadata"),
    ("%s", "{apiVersion: v1, kind: Namespace, metadata: {name: x}, extra: 1}", "extra"),
    ("%s", "{apiVersion: v1, kind: List, items: {a: b}}", "items"),
    ("%s", "{apiVersion: v1, kind: List}", "items"),
    # Metadata
    (NS, "{}", "metadata.name"),
    (NS, "{name: ''}", "metadata.name"),
    (NS, "{name: 7}", "metadata.name"),
    (NS, "{name: Upper}", "metadata.name"),
    (NS, "{name: a_b}", "metadata.name"),
    (NS, "{name: a.b}", "metadata.name"),
    (NS, "{name: " + "x" * 64 + "}", "metadata.name"),
    (NS, "{name: x, namespace: y}", "metadata.namespace"),
    (NS, "{name: x, lables: {a: b}}", "metadata.lables"),
    (NS, "{name: x, labels: [a]}", "metadata.labels"),
    (NS, "{name: x, labels: {a: 1}}", "metadata.labels[a]"),
    (NS, "{name: x, labels: {a: true}}", "metadata.labels[a]"),
    (NS, "{name: x, labels: {a: 'has space'}}", "metadata.labels[a]"),
    (NS, "{name: x, labels: {a: -x}}", "metadata.labels[a]"),
    (NS, "{name: x, labels: {'/a': b}}", "metadata.labels[/a]"),
    (NS, "{name: x, labels: {'a/b/c': b}}", "metadata.labels[a/b/c]"),
    (NS, "{name: x, labels: {'UP.io/a': b}}", "metadata.labels[UP.io/a]"),
    (NS, "{name: x, annotations: {a: [b]}}", "metadata.annotations[a]"),
    (NS, "{name: x, creationTimestamp: yesterday}", "metadata.creationTimestamp"),
    # Pods
    (POD, "{}", "spec.containers"),
    (POD, "{containers: []}", "spec.containers"),
    (POD, "{containers: {name: c}}", "spec.containers"),
    (POD, "{containers: [{name: c}, {name: c}]}", "spec.containers[1].name"),
    (POD, "{containers: [{name: c}], hostNetwork: maybe}", "spec.hostNetwork"),
    (POD, "{containers: [{name: c}], restartPolicy: Sometimes}", "spec.restartPolicy"),
    (POD, "{containers: [{name: c}], terminationGracePeriodSeconds: -1}", "spec.terminationGracePeriodSeconds"),
    (POD, "{containers: [{name: c}], serviceAccountName: a/b}", "spec.serviceAccountName"),
    (POD, "{containers: [{name: c}], serviceAccountName: a, serviceAccount: b}", "spec.serviceAccount"),
    (POD, "{containers: [{name: c}], nodename: n}", "spec.nodename"),
    (CONTAINER, "{}", f"{AT_CONTAINER}.name"),
    (CONTAINER, "{name: c, command: sh}", f"{AT_CONTAINER}.command"),
    (CONTAINER, "{name: c, command: [sh, 7]}", f"{AT_CONTAINER}.command[1]"),
    (CONTAINER, "{name: c, ports: [{containerPort: 0}]}", f"{AT_CONTAINER}.ports[0].containerPort"),
    (CONTAINER, "{name: c, ports: [{containerPort: 65536}]}", f"{AT_CONTAINER}.ports[0].containerPort"),
    (CONTAINER, "{name: c, ports: [{containerPort: '80'}]}", f"{AT_CONTAINER}.ports[0].containerPort"),
    (CONTAINER, "{name: c, ports: [{containerPort: true}]}", f"{AT_CONTAINER}.ports[0].containerPort"),
    (CONTAINER, "{name: c, ports: [{containerPort: 80, name: '123'}]}", f"{AT_CONTAINER}.ports[0].name"),
    (CONTAINER, "{name: c, ports: [{containerPort: 80, protocol: ICMP}]}", f"{AT_CONTAINER}.ports[0].protocol"),
    (CONTAINER, "{name: c, env: [{name: A, value: 1}]}", f"{AT_CONTAINER}.env[0].value"),
    (CONTAINER, "{name: c, env: [{value: x}]}", f"{AT_CONTAINER}.env[0].name"),
    (CONTAINER, "{name: c, readinessProbe: {}}", f"{AT_CONTAINER}.readinessProbe"),
    (CONTAINER, "{name: c, readinessProbe: {httpGet: {port: 1}, tcpSocket: {port: 1}}}", f"{AT_CONTAINER}.readinessProbe"),
    (CONTAINER, "{name: c, livenessProbe: {exec: {command: []}}}", f"{AT_CONTAINER}.livenessProbe.exec.command"),
    (CONTAINER, "{name: c, startupProbe: {tcpSocket: {port: 1}, periodSeconds: 0}}", f"{AT_CONTAINER}.startupProbe.periodSeconds"),
    (STATUS, "{phase: Sleeping}", "status.phase"),
    (STATUS, "{podIPs: [{ip: 10.0.0.256}]}", "status.podIPs[0].ip"),
    (STATUS, "{podIP: host}", "status.podIP"),
    (STATUS, "{conditions: [{type: Ready, status: yes}]}", "status.conditions[0].status"),
    # Deployments
    (DEPLOYMENT, "{template: {spec: {containers: [{name: c}]}}}", "spec.selector"),
    (DEPLOYMENT, "{selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: c}]}}}", "spec.selector"),
    (DEPLOYMENT, "{selector: {}, template: {spec: {containers: [{name: c}]}}, replicas: -1}", "spec.replicas"),
    (DEPLOYMENT, "{selector: {}, template: {spec: {containers: [{name: c, imge: x}]}}}", "spec.template.spec.containers[0].imge"),
    # Services
    (SERVICE, "{ports: [{port: 0}]}", "spec.ports[0].port"),
    (SERVICE, "{ports: [{port: 80, targetPort: 70000}]}", "spec.ports[0].targetPort"),
    (SERVICE, "{ports: [{port: 80, targetPort: Not_A_Name}]}", "spec.ports[0].targetPort"),
    (SERVICE, "{ports: [{port: 80, targetport: 80}]}", "spec.ports[0].targetport"),
    (SERVICE, "{ports: [{port: 80, name: a}, {port: 80, name: b}]}", "spec.ports"),
    (SERVICE, "{ports: [{port: 80, name: a}, {port: 81, name: a}]}", "spec.ports"),
    (SERVICE, "{ports: [{port: 80}, {port: 81}]}", "spec.ports"),
    (SERVICE, "{clusterIP: 10.0.0}", "spec.clusterIP"),
    (SERVICE, "{clusterIP: none}", "spec.clusterIP"),
    (SERVICE, "{clusterIPs: [10.0.0.1, 10.0.0.2]}", "spec.clusterIPs"),
    (SERVICE, "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]}", "spec.clusterIPs"),
    (SERVICE, "{type: Cluster}", "spec.type"),
    (SERVICE, "{selector: {app: 7}}", "spec.selector[app]"),
    (SERVICE, "{internalTrafficPolicy: Nearby}", "spec.internalTrafficPolicy"),
    ("{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {}}", "7up.x", "metadata.name"),
    # AuthorizationPolicy
    (POLICY, "[]", "spec"),
    (POLICY, "{action: PERMIT}", "spec.action"),
    (POLICY, "{action: deny}", "spec.action"),
    (POLICY, "{action: DENY}", "spec.rules"),
    (POLICY, "{action: CUSTOM, provider: {name: x}}", "spec.rules"),
    (POLICY, "{action: CUSTOM, rules: [{}]}", "spec.provider"),
    (POLICY, "{provider: {name: x}}", "spec.provider"),
    (POLICY, "{rules: {from: []}}", "spec.rules"),
    (POLICY, "{rules: [{form: []}]}", "spec.rules[0].form"),
    (POLICY, "{rules: [{from: []}]}", "spec.rules[0].from"),
    (POLICY, "{rules: [{to: []}]}", "spec.rules[0].to"),
    (POLICY, "{rules: [{when: []}]}", "spec.rules[0].when"),
    (POLICY, "{rules: [{from: [{}]}]}", "spec.rules[0].from[0].source"),
    (POLICY, "{rules: [{to: [{}]}]}", "spec.rules[0].to[0].operation"),
    (POLICY, "{selector: {app: x}}", "spec.selector.app"),
    (POLICY, "{selector: {matchLabels: {app: '*'}}}", "spec.selector.matchLabels[app]"),
    (POLICY, "{selector: {matchExpressions: []}}", "spec.selector.matchExpressions"),
    (POLICY, "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: s}]}", "spec.selector"),
    (POLICY, "{targetRefs: [{kind: Pod, name: s}]}", "spec.targetRefs[0].kind"),
    (POLICY, "{targetRefs: [{kind: Gateway, name: s}]}", "spec.targetRefs[0].group"),
    (POLICY, "{targetRefs: [{kind: Service, name: s, namespace: x}]}", "spec.targetRefs[0].namespace"),
    (POLICY, "{rules: [" + ", ".join(["{}"] * 513) + "]}", "spec.rules"),
    (SOURCE, "{}", FROM),
    (SOURCE, "{principal: [a]}", f"{FROM}.principal"),
    (SOURCE, "{principals: a}", f"{FROM}.principals"),
    (SOURCE, "{principals: []}", f"{FROM}.principals"),
    (SOURCE, "{principals: ['']}", f"{FROM}.principals[0]"),
    (SOURCE, "{principals: ['a*b']}", f"{FROM}.principals[0]"),
    (SOURCE, "{principals: ['*a*']}", f"{FROM}.principals[0]"),
    (SOURCE, "{principals: ['**']}", f"{FROM}.principals[0]"),
    (SOURCE, "{notPrincipals: ['spiffe://cluster.local/ns/a/sa/b']}", f"{FROM}.notPrincipals[0]"),
    (SOURCE, "{namespaces: [7]}", f"{FROM}.namespaces[0]"),
    (SOURCE, "{ipBlocks: [10.0.0.0/33]}", f"{FROM}.ipBlocks[0]"),
    (SOURCE, "{ipBlocks: [10.0.0.1, 10.0.0]}", f"{FROM}.ipBlocks[1]"),
    (SOURCE, "{notIpBlocks: ['::/129']}", f"{FROM}.notIpBlocks[0]"),
    (SOURCE, "{ipBlocks: ['::ffff:10.0.0.1']}", f"{FROM}.ipBlocks[0]"),
    (SOURCE, "{ipBlocks: [10]}", f"{FROM}.ipBlocks[0]"),
    (SOURCE, "{serviceAccounts: ['a/*']}", f"{FROM}.serviceAccounts[0]"),
    (SOURCE, "{serviceAccounts: [a/b/c]}", f"{FROM}.serviceAccounts[0]"),
    (SOURCE, "{serviceAccounts: [a], namespaces: [b]}", f"{FROM}.serviceAccounts"),
    (SOURCE, "{serviceAccounts: [" + ", ".join("a" * 1 for _ in range(17)) + "]}", f"{FROM}.serviceAccounts"),
    (TO, "{}", OPERATION),
    (TO, "{ports: [8080]}", f"{OPERATION}.ports[0]"),
    (TO, "{ports: ['0']}", f"{OPERATION}.ports[0]"),
    (TO, "{ports: ['65536']}", f"{OPERATION}.ports[0]"),
    (TO, "{ports: ['80', '-1']}", f"{OPERATION}.ports[1]"),
    (TO, "{ports: ['80a']}", f"{OPERATION}.ports[0]"),
    (TO, "{ports: ['８０']}", f"{OPERATION}.ports[0]"),
    (TO, "{notPorts: [http]}", f"{OPERATION}.notPorts[0]"),
    (TO, "{method: [GET]}", f"{OPERATION}.method"),
    (WHEN, "{values: [a]}", f"{AT_WHEN}.key"),
    (WHEN, "{key: source.ipp, values: [a]}", f"{AT_WHEN}.key"),
    (WHEN, "{key: request.headers, values: [a]}", f"{AT_WHEN}.key"),
    (WHEN, "{key: 'request.headers[]', values: [a]}", f"{AT_WHEN}.key"),
    (WHEN, "{key: source.namespace}", f"{AT_WHEN}.values"),
    (WHEN, "{key: source.ip, values: [everywhere]}", f"{AT_WHEN}.values[0]"),
    (WHEN, "{key: destination.ip, notValues: [10.0.0.0/40]}", f"{AT_WHEN}.notValues[0]"),
    (WHEN, "{key: destination.port, values: ['99999']}", f"{AT_WHEN}.values[0]"),
    (WHEN, "{key: source.principal, values: ['a*b']}", f"{AT_WHEN}.values[0]"),
    (WHEN, "{key: source.serviceAccount, values: ['*']}", f"{AT_WHEN}.values[0]"),
    (
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, annotations: {istio.io/dry-run: %s}}}",
        "'yes'",
        "metadata",
    ),
    # PeerAuthentication
    (PEER, "{mtls: {mode: strict}}", "spec.mtls.mode"),
    (PEER, "{mtls: STRICT}", "spec.mtls"),
    (PEER, "{mode: STRICT}", "spec.mode"),
    (PEER, "{portLevelMtls: {8080: {mode: STRICT}}}", "spec.portLevelMtls"),
    (PEER, "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}", "spec.portLevelMtls[http]"),
    (PEER, "{selector: {matchLabels: {a: b}}, portLevelMtls: {70000: {mode: STRICT}}}", "spec.portLevelMtls[70000]"),
    (PEER, "{selector: {matchLabels: {a: b}}, portLevelMtls: {80: STRICT}}", "spec.portLevelMtls[80]"),
]


@pytest.mark.parametrize(("frame", "part", "field"), CASES, ids=[f"{row[2]} {row[1]}"[:70] for row in CASES])
def test_an_object_with_a_mistake_is_refused_by_its_field_and_nothing_else_is(frame: str, part: str, field: str) -> None:
    text = "{apiVersion: v1, kind: Namespace, metadata: {name: before}}\n---\n" + frame % part
    loaded = load_directory([("shop.yaml", text + "\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: after}}\n")])
    assert [entry.name for entry in loaded.objects] == ["before", "after"]
    (refused,) = loaded.refused
    assert refused.refusals[0].field == field
    for refusal in refused.refusals:
        assert refusal.where == "shop.yaml:3"
        assert refusal.accepted
        assert refusal.value


def test_a_refusal_tells_file_line_object_field_value_and_what_is_accepted() -> None:
    text = """\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  ports:
  - port: 80
    targetPort: 80000
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, "web.yaml")
    assert str(caught.value) == (
        "web.yaml:9: Service shop/web: spec.ports[0].targetPort: 80000 is not accepted; accepted: a number from 1 to 65535, "
        "or up to 15 lower-case letters, digits and single '-', with a letter in it"
    )


def test_all_mistakes_of_an_object_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(SERVICE % "{type: X, ports: [{port: 0}, {port: 99999}], selctor: {}}", "f")
    fields = [refusal.field for refusal in caught.value.refusals]
    assert fields == ["spec.selctor", "spec.type", "spec.ports[0].port", "spec.ports[1].port"]


YAML_CASES = {
    "a key twice": "kind: Pod\nkind: Pod\n",
    "an inner key twice": "kind: Pod\nmetadata: {name: a, name: b}\n",
    "an open bracket": "a: [b\n",
    "a tab": "a:\n\tb: c\n",
    "a tag": "a: !!python/object:os.system x\n",
    "a tag of one's own": "a: !secret x\n",
    "a key that is a list": "[a]: b\n",
    "an unknown alias": "a: *b\n",
    "an alias to itself": "a: &b [*b]\n",
    "a bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(7)),
    "a control character": "a: \x01\n",
    "a number without end": f"a: {'9' * 5000}\n",
    "one in another base": f"a: 0x{'f' * 5000}\n",
    "brackets without end": f"a: {'[' * 100_000}\n",
    "deeper than anybody writes": f"a: {'[' * 900}{']' * 900}\n",
    "a merge of no mapping": "a: {<<: 7}\n",
}


@pytest.mark.parametrize("text", YAML_CASES.values(), ids=YAML_CASES)
def test_what_is_no_clean_yaml_is_refused_with_its_line_and_alone(text: str) -> None:
    after = "{apiVersion: v1, kind: Namespace, metadata: {name: after}}"
    loaded = load_directory([("f.yaml", f"# a comment\n---\n{text}---\n{after}\n")])
    assert [entry.name for entry in loaded.objects] == ["after"]
    (refused,) = loaded.refused
    assert refused.key is None
    assert refused.refusals[0].where.startswith("f.yaml:")
    assert 3 <= int(refused.refusals[0].where.split(":")[1]) <= 3 + text.count("\n")


def test_a_whole_number_beyond_every_float_is_refused() -> None:
    """JSON has no bound, and Python's decoder takes thousands of digits."""
    fault = {"delay": {"percentage": {"value": int("9" * 400)}, "fixedDelay": "1s"}}
    spec = {"hosts": ["a.example.com"], "http": [{"fault": fault, "route": [{"destination": {"host": "a.example.com"}}]}]}
    value = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a", "namespace": "b"}, "spec": spec}
    parsed = parse_object(value, "f")
    ((refusal,),) = (entry.refusals for entry in parsed.refused)
    assert refusal.field == "spec.http[0].fault.delay.percentage.value"
    assert refusal.accepted == "a number from 0 to 100"


def test_two_objects_of_one_name_refuse_each_other_wherever_they_are() -> None:
    one = NS % "{name: shop}"
    loaded = load_directory([("a.yaml", f"{one}\n---\n{NS % '{name: other}'}"), ("b.yaml", f"\n{one}")])
    assert [entry.name for entry in loaded.objects] == ["other"]
    assert [entry.refusals[0].where for entry in loaded.refused] == ["a.yaml:1", "b.yaml:2"]
    assert loaded.refused[0].refusals[0].value == "shop, as in b.yaml:2"


def test_a_good_object_and_a_bad_one_of_the_same_name_refuse_each_other_too() -> None:
    loaded = load_directory([("a.yaml", NS % "{name: shop}"), ("b.yaml", NS % "{name: shop, x: y}")])
    assert not loaded.objects
    assert {str(entry.key) for entry in loaded.refused} == {"Namespace shop"}


def test_names_are_per_kind_and_namespace() -> None:
    text = "---\n".join(
        [
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: x}}\n",
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: y}}\n",
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}\n",
            NS % "{name: a}" + "\n",
        ]
    )
    assert [str(entry.key) for entry in parse(text, "f")] == [
        "ServiceAccount x/a",
        "ServiceAccount y/a",
        "ServiceAccount default/a",
        "Namespace a",
    ]


UNPLACED = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: %s}"

LISTED = "{apiVersion: %s, kind: %s, metadata: {name: a, namespace: shop}, items: [{%s}]}"

# What can still be read of a refused policy decides whom it denies.
REACH = [
    (POLICY % "{nope: 1}", "default", {}, True),
    (POLICY % "{nope: 1, selector: {matchLabels: {app: web}}}", "default", {"app": "web"}, True),
    (POLICY % "{selector: {matchLabels: {app: web}, nope: 1}}", "default", None, True),
    (POLICY % "{selector: {matchLabels: {app: 7}}}", "default", None, True),
    (POLICY % "7", "default", None, True),
    ("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: shop}, spek: {}}", "shop", {}, True),
    ("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: [shop]}}", None, {}, True),
    ("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: shop}", None, {}, True),
    ("{apiVersion: security.istio.io/v1, kind: AuthorisationPolicy, metadata: {name: a, namespace: shop}}", "shop", {}, True),
    (
        "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: a, namespace: shop}, spec: {nope: 1}}",
        "shop",
        {},
        True,
    ),
    ("{apiVersion: v9, kind: PeerAuthentication, metadata: {name: a, namespace: shop}}", "shop", {}, True),
    ("kind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\nspec: [\n", "shop", None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  namespace: 'shop'\nspec: [\n", "shop", None, True),
    ("kind: AuthorizationPolicy\nmetadata: {name: a}\nspec: [\n", "default", None, True),
    ("kind: AuthorizationPolicy\nmetadata: {namespace: [shop\n", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata: {namespace: a}\nx: {namespace: b}\ny: [\n", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  name: a\n  labels:\n    namespace: b\nspec: [\n", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  namespace: a\n  labels:\n    namespace: b\nspec: [\n", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  # namespace: b\n  name: a\nspec: [\n", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  namespace: {{ .Values.it }}\nspec: [\n", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  name: a\nspec: [\n", "default", None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  name: [a\n", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  namespace: a # or not\n  name: [a\n", "a", None, True),
    ("kind: AuthorizationPolicy\nmetadata: {name: a, labels: {}}\nspec: [\n", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata: {namespace: a}\n--\nkind: PeerAuthentication\nmetadata: {name: [", None, None, True),
    ("{kind: AuthorizationPolicy, spec: [, metadata: {namespace: shop, name: a}}", "shop", None, True),
    ("apiVersion: v1\nkind: Pod\nmetadata: [\n", None, None, False),
    (SERVICE % "{nope: 1}", "default", {}, False),
    (UNPLACED % "{name: a, nmespace: shop}", None, {}, True),
    (UNPLACED % "{name: a}, namespace: shop", None, {}, True),
    (UNPLACED % "{name: a}, namespce: shop", None, {}, True),
    (UNPLACED % "{name: a}, spec: {namespace: shop}", None, {}, True),
    (UNPLACED % "{nmae: a}", None, {}, True),
    (UNPLACED % "{name: a, labels: [namespace]}", None, {}, True),
    (UNPLACED % "{name: A!}", "default", {}, True),
    (UNPLACED % "{name: a, labels: {b: [1]}}", "default", {}, True),
    (UNPLACED % "{name: a}, spek: {}", "default", {}, True),
    (UNPLACED % "{name: a, namespace: shop}, namespce: shop", "shop", {}, True),
    ("kind: AuthorizationPolicy\nmetadata: {name: a, nmespace: shop}\nspec: [\n", None, None, True),
    (LISTED % ("v1", "Lisst", "kind: AuthorizationPolicy"), None, None, True),
    (LISTED % ("v1", "Lisst", "kind: AuthorizationPolcy, apiVersion: security.istio.io/v1"), None, None, True),
    (LISTED % ("v1", "Lisst", "kind: Lisst, items: [{kind: AuthorizationPolicy}]"), None, None, True),
    (LISTED % ("v1", "Lisst", "kind: Pod"), None, None, False),
    (LISTED % ("v2", "List", "kind: Pod"), None, None, True),
    ("{apiVersion: v1, kind: List, metadata: {name: a, namespace: shop}, itmes: [{kind: Pod}]}", None, None, True),
    ("kind: AuthorizationPolicy\nmetadata:\n  name: a\n  nmespace: shop\nspec: [\n", None, None, True),
]


@pytest.mark.parametrize(("text", "namespace", "selector", "policy"), REACH, ids=range(len(REACH)))
def test_of_a_refused_policy_what_can_be_read_is_kept(
    text: str, namespace: str | None, selector: dict[str, str] | None, policy: bool
) -> None:
    (refused,) = load_directory([("f", text)]).refused
    assert (refused.namespace, refused.selector, refused.policy) == (namespace, selector, policy)


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80) | st.text("abk:{}[]-&*!<'\"\n #,0x.", max_size=60))
@example("---\n--- a\n...\n---")
@example("%YAML 1.2\n---\na: b")
@example("? a\n: b")
@example("- \n- - -")
@example("{kind: List, apiVersion: v1, items: [{kind: List, apiVersion: v1, items: [7, null]}]}")
def test_any_text_is_objects_and_refusals_and_never_an_error(text: str) -> None:
    loaded = load_directory([("f", text)])
    for refused in loaded.refused:
        assert refused.refusals


@pytest.mark.parametrize(
    ("kind", "accepted"), [("Srvice", "a known kind, such as Service"), ("virtualservice", "a known kind, such as VirtualService")]
)
def test_a_kind_that_is_much_like_a_known_one(kind: str, accepted: str) -> None:
    (refused,) = parse_file(f"{{apiVersion: v1, kind: {kind}, metadata: {{name: a}}}}", "f").refused
    assert [refusal.accepted for refusal in refused.refusals] == [accepted]


def test_what_is_said_of_a_kind_that_is_not_taken_is_short() -> None:
    (refused,) = parse_file("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", "f").refused
    (refusal,) = refused.refusals
    assert len(str(refusal)) < 400
    assert {"Service", "VirtualService", "List"} <= set(refusal.accepted.split(", "))


def test_what_cannot_be_told_to_be_an_object_is_known_again_by_its_words() -> None:
    """Comments, and where it stands, are none of them."""
    listed = "kind: List\napiVersion: v1\nitems: [{kind: Polcy, spec: {a: %s}}]"
    for text, same, other in (
        (
            "kind: Polcy\nspec: {a: 1, b: .nan}",
            "# moved\nkind: Polcy # or not\nspec: {'a': 1, b: .nan}\n",
            "kind: Polcy\nspec: {a: '1', b: .nan}",
        ),
        ("a: [", "# moved\na: [  \n\n", "a: [b"),
        (listed % "1", "# moved\n" + listed % "1", listed % "true"),
    ):
        first, second, third = (parse_file(each, "f").refused[0].words for each in (text, same, other))
        assert first == second != third != 0
    (told,) = parse_file(UNPLACED % "{name: a, namespace: b}, spek: 1", "f").refused
    assert told.words == 0


def test_the_words_of_a_long_string_are_read_once_however_often_it_is_used() -> None:
    text = f"kind: Polcy\na: &a {'a' * 1_000_000}\nb: [{', '.join(['*a'] * 20_000)}]"
    (refused,) = parse_file(text, "f").refused
    assert refused.words
