"""What follows from a refusal and what mends it: told for each object once."""

from __future__ import annotations

import pytest

from culvert.playground.outcome import KEPT, outcomes
from mesh.model.errors import Refusal

POLICY = "AuthorizationPolicy shop/closed"


def refusal(subject: str, where: str = "/srv/a.yaml:3") -> Refusal:
    return Refusal(where, subject, "spec.rules", "1", "a list")


@pytest.mark.parametrize(
    ("subject", "in_force", "said", "consequence", "fix"),
    [
        (POLICY, {POLICY}, {POLICY: "denied"}, KEPT, "mend it and: culvert apply -f /srv/a.yaml"),
        (
            POLICY,
            (),
            {POLICY: "all traffic is denied to X"},
            "all traffic is denied to X",
            "culvert delete authorizationpolicy closed -n shop",
        ),
        (POLICY, (), {}, "all traffic that it covers is denied", "culvert delete authorizationpolicy closed -n shop"),
        ("Service shop/web", (), {}, "it does not exist", "culvert delete service web -n shop"),
        ("ConfigMap shop/odd name", (), {}, "it does not exist", "culvert delete configmap 'odd name' -n shop"),
        ("Namespace shop", (), {}, "it does not exist", "culvert delete namespace shop"),
        ("ConfigMap", (), {}, "nothing of it is applied", "culvert delete refused /srv/a.yaml"),
        ("", (), {"": "all traffic is denied to all pods"}, "all traffic is denied to all pods", "culvert delete refused /srv/a.yaml"),
    ],
)
def test_the_consequence_and_the_command(subject: str, in_force: set[str], said: dict[str, str], consequence: str, fix: str) -> None:
    (found,) = outcomes([refusal(subject), refusal(subject)], in_force, said)
    assert (found.consequence, found.fix.endswith(fix)) == (consequence, True)


def test_a_policy_with_an_accepted_version_is_not_told_to_be_deleted() -> None:
    (found,) = outcomes([refusal(POLICY)], {POLICY}, {}, " --name shop")
    assert "delete" not in found.fix
    assert "--name shop" in found.fix


def test_each_file_that_cannot_be_read_is_named() -> None:
    found = outcomes([refusal("", "/a.yaml:1"), refusal("", "/b.yaml:1")], (), {})
    assert [item.subject for item in found] == ["what could not be read in /a.yaml", "what could not be read in /b.yaml"]


def test_standard_input_is_no_file() -> None:
    (found,) = outcomes([refusal("Service shop/web", "stdin:3")], (), {})
    assert found.fix == "mend it and: culvert apply -f -, or drop it: culvert delete service web -n shop"
