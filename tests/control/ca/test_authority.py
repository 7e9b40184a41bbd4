"""What is signed, checked by OpenSSL's own command and by the cryptography library. Every kind of chain: test_chains.py."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from control.ca.authority import MAX_LIFE, Authority, CannotSign
from control.ca.csr import MAX_CSR
from control.ca.make import Lives, self_made
from control.ca.pem import key_id
from mesh.io.tls import make_credentials
from mesh.model.errors import PeerError
from mesh.model.identity import Identity
from tests.control.ca.support import DAY, DOMAIN, ME, a_state, authority_of, key, now, private_pem, request, verify


@pytest.fixture(scope="module")
def authority() -> Authority:
    return authority_of(a_state())


def leaf_of(chain: tuple[str, ...]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain[0].encode())


def test_a_leaf_says_who_was_proved_and_nothing_of_what_was_asked(authority: Authority) -> None:
    issued = authority.sign(request(), ME, 3600, DAY)
    leaf = leaf_of(issued.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [name.value for name in names.value] == [str(ME)]
    assert not list(leaf.subject)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert (leaf.serial_number, leaf.not_valid_after_utc.timestamp()) == (issued.serial, issued.not_after)
    assert timedelta(0) < now() - leaf.not_valid_before_utc < timedelta(minutes=3)
    assert timedelta(minutes=59) < leaf.not_valid_after_utc - now() < timedelta(minutes=61)


def test_a_tunnel_accepts_it(authority: Authority) -> None:
    made = make_credentials(private_pem(key()).encode(), authority.sign(request(), ME, 3600, DAY).chain)
    assert made.identity == ME
    assert len(made.chain_pem) == 2


def test_the_authorities_are_what_they_may_be(authority: Authority) -> None:
    root, intermediate = authority.root, authority.certificate
    for each, length in ((root, 1), (intermediate, 0)):
        assert each.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, length)
        usage = each.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert (usage.value.key_cert_sign, usage.value.digital_signature) == (True, False)
        name = each.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert name.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{DOMAIN}"]
        with pytest.raises(x509.ExtensionNotFound):  # rustls would refuse every leaf below it
            each.extensions.get_extension_for_class(x509.NameConstraints)
        assert isinstance(each.public_key(), ec.EllipticCurvePublicKey)
        assert 64 < each.serial_number.bit_length() <= 159
    assert intermediate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier.hex() == key_id(root)
    assert timedelta(days=3649) < root.not_valid_after_utc - now() <= timedelta(days=3650)
    assert timedelta(days=364) < intermediate.not_valid_after_utc - now() <= timedelta(days=365)


def test_serial_numbers_do_not_repeat(authority: Authority) -> None:
    serials = {authority.sign(request(), ME, 60, DAY).serial for _ in range(200)}
    assert len(serials) == 200


def test_two_roots_of_one_mesh_have_names_of_their_own() -> None:
    one, other = authority_of(a_state()), authority_of(a_state())
    assert one.root.subject != other.root.subject


@pytest.mark.parametrize(("asked", "longest", "given"), [(0, 20, 20), (10, 20, 10), (60, 20, 20), (MAX_LIFE, DAY, DAY)])
def test_no_leaf_outlives_what_is_configured(authority: Authority, asked: int, longest: int, given: int) -> None:
    when = now()
    issued = authority.sign(request(), ME, asked, longest, when)
    assert issued.not_after == int(when.timestamp() + given)


def test_no_leaf_outlives_its_issuers(tmp_path: Path) -> None:
    when = now()
    state = a_state(lives=Lives(root=timedelta(hours=1), intermediate=timedelta(days=365)))
    authority = authority_of(state)
    assert authority.certificate.not_valid_after_utc == authority.root.not_valid_after_utc
    issued = authority.sign(request(), ME, 0, DAY)
    assert issued.not_after == authority.root.not_valid_after_utc.timestamp() <= when.timestamp() + 3601
    assert verify(tmp_path, issued.chain) == ""
    with pytest.raises(CannotSign, match="expired"):
        authority.sign(request(), ME, 0, DAY, when + timedelta(hours=2))


@pytest.mark.parametrize(("life", "skew"), [(DAY, 90), (DAY, 115), (600, 50)])
def test_a_node_whose_clock_is_behind_accepts_a_new_leaf(authority: Authority, tmp_path: Path, life: int, skew: int) -> None:
    chain = authority.sign(request(), ME, life, DAY).chain
    assert verify(tmp_path, chain, at=now() - timedelta(seconds=skew)) == ""
    assert "not yet valid" in verify(tmp_path, chain, at=now() - timedelta(minutes=3))


def test_a_node_whose_clock_is_behind_accepts_a_new_ca(tmp_path: Path) -> None:
    assert verify(tmp_path, authority_of(a_state()).sign(request(), ME, DAY, DAY).chain, at=now() - timedelta(seconds=90)) == ""


def test_rsa_keys_are_taken(authority: Authority, tmp_path: Path) -> None:
    own = rsa.generate_private_key(65537, 2048)
    chain = authority.sign(request(own), ME, 0, 60).chain
    assert leaf_of(chain).extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment
    assert verify(tmp_path, chain) == ""


def of_ed25519() -> str:
    own = ed25519.Ed25519PrivateKey.generate()
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(own, None)
    return made.public_bytes(serialization.Encoding.PEM).decode()


def forged() -> str:
    der = bytearray(x509.load_pem_x509_csr(request().encode()).public_bytes(serialization.Encoding.DER))
    der[-3] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()


REFUSED = {
    "empty": (lambda: "", "one PEM block"),
    "garbage": (lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "cannot be read"),
    "no PEM": (lambda: "hello", "one PEM block"),
    "DER": (lambda: x509.load_pem_x509_csr(request().encode()).public_bytes(serialization.Encoding.DER).decode("latin1"), "one PEM block"),
    "too long": (lambda: request() + " " * MAX_CSR, "characters"),
    "a certificate": (lambda: authority_of(a_state()).bundle, "one PEM block"),
    "a key": (lambda: private_pem(key()), "one PEM block"),
    "two": (lambda: request() + request(), "one PEM block"),
    "not ASCII": (lambda: request().replace("\n", "\n\u00e9", 1), "cannot be read"),
    "weak RSA": (lambda: request(rsa.generate_private_key(65537, 1024)), "another kind"),
    "odd curve": (lambda: request(ec.generate_private_key(ec.SECP256K1())), "another kind"),
    "Ed25519": (of_ed25519, "another kind"),
    "not signed by its own key": (forged, "not signed by its own key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_requests_that_are_refused(authority: Authority, case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(PeerError, match=words):
        authority.sign(make(), ME, 0, 60)


@pytest.mark.parametrize("seconds", [MAX_LIFE + 1, -1])
def test_a_request_for_too_long_is_an_error(authority: Authority, seconds: int) -> None:
    with pytest.raises(PeerError):
        authority.sign(request(), ME, seconds, 60)


def test_a_replayed_request_gains_nothing(authority: Authority) -> None:
    """Node 2 sends again what it saw node 1 send: its certificate names whom *it* may ask for, and is for a key that it does not have."""
    seen = request(name=str(ME))
    mine = Identity(DOMAIN, "elsewhere", "thief")
    chain = authority.sign(seen, mine, 0, DAY).chain
    names = leaf_of(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(mine)]
    assert leaf_of(chain).public_key() == key().public_key()  # the victim's
    with pytest.raises(PeerError, match="KEY_VALUES_MISMATCH"):
        make_credentials(private_pem(ec.generate_private_key(ec.SECP256R1())).encode(), chain)


@pytest.mark.parametrize("name", ["istiod.istio-system.svc", "10.0.0.1", "fd00::1"])
def test_the_serving_chain(authority: Authority, tmp_path: Path, name: str) -> None:
    pair = authority.serving([name, "other"], timedelta(hours=24))
    first, *between = (text + "-----END CERTIFICATE-----\n" for text in pair.chain.decode().split("-----END CERTIFICATE-----\n")[:-1])
    assert len(between) == 1
    assert verify(tmp_path, (first, *between, authority.bundle), "sslserver") == ""
    usage = x509.load_pem_x509_certificate(first.encode()).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH}
    assert pair.not_after - pair.not_before == pytest.approx(86400 + 120, abs=2)


def test_what_signs_is_as_strong_as_its_key() -> None:
    assert isinstance(authority_of(a_state()).certificate.signature_hash_algorithm, hashes.SHA256)


def test_a_long_trust_domain_fits(tmp_path: Path) -> None:
    domain = ".".join(["a" * 60, "b" * 60])
    material = self_made(domain, now(), Lives())
    assert f"spiffe://{domain}" in str(x509.load_pem_x509_certificate(material.chain[0].encode()).extensions)
