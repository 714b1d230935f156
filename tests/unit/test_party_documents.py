"""Party documents: who answers to a name, and that nobody in between can swap a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crypto import envelope as dsse
from crypto import record
from crypto.digest import digest
from crypto.envelope import Envelope
from crypto.errors import BadSignature, Malformed, UnknownKey
from crypto.identifiers import PartyId
from crypto.keys import ExchangeKey, PublicKey, SigningKey
from registry.errors import DocumentRefused, NotTrusted
from registry.party import (
    PAYLOAD_TYPE,
    PartyDocument,
    Role,
    SignedParty,
    endorse,
    party_id,
    read_party,
    require_successor,
    require_trusted,
    sign_party,
)

IDENTITY, REGISTRAR = SigningKey.generate(), SigningKey.generate()
OWNER = "91440300708461136T"


def a_document(identity: SigningKey = IDENTITY, **changes: object) -> PartyDocument:
    document = PartyDocument(
        v=1,
        party=party_id(identity.public),
        name="Clinic 诊所",
        roles=(Role.CONSUMER, Role.HOLDER),
        seq=0,
        previous=None,
        identity=identity.public,
        signing=SigningKey.generate().public,
        sealing=ExchangeKey.generate().public,
        agreement=ExchangeKey.generate().public,
        tls_certificate=b"\x30\x82",
        valid_from=datetime(2026, 11, 23, tzinfo=UTC),
    )
    return replace(document, **changes)  # type: ignore[arg-type]


def test_a_signed_document_reads_back_with_the_digest_that_agreements_carry() -> None:
    signed = sign_party(a_document(), IDENTITY)
    read = read_party(signed.envelope.to_bytes())
    assert read == signed
    assert read.digest == digest(record.to_bytes(signed.document))


def test_a_document_that_declares_no_controller_is_written_as_it_always_was() -> None:
    silent = a_document()
    assert "controller" not in record.to_value(silent)  # type: ignore[operator]
    assert record.from_bytes(PartyDocument, record.to_bytes(silent)).controller is None
    declared = read_party(sign_party(a_document(controller=OWNER), IDENTITY).envelope.to_bytes())
    assert declared.document.controller == OWNER


def test_the_party_is_named_after_its_identity_key() -> None:
    with pytest.raises(DocumentRefused, match="party: is not the identifier of the identity key"):
        a_document(party=PartyId("pty_" + "0" * 32))


def swapped(party: SignedParty, field: str, key: PublicKey) -> bytes:
    """What a lying hub would send: one key replaced, the signatures kept."""
    value = dict(record.to_value(party.document))  # type: ignore[arg-type]
    value[field] = str(key)
    payload = record.canonical.encode(value)
    return replace(party.envelope, payload=payload).to_bytes()


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("signing", SigningKey.generate),
        ("sealing", ExchangeKey.generate),
        ("agreement", ExchangeKey.generate),
    ],
)
def test_a_swapped_key_is_refused(field: str, make: Callable[[], SigningKey | ExchangeKey]) -> None:
    party = sign_party(a_document(), IDENTITY)
    with pytest.raises(BadSignature):
        read_party(swapped(party, field, make().public))


def test_a_swapped_identity_key_is_refused_under_the_old_name() -> None:
    party = sign_party(a_document(), IDENTITY)
    with pytest.raises(DocumentRefused, match="party"):
        read_party(swapped(party, "identity", SigningKey.generate().public))


def test_a_swapped_certificate_name_or_role_is_refused() -> None:
    party = sign_party(a_document(), IDENTITY)
    for change in (
        {"tls_certificate": b"other"},
        {"name": "Klinik"},
        {"roles": (Role.REGULATOR,)},
        {"valid_from": datetime(2020, 1, 1, tzinfo=UTC)},
    ):
        payload = record.to_bytes(replace(party.document, **change))  # type: ignore[arg-type]
        with pytest.raises(BadSignature):
            read_party(replace(party.envelope, payload=payload).to_bytes())


def test_a_document_signed_with_the_signing_key_is_not_the_partys_word() -> None:
    """Whoever steals the everyday key can't replace the others with it."""
    everyday = SigningKey.generate()
    forged = sign_party(a_document(signing=everyday.public), everyday)
    with pytest.raises(UnknownKey):
        read_party(forged.envelope.to_bytes())


def test_a_document_signed_as_another_kind_is_refused() -> None:
    envelope = dsse.sign(
        "application/vnd.unseen.plan.v1+json", record.to_bytes(a_document()), IDENTITY
    )
    with pytest.raises(BadSignature, match="holds"):
        read_party(envelope.to_bytes())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"v": 2}, "v: is 2"),
        ({"name": ""}, "name: must be 1 to 80"),
        ({"name": "x" * 81}, "name: must be 1 to 80"),
        ({"name": "a\u202eb"}, "name: must be 1 to 80 printable"),
        ({"name": "a\nb"}, "name: must be 1 to 80 printable"),
        ({"roles": ()}, "roles: must be listed once"),
        ({"roles": (Role.HOLDER, Role.HOLDER)}, "roles: must be listed once"),
        ({"roles": (Role.HOLDER, Role.CONSUMER)}, "roles: must be listed once"),
        ({"seq": -1}, "previous: must be absent"),
        ({"seq": 1}, "previous: must be absent"),
        ({"previous": digest(b"x")}, "previous: must be absent"),
        ({"signing": ExchangeKey.generate().public}, "signing: must be an ed25519 key"),
        ({"sealing": SigningKey.generate().public}, "sealing: must be an x25519 key"),
        ({"agreement": SigningKey.generate().public}, "agreement: must be an x25519 key"),
        ({"controller": ""}, "controller: is no unified social credit code"),
        ({"controller": OWNER[:-1] + "0"}, "controller: is no unified social credit code"),
    ],
)
def test_a_document_that_breaks_its_rules_is_refused_by_field(
    change: dict[str, object], problem: str
) -> None:
    with pytest.raises(DocumentRefused) as refused:
        a_document(**change)
    assert str(refused.value).startswith(problem)


