"""Identities that policies name: whether anybody can have them.

What is outside the input may well be there, so that an unknown namespace is only reported where it looks like a known one misspelt, or
where the input is a whole cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from control.analyze.codes import policy as codes
from control.analyze.findings import Findings
from control.analyze.given import about
from control.analyze.namespaces import MADE_BY_CLUSTERS
from control.analyze.near import near
from control.analyze.world import ACCOUNTS, NAMESPACES, World
from mesh.model.manifest import AuthorizationPolicy, Gateway, IstioGateway, ServiceAccount, ServiceEntry, WorkloadEntry
from mesh.model.manifest.security import PolicyRule

PRINCIPAL = re.compile(r"([^/*]+)/ns/([^/*]+)/sa/([^/*]+)")
OF_NAMESPACE = re.compile(r"([^/*]+)/ns/([^/*]+)/(?:sa/)?\*")

Judge = Callable[[AuthorizationPolicy, str, str], None]


class Identities:
    def __init__(self, world: World, found: Findings) -> None:
        self._world = world
        self._found = found
        self._namespaces = {*world.namespaces, *MADE_BY_CLUSTERS, world.settings.root_namespace}
        self._namespaces |= {entry.namespace for entry in world.objects.values() if entry.namespace}
        self._namespaces |= {runs.namespace for runs in world.runs}
        self._accounts: dict[str, set[str]] = {}
        for namespace, name in _accounts(world):
            self._accounts.setdefault(namespace, {"default"}).add(name)

    def check(self, policy: AuthorizationPolicy, rule: PolicyRule, path: str) -> None:
        for index, entry in enumerate(rule.from_):
            at, source = f"{path}.from[{index}].source", entry.source
            self._each(policy, f"{at}.principals", source.principals, self._principal)
            self._each(policy, f"{at}.notPrincipals", source.not_principals, self._principal)
            self._each(policy, f"{at}.namespaces", source.namespaces, self._namespace)
            self._each(policy, f"{at}.notNamespaces", source.not_namespaces, self._namespace)
            self._each(policy, f"{at}.serviceAccounts", source.service_accounts, self._named)
            self._each(policy, f"{at}.notServiceAccounts", source.not_service_accounts, self._named)
        judges = {"source.principal": self._principal, "source.namespace": self._namespace, "source.serviceAccount": self._named}
        for index, condition in enumerate(rule.when):
            judge = judges.get(condition.key)
            if judge is not None:
                at = f"{path}.when[{index}]"
                self._each(policy, f"{at}.values", map(str, condition.values), judge)
                self._each(policy, f"{at}.notValues", map(str, condition.not_values), judge)

    def _each(self, policy: AuthorizationPolicy, path: str, values: Iterable[str], judge: Judge) -> None:
        for index, value in enumerate(values):
            judge(policy, value, f"{path}[{index}]")

    def _principal(self, policy: AuthorizationPolicy, value: str, field: str) -> None:
        match = PRINCIPAL.fullmatch(value) or OF_NAMESPACE.fullmatch(value)
        domain = self._world.settings.trust_domain
        if match is None:
            if "*" not in value:
                hint = f"write {domain}/ns/<namespace>/sa/<service account>"
                self._found.add(codes.UNKNOWN_PRINCIPAL, about(policy), field, f"no identity looks like {value}", hint)
            return
        if match.group(1) != domain:
            message = f"identities of this mesh are of the trust domain {domain}, not {match.group(1)}"
            hint = f"write {domain}{value.removeprefix(match.group(1))}"
            self._found.add(codes.UNKNOWN_PRINCIPAL, about(policy), field, message, hint)
        elif self._there(policy, match.group(2), field) and match.re is PRINCIPAL:
            self._account(policy, match.group(2), match.group(3), field)

    def _namespace(self, policy: AuthorizationPolicy, value: str, field: str) -> None:
        if "*" not in value:
            self._there(policy, value, field)

    def _named(self, policy: AuthorizationPolicy, value: str, field: str) -> None:
        owner, _, account = value.rpartition("/")
        namespace = owner or policy.namespace
        if not owner or self._there(policy, namespace, field):
            self._account(policy, namespace, account, field)

    def _there(self, policy: AuthorizationPolicy, namespace: str, field: str) -> bool:
        """Whether the namespace may be there."""
        if namespace in self._namespaces:
            return True
        meant = near(namespace, self._namespaces)
        if meant or self._world.given.complete:
            hint = f"did you mean {meant}?" if meant else "mend the name, or create the namespace"
            self._found.add(codes.UNKNOWN_NAMESPACE, about(policy), field, f"there is no namespace {namespace}", hint)
        else:
            self._world.unchecked.add((NAMESPACES, namespace))
        return False

    def _account(self, policy: AuthorizationPolicy, namespace: str, account: str, field: str) -> None:
        known = self._accounts.get(namespace, {"default"})
        if account not in known:
            meant = near(account, known)
            if self._world.lacks(ACCOUNTS, namespace, meant):
                hint = f"did you mean {meant}?" if meant else f"accounts of {namespace}: {', '.join(sorted(known)[:10])}"
                message = f"there is no service account {namespace}/{account}"
                self._found.add(codes.UNKNOWN_ACCOUNT, about(policy), field, message, hint)
        # What operators and templates will make is not in manifests, so only a cluster can tell that nobody runs as an account.
        elif self._world.given.complete and not self._used(namespace, account):
            message = f"nothing runs as the service account {namespace}/{account}"
            self._found.add(codes.UNKNOWN_PRINCIPAL, about(policy), field, message, "mend the name, if another is meant")

    def _used(self, namespace: str, account: str) -> bool:
        return any(runs.account == account for runs in self._world.runs_in(namespace)) or any(
            (namespace, account) == entry for entry in _elsewhere(self._world)
        )


def _accounts(world: World) -> Iterator[tuple[str, str]]:
    for entry in world.of(ServiceAccount):
        yield entry.namespace, entry.name
    for runs in world.runs:
        yield runs.namespace, runs.account
    yield from _elsewhere(world)


def _elsewhere(world: World) -> Iterator[tuple[str, str]]:
    """Accounts of what is no pod here: gateways, which get theirs from whoever runs them, and entries."""
    for gateway in (*world.of(Gateway), *world.of(IstioGateway)):
        yield gateway.namespace, gateway.name
        yield gateway.namespace, f"{gateway.name}-istio"
    for entry in world.of(WorkloadEntry):
        yield entry.namespace, entry.spec.service_account or "default"
    for service in world.of(ServiceEntry):
        for spec in service.spec.endpoints:
            yield service.namespace, spec.service_account or "default"
