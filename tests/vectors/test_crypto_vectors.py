"""Published answers for the formats everybody signs. To regenerate: copy again from the source.

- RFC 8785: cyberphone/json-canonicalization testdata at 19d51d7f; what our profile has not
  (floating point, null, names that are not ASCII) is shown refused
- DSSE: secure-systems-lab/dsse protocol.md at eebf7b59, test vectors
- RFC 8032 section 7.1, tests 1 to 3
- RFC 7748 section 6.1
- RFC 9180 appendix A.2.1: X25519, HKDF-SHA256, ChaCha20Poly1305, base mode
- RFC 9562 appendix A.6
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256

from crypto import canonical
from crypto.envelope import pre_authentication_encoding
from crypto.errors import BadSignature, Malformed
from crypto.identifiers import JobId
from crypto.keys import ExchangeKey, PublicKey, SigningKey
from crypto.sealing import open_sealed

JCS = [
    (
        # structures.json, with 56.0 written 56: the profile has no floating point.
        '{"1": {"f": {"f": "hi","F": 5} ,"\\n": 56},"10": { },"": "empty","a": { },'
        '"111": [ {"e": "yes","E": "no" } ],"A": { }}',
        '{"":"empty","1":{"\\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],'
        '"A":{},"a":{}}',
    ),
    (
        # values.json: the string and the two literals that the profile has.
        r"""{"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals": [true,false]}""",
        r"""{"literals":[true,false],"string":"€$\u000f\nA'B\"\\\\\"/"}""",
    ),
    ('{"Unnormalized Unicode":"A\\u030a"}', '{"Unnormalized Unicode":"A\u030a"}'),
    ('[56,{"d": true,"1": [ ]}]', '[56,{"1":[],"d":true}]'),
]


@pytest.mark.parametrize(("written", "published"), JCS)
def test_canonical_json_is_that_of_rfc_8785(written: str, published: str) -> None:
    value = json.loads(written)
    assert canonical.encode(value) == published.encode()
    assert canonical.decode(published.encode()) == value
    with pytest.raises(Malformed):
        canonical.decode(written.encode())


@pytest.mark.parametrize(
    "published",
    [
        '{"literals":[null,true,false]}',
        '{"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}',
        '{"peach":"This sorting order","péché":"is wrong according to French"}',
        '[56,{"1":[],"10":null,"d":true}]',
    ],
)
def test_what_rfc_8785_has_and_our_profile_has_not_is_refused(published: str) -> None:
    with pytest.raises(Malformed):
        canonical.decode(published.encode())


def test_the_dsse_specification_encodes_and_signs_the_same_bytes() -> None:
    message = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert message == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    key = EllipticCurvePublicNumbers(
        46950820868899156662930047687818585632848591499744589407958293238635476079160,
        5640078356564379163099075877009565129882514886557779369047442380624545832820,
        SECP256R1(),
    ).public_key()
    raw = base64.b64decode(
        "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
    )
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    key.verify(encode_dss_signature(r, s), message, ECDSA(SHA256()))


ED25519 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), ED25519)
def test_signatures_are_those_of_rfc_8032(
    secret: str, public: str, message: str, signature: str
) -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert key.public == PublicKey("ed25519", bytes.fromhex(public))
    assert key.sign(bytes.fromhex(message)).hex() == signature
    key.public.verify(bytes.fromhex(signature), bytes.fromhex(message))
    for position in (0, 31, 32, 63):
        forged = bytearray(bytes.fromhex(signature))
        forged[position] ^= 1
        with pytest.raises(BadSignature):
            key.public.verify(bytes(forged), bytes.fromhex(message))


def test_key_agreement_is_that_of_rfc_7748() -> None:
    bob = ExchangeKey(
        X25519PrivateKey.from_private_bytes(
            bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
        )
    )
    assert bob.public.raw.hex() == (
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    )
    alice = PublicKey(
        "x25519",
        bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"),
    )
    assert bob.agree(alice).hex() == (
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    )


HPKE = {
    "info": "4f6465206f6e2061204772656369616e2055726e",
    "receiver_secret": "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
    "receiver": "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a",
    "enc": "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
    "key": "ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91",
    "base_nonce": "5c4d98150661b848853b547f",
    "aad": "436f756e742d30",
    "plaintext": "4265617574792069732074727574682c20747275746820626561757479",
    "ciphertext": "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db"
    "21993c62ce81883d2dd1b51a28",
}


def test_what_rfc_9180_seals_opens_here() -> None:
    """The published ciphertext has associated data and ours never has, so the published key and
    nonce first show that they make the published ciphertext, then make one without."""
    vector = {name: bytes.fromhex(value) for name, value in HPKE.items()}
    cipher = ChaCha20Poly1305(vector["key"])
    published = cipher.encrypt(vector["base_nonce"], vector["plaintext"], vector["aad"])
    assert published == vector["ciphertext"]
    sealed = vector["enc"] + cipher.encrypt(vector["base_nonce"], vector["plaintext"], None)
    receiver = ExchangeKey(X25519PrivateKey.from_private_bytes(vector["receiver_secret"]))
    assert receiver.public.raw == vector["receiver"]
    assert open_sealed(sealed, receiver, context=vector["info"]) == vector["plaintext"]


class FixedRandomness:
    """Draws what the vector says, first to last bit."""

    def __init__(self, value: int) -> None:
        self._value = value

    def draw(self, size: int) -> bytes:
        return self._value.to_bytes(size, "big")


def test_an_identifier_is_the_uuid_of_rfc_9562() -> None:
    rand_a, rand_b = 0xCC3, 0x18C4DC0C0C07398F
    random = FixedRandomness(rand_a << 68 | rand_b)
    moment = datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    assert JobId.new(moment, random) == "job_017f22e279b07cc398c4dc0c0c07398f"
