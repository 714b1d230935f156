"""DSSE envelopes: a signature says what kind of payload it is over, and nothing else passes."""

from __future__ import annotations

import base64
import json
import random
import re
from dataclasses import replace

import pytest

from crypto import canonical, envelope
from crypto.envelope import MAX_ENVELOPE_BYTES, MAX_SIGNATURES, Envelope
from crypto.errors import BadSignature, CryptoError, Malformed, UnknownKey
from crypto.keys import SigningKey

KIND = "application/vnd.unseen.plan.v1+json"
ALICE, BOB = SigningKey.generate(), SigningKey.generate()


def signed() -> Envelope:
    return envelope.sign(KIND, b'{"a":1}', ALICE)


def test_a_signed_payload_is_handed_out_once_its_signature_is_checked() -> None:
    received = Envelope.from_bytes(signed().to_bytes())
    assert received == signed()
    assert envelope.verify(received, KIND, ALICE.public) == b'{"a":1}'


def test_a_payload_altered_after_signing_is_refused() -> None:
    with pytest.raises(BadSignature):
        envelope.verify(replace(signed(), payload=b'{"a":2}'), KIND, ALICE.public)


def test_a_signature_over_one_kind_of_payload_is_refused_as_another() -> None:
    """The nearest forgery: the same bytes and signature, read as something else."""
    other = "application/vnd.unseen.statement.v1+json"
    with pytest.raises(BadSignature, match="holds"):
        envelope.verify(signed(), other, ALICE.public)
    with pytest.raises(BadSignature, match="does not verify"):
        envelope.verify(replace(signed(), payload_type=other), other, ALICE.public)


def test_bytes_cannot_move_between_type_and_payload() -> None:
    moved = replace(signed(), payload_type=KIND + " 7", payload=b'{"a":1}'[2:])
    with pytest.raises(BadSignature):
        envelope.verify(moved, KIND + " 7", ALICE.public)


def test_a_signature_under_another_keys_name_is_refused() -> None:
    ((_, signature),) = signed().signatures
    forged = replace(signed(), signatures=((BOB.public.key_id, signature),))
    with pytest.raises(BadSignature):
        envelope.verify(forged, KIND, BOB.public)


def test_a_key_that_did_not_sign_is_not_found() -> None:
    with pytest.raises(UnknownKey, match=BOB.public.key_id):
        envelope.verify(signed(), KIND, BOB.public)


def test_two_parties_sign_the_same_bytes_in_either_order() -> None:
    first = envelope.sign(KIND, b"{}", ALICE).with_signature(BOB)
    second = envelope.sign(KIND, b"{}", BOB).with_signature(ALICE)
    assert first.to_bytes() == second.to_bytes()
    for key in (ALICE, BOB):
        assert envelope.verify(first, KIND, key.public) == b"{}"


def test_signing_twice_leaves_one_signature() -> None:
    assert signed().with_signature(ALICE) == signed()


def test_another_partys_bad_signature_does_not_hide_a_good_one() -> None:
    mixed = replace(
        signed(), signatures=tuple(sorted([*signed().signatures, ("0" * 16, bytes(64))]))
    )
    assert envelope.verify(mixed, KIND, ALICE.public) == b'{"a":1}'


def members() -> dict[str, object]:
    value: dict[str, object] = json.loads(signed().with_signature(BOB).to_bytes())
    return value


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"extra": "x"}, "envelope: must have payload, payloadType and signatures only"),
        ({"payloadType": 1}, "payloadType: is not text"),
        ({"payload": 1}, "payload: is not text"),
        ({"payload": "eyJhIjoxfR=="}, "payload: is not base64 in its one canonical spelling"),
        ({"payload": "eyJhIjoxfQ"}, "payload: is not base64"),
        ({"payload": "eyJh\nIjoxfQ=="}, "payload: is not base64"),
        ({"payload": "eyJhIjoxfQ=é"}, "payload: is not base64"),
        ({"payload": "_w=="}, "payload: is not base64"),
        ({"signatures": []}, "signatures: must hold 1 to 16 signatures"),
        ({"signatures": {}}, "signatures: must hold 1 to 16 signatures"),
        ({"signatures": ["x"]}, "signatures[0]: must have keyid and sig only"),
        ({"signatures": [{"keyid": "a"}]}, "signatures[0]: must have keyid and sig only"),
        ({"signatures": [{"keyid": 1, "sig": ""}]}, "signatures[0].keyid: is not text"),
        ({"signatures": [{"keyid": "a", "sig": 1}]}, "signatures[0].sig: is not text"),
        ({"signatures": [{"keyid": "a", "sig": "x"}]}, "signatures[0].sig: is not base64"),
        (
            {"signatures": [{"keyid": "b", "sig": ""}, {"keyid": "a", "sig": ""}]},
            "signatures: must be in order of keyid, each once",
        ),
        (
            {"signatures": [{"keyid": "a", "sig": ""}, {"keyid": "a", "sig": "AAAA"}]},
            "signatures: must be in order of keyid, each once",
        ),
        (
            {"signatures": [{"keyid": f"{n:03}", "sig": ""} for n in range(MAX_SIGNATURES + 1)]},
            "signatures: must hold 1 to 16 signatures",
        ),
    ],
)
def test_an_ill_formed_envelope_is_refused_by_name(change: dict[str, object], where: str) -> None:
    with pytest.raises(Malformed) as refused:
        Envelope.from_bytes(canonical.encode({**members(), **change}))  # type: ignore[dict-item]
    assert str(refused.value).startswith(where)


@pytest.mark.parametrize("name", ["payload", "payloadType", "signatures"])
def test_an_envelope_without_a_member_is_refused(name: str) -> None:
    value = members()
    del value[name]
    with pytest.raises(Malformed, match="must have payload, payloadType and signatures only"):
        Envelope.from_bytes(canonical.encode(value))  # type: ignore[arg-type]


def test_an_envelope_in_another_spelling_is_refused() -> None:
    with pytest.raises(Malformed, match="canonical"):
        Envelope.from_bytes(json.dumps(members()).encode())


def test_an_oversized_envelope_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Malformed, match=f"larger than {MAX_ENVELOPE_BYTES} bytes"):
        Envelope.from_bytes(b"[" * (MAX_ENVELOPE_BYTES + 1))


def test_the_payload_is_plain_base64_as_the_dsse_specification_says() -> None:
    assert members()["payload"] == base64.b64encode(b'{"a":1}').decode()


def test_an_envelope_read_the_short_way_is_read_alike_the_long_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Envelope("a/b", b'{"x":1}', (("0f" * 8, b"s" * 64),)).to_bytes()
    draw = random.Random(20261123)
    damaged = []
    for _ in range(2000):
        data = bytearray(whole)
        at = draw.randrange(len(data))
        match draw.randrange(3):
            case 0:
                data[at] = draw.randrange(256)
            case 1:
                del data[at]
            case _:
                data.insert(at, draw.choice(b'={}"\\A /'))
        damaged.append(bytes(data))

    def read(data: bytes) -> Envelope | None:
        try:
            return Envelope.from_bytes(data)
        except CryptoError:
            return None

    short = [read(data) for data in damaged]
    monkeypatch.setattr(envelope, "_PLAIN", re.compile(rb"(?!)"))
    assert [read(data) for data in damaged] == short
    assert 20 < sum(found is not None for found in short) < 500