def test_nobody_is_trusted_for_a_valid_signature_alone() -> None:
    party = sign_party(a_document(), IDENTITY)
    with pytest.raises(NotTrusted, match="exchange node trust") as refused:
        require_trusted(party, fingerprints=(), registrars=(REGISTRAR.public,))
    assert IDENTITY.public.fingerprint in str(refused.value)


def test_a_confirmed_fingerprint_is_enough() -> None:
    party = sign_party(a_document(), IDENTITY)
    require_trusted(party, fingerprints={IDENTITY.public.fingerprint}, registrars=())


def test_an_impostor_with_the_same_name_has_another_fingerprint() -> None:
    impostor = SigningKey.generate()
    party = sign_party(a_document(impostor), impostor)
    with pytest.raises(NotTrusted):
        require_trusted(party, fingerprints={IDENTITY.public.fingerprint}, registrars=())


def test_a_registrars_signature_is_enough_and_leaves_the_digest_alone() -> None:
    party = sign_party(a_document(), IDENTITY)
    endorsed = read_party(endorse(party, REGISTRAR).envelope.to_bytes())
    require_trusted(endorsed, fingerprints=(), registrars=(REGISTRAR.public,))
    assert endorsed.digest == party.digest


def test_what_was_vouched_for_once_holds_while_key_name_and_roles_stay() -> None:
    first = sign_party(a_document(), IDENTITY)
    believed = (endorse(first, REGISTRAR),)
    after = a_document(seq=1, previous=first.digest)
    require_trusted(sign_party(after, IDENTITY), fingerprints=(), registrars=(), believed=believed)
    impostor = SigningKey.generate()
    for forged, signer in (
        (replace(after, name="Clinic 诊所 II"), IDENTITY),
        (replace(after, roles=(Role.HOLDER,)), IDENTITY),
        (replace(after, controller=OWNER), IDENTITY),
        (a_document(impostor, seq=1, previous=first.digest), impostor),
    ):
        with pytest.raises(NotTrusted):
            party = sign_party(forged, signer)
            require_trusted(party, fingerprints=(), registrars=(), believed=believed)


def test_a_registrar_nobody_pinned_vouches_for_nothing() -> None:
    endorsed = endorse(sign_party(a_document(), IDENTITY), SigningKey.generate())
    with pytest.raises(NotTrusted):
        require_trusted(endorsed, fingerprints=(), registrars=(REGISTRAR.public,))


def test_a_forged_registrars_signature_is_refused() -> None:
    """The nearest forgery: the registrar's real signature, taken from another party's document."""
    other = SigningKey.generate()
    vouched = endorse(sign_party(a_document(other), other), REGISTRAR)
    stolen = dict(vouched.envelope.signatures)[REGISTRAR.public.key_id]
    party = sign_party(a_document(), IDENTITY)
    signatures = sorted([*party.envelope.signatures, (REGISTRAR.public.key_id, stolen)])
    forged = read_party(replace(party.envelope, signatures=tuple(signatures)).to_bytes())
    with pytest.raises(BadSignature):
        require_trusted(forged, fingerprints=(), registrars=(REGISTRAR.public,))


def test_a_registrars_signature_alone_does_not_make_a_document() -> None:
    alone = dsse.sign(PAYLOAD_TYPE, record.to_bytes(a_document()), REGISTRAR)
    with pytest.raises(UnknownKey):
        read_party(alone.to_bytes())


def test_the_next_document_changes_keys_and_names_the_one_before() -> None:
    first = sign_party(a_document(), IDENTITY)
    second = sign_party(a_document(seq=1, previous=first.digest), IDENTITY)
    require_successor(second, first)


def test_a_document_that_does_not_follow_is_refused() -> None:
    first = sign_party(a_document(), IDENTITY)
    second = sign_party(a_document(seq=1, previous=first.digest), IDENTITY)
    other = SigningKey.generate()
    for new in (
        first,
        sign_party(a_document(), IDENTITY),
        sign_party(a_document(seq=2, previous=first.digest), IDENTITY),
        sign_party(a_document(seq=1, previous=digest(b"another first")), IDENTITY),
    ):
        with pytest.raises(DocumentRefused, match="seq: does not follow document 0"):
            require_successor(new, first)
    with pytest.raises(DocumentRefused, match="seq: does not follow document 1"):
        require_successor(first, second)
    with pytest.raises(DocumentRefused, match="identity: differs"):
        require_successor(sign_party(a_document(other, seq=1, previous=first.digest), other), first)


def test_a_document_that_is_no_envelope_is_refused() -> None:
    for data in (b"", b"{}", record.to_bytes(a_document())):
        with pytest.raises(Malformed):
            read_party(data)
    with pytest.raises(Malformed):
        read_party(Envelope(PAYLOAD_TYPE, b"{}", (("a", b""),)).to_bytes())
