"""A party's TLS certificate, its file, and contexts that trust pins only."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from crypto.errors import KeyFileRefused, Malformed
from crypto.identifiers import PartyId
from crypto.tls import (
    TlsIdentity,
    client_context,
    make_identity,
    peer_certificate,
    read_identity,
    require_certificate,
    server_context,
)

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)


def a_party(digit: str) -> PartyId:
    return PartyId("pty_" + 32 * digit)


def an_identity(folder: Path, digit: str, name: str = "") -> TlsIdentity:
    return make_identity(folder / f"{name or digit}.pem", a_party(digit), now=NOW)


@dataclass
class Side:
    """One end of a TLS connection in memory."""

    context: ssl.SSLContext
    server: bool

    def __post_init__(self) -> None:
        self.arrived, self.leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self.arrived, self.leaving, server_side=self.server)
        self.done = False

    def step(self) -> None:
        if not self.done:
            try:
                self.tls.do_handshake()
                self.done = True
            except ssl.SSLWantReadError:
                pass


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[Side, Side]:
    """Raises SSLError when either side refuses the other."""
    one, other = Side(client, False), Side(server, True)
    for _ in range(6):
        one.step()
        other.arrived.write(one.leaving.read())
        other.step()
        one.arrived.write(other.leaving.read())
    assert one.done and other.done
    return one, other


def test_two_parties_that_pinned_each_other_meet_in_tls_1_3(tmp_path: Path) -> None:
    a, b = an_identity(tmp_path, "a"), an_identity(tmp_path, "b")
    one, other = shake_hands(client_context(a, b.certificate), server_context(b, [a.certificate]))
    assert one.tls.version() == other.tls.version() == "TLSv1.3"
    assert peer_certificate(one.tls) == b.certificate
    assert peer_certificate(other.tls) == a.certificate


def test_no_ticket_lets_a_client_come_back_without_its_certificate(tmp_path: Path) -> None:
    a, b = an_identity(tmp_path, "a"), an_identity(tmp_path, "b")
    one, _ = shake_hands(client_context(a, b.certificate), server_context(b, [a.certificate]))
    with pytest.raises(ssl.SSLWantReadError):
        one.tls.read(1)
    assert one.tls.session is not None and not one.tls.session.has_ticket


def test_a_server_with_another_certificate_of_the_same_name_is_refused(tmp_path: Path) -> None:
    a, b = an_identity(tmp_path, "a"), an_identity(tmp_path, "b")
    impostor = an_identity(tmp_path, "b", "impostor")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client_context(a, b.certificate), server_context(impostor, [a.certificate]))


def test_a_client_with_another_certificate_of_the_same_name_is_refused(tmp_path: Path) -> None:
    a, b = an_identity(tmp_path, "a"), an_identity(tmp_path, "b")
    impostor = an_identity(tmp_path, "a", "impostor")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client_context(impostor, b.certificate), server_context(b, [a.certificate]))


def test_a_client_without_any_certificate_is_refused(tmp_path: Path) -> None:
    a, b = an_identity(tmp_path, "a"), an_identity(tmp_path, "b")
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(cadata=b.certificate)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        shake_hands(bare, server_context(b, [a.certificate]))


def test_a_peer_that_takes_anothers_name_does_not_shut_it_out(tmp_path: Path) -> None:
    """OpenSSL finds trusted certificates by name; two pins of one name must both work."""
    a, b = an_identity(tmp_path, "a"), an_identity(tmp_path, "b")
    namesake = an_identity(tmp_path, "a", "namesake")
    for order in ([a, namesake], [namesake, a]):
        context = server_context(b, [identity.certificate for identity in order])
        for identity in order:
            _, other = shake_hands(client_context(identity, b.certificate), context)
            assert peer_certificate(other.tls) == identity.certificate


def test_tls_1_2_is_not_spoken(tmp_path: Path) -> None:
    a, b = an_identity(tmp_path, "a"), an_identity(tmp_path, "b")
    old = client_context(a, b.certificate)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shake_hands(old, server_context(b, [a.certificate]))


def test_the_certificate_names_the_party_is_no_authority_and_does_not_expire(
    tmp_path: Path,
) -> None:
    certificate = x509.load_der_x509_certificate(an_identity(tmp_path, "a").certificate)
    assert certificate.subject.rfc4514_string() == f"CN={a_party('a')}"
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and not constraints.value.ca
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc.year == 9999


def test_an_identity_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    made = an_identity(tmp_path, "a")
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert read_identity(made.path) == made
    require_certificate(made.certificate)


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    made = an_identity(tmp_path, "a")
    before = made.path.read_bytes()
    with pytest.raises(KeyFileRefused, match="exists"):
        an_identity(tmp_path, "a")
    assert made.path.read_bytes() == before


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    made = an_identity(tmp_path, "a")
    made.path.chmod(0o640)
    with pytest.raises(KeyFileRefused, match="chmod 600"):
        read_identity(made.path)


def test_a_missing_or_foreign_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileRefused, match="exchange init"):
        read_identity(tmp_path / "none.pem")
    a, b = an_identity(tmp_path, "a"), an_identity(tmp_path, "b")
    key = a.path.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    mixed = key + b.path.read_bytes()[b.path.read_bytes().index(b"-----BEGIN CERTIFICATE") :]
    a.path.write_bytes(mixed)
    with pytest.raises(KeyFileRefused, match="another key"):
        read_identity(a.path)
    a.path.write_bytes(key)
    with pytest.raises(KeyFileRefused, match="certificate"):
        read_identity(a.path)


def test_bytes_around_a_certificate_are_refused(tmp_path: Path) -> None:
    der = an_identity(tmp_path, "a").certificate
    for spoilt in (der + b"\x00", der[:-1], b""):
        with pytest.raises(Malformed, match=r"X\.509"):
            require_certificate(spoilt)
