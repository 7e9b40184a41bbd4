"""What the control plane sends, and what becomes of what cannot be read: nothing ever opens."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from mesh.model import policy
from mesh.model.codec.proto import address_to, authorization_to
from mesh.model.errors import ConfigError
from mesh.model.policy import Action, Authorization, PolicyScope
from mesh.model.reasons import Reason
from mesh.model.workload import Workload
from mesh.pb import authorization_pb2
from mesh.wire.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE, Resource
from mesh.wire.zds import WorkloadInfo
from ztunnel.judge import judge
from ztunnel.view import View
from ztunnel.xds import read_address, read_policy, scope_of

POD = ip_address("10.0.0.5")
WORKLOAD = Workload("uid", "pod", "shop", (POD,))
INFO = WorkloadInfo("pod", "shop", "default")
QUESTION = policy.Connection(None, ip_address("10.0.0.9"), POD, 80)


def view(*policies: Authorization, workload: Workload = WORKLOAD) -> View:
    made = View()
    made.apply_addresses([workload], [], [])
    made.apply_policies(policies, {}, [])
    return made


def verdict(known: View) -> Reason:
    workload = known.workload_of(INFO)
    assert workload is not None
    return judge(known.state, workload, QUESTION).reason


def test_a_refused_update_of_a_workload_closes_it_and_keeps_the_way_to_others() -> None:
    known = view()
    assert verdict(known) is Reason.OK
    known.apply_addresses([], ["uid", "never-seen"], [])
    assert verdict(known) is Reason.POLICY_MISSING
    assert known.state.workloads["uid"].addresses == (POD,)
    known.apply_addresses([WORKLOAD], [], [])
    assert verdict(known) is Reason.OK


@pytest.mark.parametrize(
    ("name", "scope", "denies"),
    [
        ("shop/p", PolicyScope.NAMESPACE, True),
        ("shop/p", None, True),  # of unknown scope: all that one of this name may cover
        ("istio-system/p", None, True),
        ("elsewhere/p", None, True),  # the root namespace may have any name
        ("istio-system/p", PolicyScope.GLOBAL, True),
        ("shop/p", PolicyScope.WORKLOAD, False),  # nobody names it
    ],
)
def test_a_refused_policy_denies_all_that_it_covers(name: str, scope: PolicyScope | None, denies: bool) -> None:
    known = view()
    known.apply_policies([], {name: scope}, [])
    assert verdict(known) is (Reason.POLICY_UNENFORCEABLE if denies else Reason.OK)
    known.apply_policies([], {}, [name])
    assert verdict(known) is Reason.OK


def test_a_refused_policy_that_a_workload_names_denies_it() -> None:
    known = view(workload=Workload("uid", "pod", "shop", (POD,), policies=("shop/p",)))
    assert verdict(known) is Reason.POLICY_MISSING
    known.apply_policies([], {"shop/p": PolicyScope.WORKLOAD}, [])
    assert verdict(known) is Reason.POLICY_UNENFORCEABLE


def test_a_refused_update_keeps_the_scope_that_was_known() -> None:
    known = view(Authorization("p", "shop", PolicyScope.WORKLOAD, Action.DENY))
    known.apply_policies([], {"shop/p": None}, [])
    assert known.state.policies["shop/p"].scope is PolicyScope.WORKLOAD


def test_waiting_for_a_workload() -> None:
    async def main() -> None:
        known = View()
        waiting = [asyncio.ensure_future(known.wait_workload(INFO, 60)) for _ in range(2)]
        other = asyncio.ensure_future(known.wait_workload(WorkloadInfo("pod", "shop", "somebody-else"), 0.01))
        await asyncio.sleep(0)
        known.apply_addresses([WORKLOAD], [], [])
        assert known.workload_of(INFO) is None, "its policies may be on their way"
        assert not any(each.done() for each in waiting)
        known.apply_policies([], {}, [])
        assert [await each for each in waiting] == [WORKLOAD, WORKLOAD]
        assert await other is None
        assert await known.wait_workload(INFO, 0) == WORKLOAD
        assert known._waiters == {}

    asyncio.run(main())


def test_changes_are_told_once_per_response() -> None:
    known = View()
    told: list[bool] = []
    known.changed.append(told.append)
    known.apply_addresses([WORKLOAD], [], [])
    known.apply_policies([], {}, ["x"])
    assert told == [False, True]


def test_resources_are_read_strictly() -> None:
    body = address_to(WORKLOAD).SerializeToString()
    assert read_address(Resource("uid", "1", ADDRESS_TYPE, body)) == WORKLOAD
    with pytest.raises(ConfigError, match="the resource's name"):
        read_address(Resource("another", "1", ADDRESS_TYPE, body))
    with pytest.raises(ConfigError, match=r"accepted: type\.googleapis\.com/istio\.workload\.Address"):
        read_address(Resource("uid", "1", AUTHORIZATION_TYPE, body))
    with pytest.raises(ConfigError, match="accepted: a message of type"):
        read_address(Resource("uid", "1", ADDRESS_TYPE, b"\xff"))
    policy_body = authorization_to(Authorization("p", "shop", PolicyScope.GLOBAL, Action.DENY)).SerializeToString()
    with pytest.raises(ConfigError, match="the resource's name"):
        read_policy(Resource("shop/q", "1", AUTHORIZATION_TYPE, policy_body))


def test_the_scope_of_a_policy_that_is_refused() -> None:
    known = authorization_pb2.Authorization(name="p", namespace="shop", scope=authorization_pb2.WORKLOAD_SELECTOR)
    known.rules.add().clauses.add().matches.add().destination_ports.append(70000)
    resource = Resource("shop/p", "1", AUTHORIZATION_TYPE, known.SerializeToString())
    with pytest.raises(ConfigError):
        read_policy(resource)
    assert scope_of(resource) is PolicyScope.WORKLOAD
    assert scope_of(Resource("shop/p", "1", AUTHORIZATION_TYPE, b"\xff")) is None
