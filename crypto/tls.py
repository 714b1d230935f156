"""TLS between nodes: one self-signed certificate per party, and contexts that trust pins only.

TLS 1.3 (RFC 8446) with certificates on both sides. No authority is trusted: the certificate that
a party's signed document carries is compared byte for byte with the one the handshake proved.
The key is Ed25519 and lives with its certificate in one PEM file of mode 0600, because Python's
`ssl` reads keys from files only.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crypto.errors import KeyFileRefused, Malformed
from crypto.identifiers import PartyId
from crypto.keys import write_secret

# RFC 5280, 4.1.2.5: no expiry of its own. The party document says how long a certificate is used.
_NO_EXPIRY: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_CLOCK_SKEW: Final = timedelta(days=1)


@dataclass(frozen=True)
class TlsIdentity:
    """certificate: DER bytes. path: the PEM file with the key and the certificate."""

    certificate: bytes
    path: Path


def make_identity(path: Path, party: PartyId, *, now: datetime) -> TlsIdentity:
    """Make a key and its self-signed certificate, and write both. Refuses to overwrite.

    Raises KeyFileRefused when `path` exists.
    """
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, party)])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(_NO_EXPIRY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:unseen:{party}")]),
            critical=False,
        )
        .sign(key, algorithm=None)
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    write_secret(path, pem)
    return TlsIdentity(certificate.public_bytes(serialization.Encoding.DER), path)


def read_identity(path: Path) -> TlsIdentity:
    """Raises KeyFileRefused when the file is missing, readable by others, or not such a pair."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except FileNotFoundError:
        raise KeyFileRefused(
            f"{path} does not exist; `exchange init` makes a party's keys"
        ) from None
    if mode & 0o077:
        raise KeyFileRefused(f"{path} has mode {mode:04o}; run chmod 600 on it")
    try:
        key = serialization.load_pem_private_key(data, password=None)
        certificate = x509.load_pem_x509_certificate(data)
    except (ValueError, TypeError):
        raise KeyFileRefused(f"{path} does not hold a key and its certificate as PEM") from None
    if key.public_key() != certificate.public_key():
        raise KeyFileRefused(f"{path} holds a certificate of another key")
    return TlsIdentity(certificate.public_bytes(serialization.Encoding.DER), path)


def require_certificate(der: bytes, *, where: str = "certificate") -> None:
    """Raises Malformed unless `der` is one X.509 certificate and nothing more."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError:
        raise Malformed(where, "is not an X.509 certificate in DER") from None
    if certificate.public_bytes(serialization.Encoding.DER) != der:
        raise Malformed(where, "is not an X.509 certificate in its one DER encoding")


def client_context(identity: TlsIdentity, peer: bytes) -> ssl.SSLContext:
    """For the side that dials: trusts the certificate `peer` (DER) and nothing else."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity, [peer])


def server_context(identity: TlsIdentity, peers: Collection[bytes]) -> ssl.SSLContext:
    """For the side that is dialled: trusts exactly the certificates `peers` (DER).

    Whoever passes is one of them; the caller must still compare `peer_certificate` with the one
    pinned for the party that the other side then claims to be.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity, peers)
    context.num_tickets = 0  # a resumed session would skip the certificates
    return context


def peer_certificate(tls: ssl.SSLObject) -> bytes:
    """The DER certificate whose key the other side proved to hold; after the handshake."""
    der = tls.getpeercert(binary_form=True)
    if der is None:
        raise Malformed("certificate", "is missing: the other side showed none")
    return der


def _context(protocol: int, identity: TlsIdentity, peers: Collection[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a pinned certificate is its own name
    context.verify_mode = ssl.CERT_REQUIRED
    # A pin is the end of its chain even if its holder writes another issuer into it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_cert_chain(identity.path)
    context.load_verify_locations(cadata=b"".join(peers))
    return context
