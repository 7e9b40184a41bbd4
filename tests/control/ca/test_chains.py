"""Every chain that we answer with, before other people's judges: `openssl verify`, strictly and for both ends of a connection, and the
SPIFFE project's library. At every moment of a change the leaf of one side is judged by the roots of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography import x509
from spiffe import SpiffeId, TrustDomain, X509Bundle, X509BundleSet, X509Svid
from spiffe.errors import PySpiffeError

from control.ca import mounted
from control.ca.authority import Authority
from control.ca.make import Lives, with_intermediate
from control.ca.material import check
from control.ca.rotation import Gate, introduce, retire, switch
from mesh.model.identity import Identity
from tests.control.ca.mounts import Files, cert_manager, istio, pkcs1, put, rsa_key, two_levels
from tests.control.ca.support import DAY, DOMAIN, ME, a_state, authority_of, key, now, path, private_pem, request, verify

OPEN = Gate((), 0, 0)


@dataclass(frozen=True)
class Moment:
    """What the CA answers with at one moment, and the names on the way to the root that signs then."""

    chain: tuple[str, ...]
    names: tuple[str, ...]


def moment(authority: Authority) -> Moment:
    chain = authority.sign(request(), ME, 0, DAY).chain
    above = [x509.load_pem_x509_certificate(text.encode()) for text in chain[1:-1]]
    return Moment(chain, ("", *(each.subject.rfc4514_string() for each in (*above, authority.root))))


def of_mount(files: Files) -> Moment:
    with TemporaryDirectory() as directory:
        found = mounted.read(put(Path(directory), files))
    return moment(Authority(check(found, now(), "a mount"), found.chain, found.roots, ""))


def changes() -> Iterator[tuple[str, Moment]]:
    state = a_state()
    yield "fresh", moment(authority_of(state))
    renewed = with_intermediate(state.current, DOMAIN, now(), Lives())
    yield "another intermediate", moment(Authority(check(renewed, now(), "a test"), renewed.chain, state.bundle, ""))
    state = introduce(state, a_state().current, 0)
    yield "a root introduced", moment(authority_of(state))
    state = switch(state, OPEN, 0)
    yield "switched to it", moment(authority_of(state))
    yield "the old one retired", moment(authority_of(retire(state, OPEN, 0)))


MOUNTS: dict[str, Callable[[], Files]] = {
    "cacerts": istio,
    "cacerts, RSA": lambda: istio(rsa_key(), text=pkcs1(rsa_key())),
    "cacerts, two levels": two_levels,
    "cert-manager": cert_manager,
    "cert-manager, RSA": lambda: cert_manager(rsa_key()),
}
CHANGES = ("fresh", "another intermediate", "a root introduced", "switched to it", "the old one retired")
APART = (
    ({"fresh", "another intermediate", "a root introduced"}, {"the old one retired"}),
    ({"switched to it", "the old one retired"}, {"fresh", "another intermediate"}),
)
"""Leaves of the first, roots of the second: no connection. Between them lies a step that waits for all to have renewed."""


@pytest.fixture(scope="module")
def moments() -> dict[str, Moment]:
    return {**dict(changes()), **{name: of_mount(make()) for name, make in MOUNTS.items()}}


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
@pytest.mark.parametrize("case", [*CHANGES, *MOUNTS])
def test_openssl_finds_the_way_to_the_root(moments: dict[str, Moment], case: str, purpose: str, tmp_path: Path) -> None:
    found = moments[case]
    assert tuple(path(tmp_path, found.chain, purpose)) == found.names
    if len(found.chain) > 2:
        assert "unable to get local issuer" in verify(tmp_path, (found.chain[0], found.chain[-1]), purpose), "it needs what is between"


@pytest.mark.parametrize("theirs", CHANGES)
@pytest.mark.parametrize("ours", CHANGES)
def test_both_ends_accept_each_other_through_a_change(moments: dict[str, Moment], ours: str, theirs: str, tmp_path: Path) -> None:
    refused = verify(tmp_path, (*moments[ours].chain[:-1], moments[theirs].chain[-1]))
    apart = any(ours in leaves and theirs in roots for leaves, roots in APART)
    assert ("unable to get local issuer" in refused) if apart else (refused == "")


@pytest.mark.parametrize("case", [*CHANGES, *MOUNTS])
def test_the_spiffe_library_takes_it_for_an_svid_of_our_trust_domain(moments: dict[str, Moment], case: str) -> None:
    *chain, roots = moments[case].chain
    svid = X509Svid.parse("".join(chain).encode(), private_pem(key()).encode())
    assert svid.spiffe_id == SpiffeId(str(ME))
    assert len(svid.cert_chain) == len(chain)
    bundles = X509BundleSet.of([X509Bundle.parse(TrustDomain(DOMAIN), roots.encode())])
    bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    assert bundle is not None
    assert bundle.x509_authorities == set(x509.load_pem_x509_certificates(roots.encode()))
    above = [root.subject.rfc4514_string() for root in bundle.x509_authorities if signed(svid.cert_chain[-1], root)]
    assert above == [moments[case].names[-1]]


def signed(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError):
        return False
    return True


def test_the_spiffe_library_knows_a_ca_from_a_workload() -> None:
    """So that what it says above is worth something."""
    current = a_state().current
    with pytest.raises(PySpiffeError):
        X509Svid.parse(current.certificate.encode(), current.key.encode())


@pytest.mark.parametrize(
    ("domain", "namespace", "account"),
    [("cluster.local", "shop", "cart"), ("td-1.example.com", "kube-system", "a.b-c.d"), ("a_b", "n" * 63, "s" * 253)],
)
def test_identities_are_spiffe_ids(domain: str, namespace: str, account: str) -> None:
    found = SpiffeId(str(Identity(domain, namespace, account)))
    assert found.trust_domain == TrustDomain(domain)
    assert found.path == f"/ns/{namespace}/sa/{account}"
