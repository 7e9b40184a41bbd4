"""Chains with an intermediate, and a change of root between two tunnels: whoever holds what, at each step of it."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from functools import lru_cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control.ca.authority import Authority
from control.ca.make import Lives, self_made, with_intermediate
from control.ca.material import Material, check
from control.ca.rotation import Gate, introduce, retire, switch
from control.ca.state import State
from mesh.io import tls, tunnel
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from mesh.model.reasons import Reason
from tests.control.ca.support import Foreign, pem, private_pem
from tests.io.rig import on_loop, tcp_pair

OPEN = Gate((), 0, 0)
PHASES = ("before", "introduced", "switched", "retired")
NEAR, FAR = Identity("cluster.local", "shop", "near"), Identity("cluster.local", "shop", "far")


@lru_cache(maxsize=1)
def states() -> dict[str, State]:
    now = datetime.now(UTC)
    before = State("cluster.local", self_made("cluster.local", now, Lives()))
    introduced = introduce(before, self_made("cluster.local", now, Lives()), 0)
    switched = switch(introduced, OPEN, 0)
    return dict(zip(PHASES, (before, introduced, switched, retire(switched, OPEN, 0)), strict=True))


def answer(state: State, identity: Identity) -> tls.Credentials:
    """What a tunnel makes of the CA's answer."""
    authority = Authority(check(state.current, datetime.now(UTC), "a test"), state.current.chain, state.bundle, state.token)
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    issued = authority.sign(request.public_bytes(serialization.Encoding.PEM).decode(), identity, 600, 600)
    return tls.make_credentials(private_pem(key).encode(), issued.chain)


@lru_cache(maxsize=16)
def held(phase: str, identity: Identity) -> tls.Credentials:
    return answer(states()[phase], identity)


async def shake(near: tls.Credentials, far: tls.Credentials) -> Reason | None:
    """Why the two do not accept each other; None where they do."""
    one, other = tcp_pair()
    accepting = asyncio.create_task(tunnel.accept(other, far, lambda incoming: None))
    try:
        dialled = await tunnel.dial(one, near, frozenset({far.identity}), None)
    except PeerError as error:
        with pytest.raises(PeerError):
            await accepting
        return error.reason
    dialled.close(Reason.OK)
    assert await (await accepting).closed is Reason.GOAWAY
    return None


def apart(one: str, other: str) -> bool:
    """Whether two steps are too far from each other: between them lies one for which everybody had to renew."""
    return abs(PHASES.index(one) - PHASES.index(other)) > 1


@pytest.mark.parametrize(("near", "far"), list(itertools.product(PHASES, PHASES)))
@on_loop
async def test_peers_that_are_one_step_apart_accept_each_other(near: str, far: str) -> None:
    reason = await shake(held(near, NEAR), held(far, FAR))
    assert (reason is not None) == apart(near, far), reason


@on_loop
async def test_peers_with_the_old_and_the_new_intermediate_accept_each_other() -> None:
    state = states()["before"]
    renewed = State("cluster.local", with_intermediate(state.current, "cluster.local", datetime.now(UTC), Lives()))
    new = answer(renewed, FAR)
    assert new.chain_pem[1] != held("before", NEAR).chain_pem[1]
    assert await shake(held("before", NEAR), new) is None
    assert await shake(new, held("before", NEAR)) is None


@pytest.mark.parametrize("first", [0, 1])
@on_loop
async def test_two_roots_of_one_name(first: int) -> None:
    """Somebody else's CA may call its next root as its last: the key identifier tells which has signed."""
    roots = [Foreign(), Foreign()]
    assert roots[0].certificate.subject == roots[1].certificate.subject
    bundle = (roots[first].pem, roots[1 - first].pem)
    made = []
    for root, identity in zip(roots, (NEAR, FAR), strict=True):
        key = ec.generate_private_key(ec.SECP256R1())
        chain = pem(root.intermediate(key, name=identity.service_account))
        trusted = (root.pem, *(each for each in bundle if each != root.pem))
        made.append(answer(State("cluster.local", Material(private_pem(key), (chain,), trusted)), identity))
    assert await shake(made[0], made[1]) is None


def test_what_is_shown_and_what_is_trusted_are_told_apart() -> None:
    made = held("introduced", NEAR)
    assert len(made.chain_pem) == 2
    assert made.roots_pem == states()["introduced"].bundle
    assert all(text.count("BEGIN") == 1 for text in (*made.chain_pem, *made.roots_pem))


@pytest.mark.parametrize(
    "chain",
    [("intermediate", "roots"), ("leaf", "roots"), ("leaf", "intermediate", "leaf"), ("leaf", "intermediate", "nothing")],
    ids=["no leaf", "no intermediate", "no root", "an empty root"],
)
def test_an_answer_that_lacks_something_is_refused_before_use(chain: tuple[str, ...]) -> None:
    state = states()["before"]
    authority = Authority(check(state.current, datetime.now(UTC), "a test"), state.current.chain, state.bundle, state.token)
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    leaf, intermediate, roots = authority.sign(request.public_bytes(serialization.Encoding.PEM).decode(), NEAR, 600, 600).chain
    parts = {"leaf": leaf, "intermediate": intermediate, "roots": roots, "nothing": "# nothing\n"}
    with pytest.raises(PeerError) as refused:
        tls.make_credentials(private_pem(key).encode(), [parts[name] for name in chain])
    assert refused.value.reason is Reason.NO_CERTIFICATE
