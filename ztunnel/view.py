"""The mesh as this tunnel sees it: the state that the control plane sends, kept current, and who waits for what of it.

Changes come in whole responses (`apply_addresses`, `apply_policies`), each applied in one piece, so that no connection is judged
by half of one. What cannot be read is never skipped in silence, and never opens anything:
- a policy that is refused takes its place as one that denies all it covers (`Authorization.enforceable` is false);
- a workload that is refused keeps its old form for those who connect to it, and nobody may connect in, since it may have come to name
  policies that we cannot see;
- a service that is refused keeps its old form;
- until the policies have come once, no pod of ours is known: a workload without its policies would be one that nothing protects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from mesh.io.log import Log
from mesh.model.policy import Action, Authorization, PolicyScope
from mesh.model.state import MeshState
from mesh.model.workload import Service, Workload
from mesh.wire.zds import WorkloadInfo

log = Log("xds")

REFUSED_POLICY = "(refused: see the log of scope xds)"
"""A key that no policy can have: a workload that names it is denied with POLICY_MISSING."""


class View:
    """`changed` callbacks are told after each response, with whether it brought policies."""

    def __init__(self) -> None:
        self.state = MeshState()
        self.changed: list[Callable[[bool], None]] = []
        self._policies_known = False
        self._waiters: dict[tuple[str, str, str], list[asyncio.Future[None]]] = {}

    def workload_of(self, info: WorkloadInfo) -> Workload | None:
        """A pod of ours, once it and its policies can be known."""
        if not self._policies_known:
            return None
        return self.state.workload_of_pod(info.namespace, info.name, info.service_account)

    async def wait_workload(self, info: WorkloadInfo, patience: float) -> Workload | None:
        """The pod's workload, waiting up to `patience` seconds for it to be announced."""
        workload = self.workload_of(info)
        if workload is not None:
            return workload
        key = (info.namespace, info.name, info.service_account)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(key, [])
        waiters.append(waiter)
        try:
            await asyncio.wait([waiter], timeout=patience)
        finally:
            waiter.cancel()
            waiters.remove(waiter)
            if not waiters and self._waiters.get(key) is waiters:
                del self._waiters[key]
        return self.workload_of(info)

    def apply_addresses(self, values: Iterable[Workload | Service], refused: Iterable[str], removed: Iterable[str]) -> None:
        state = self.state
        for name in removed:
            state.remove_address(name)
        for value in values:
            if isinstance(value, Workload):
                state.upsert_workload(value)
            else:
                state.upsert_service(value)
        for name in refused:
            old = state.workloads.get(name)
            if old is not None and REFUSED_POLICY not in old.policies:
                state.upsert_workload(replace(old, policies=(*old.policies, REFUSED_POLICY)))
        self._notify(policies=False)

    def apply_policies(self, values: Iterable[Authorization], refused: Mapping[str, PolicyScope | None], removed: Iterable[str]) -> None:
        """`refused` maps the names of policies that could not be read to their scope, where at least that could."""
        self._policies_known = True
        for name in removed:
            self.state.remove_policy(name)
        for value in values:
            self.state.upsert_policy(value)
        for name, scope in refused.items():
            self.state.upsert_policy(self._denying(name, scope))
        self._notify(policies=True)

    def _denying(self, key: str, scope: PolicyScope | None) -> Authorization:
        """The policy that stands where one could not be read. Of unknown scope, it covers all that one of its name may cover."""
        namespace, _, name = key.partition("/")
        old = self.state.policies.get(key)
        if scope is None and old is not None:
            scope = old.scope
        if scope is None:
            # Which namespace is the root one is the control plane's to know: any might be.
            scope = PolicyScope.GLOBAL
        log.error("a policy that cannot be read denies all it covers", policy=key, covers=scope.value)
        return Authorization(name, namespace, scope, Action.DENY, enforceable=False)

    def _notify(self, policies: bool) -> None:
        for (namespace, name, account), waiters in self._waiters.items():
            if self._policies_known and self.state.workload_of_pod(namespace, name, account) is not None:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
        for callback in self.changed:
            try:
                callback(policies)
            except Exception:
                log.exception("a bug keeps one part from hearing of a change")
