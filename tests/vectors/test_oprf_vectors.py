"""Published answers of RFC 9497, appendix A.1.2: ristretto255-SHA512, mode VOPRF.

To regenerate: the entry with identifier `ristretto255-SHA512` and mode 1 of poc/vectors/
allVectors.json in cfrg/draft-irtf-cfrg-voprf at 43da59f. The group alone: RFC 9496, appendix A.
"""

from __future__ import annotations

import pytest

from crypto.adapters.ristretto import Ristretto255
from crypto.errors import Malformed
from crypto.lookup import oprf
from crypto.lookup.ports import Element

GROUP = Ristretto255()
SEED = bytes([0xA3]) * 32
KEY_INFO = b"test key"
SECRET = "e6f73f344b79b379f1a0dd37e07ff62e38d9f71345ce62ae3a9bc60b04ccd909"
PUBLIC = "c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e"

BLIND = "64d37aed22a27f5191de1c1d69fadb899d8862b58eb4220029e036ec4c1f6706"
BLIND_2 = "222a5e897cf59db8145db8d16e597e8facb80ae7d4e26d9881aa6f61d645fc0e"
INPUT_2 = "5a" * 17
OUTPUT = (
    "b58cfbe118e0cb94d79b5fd6a6dafb98764dff49c14e1770b566e42402da1a7d"
    "a4d8527693914139caee5bd03903af43a491351d23b430948dd50cde10d32b3c"
)
OUTPUT_2 = (
    "8a9a2f3c7f085b65933594309041fc1898d42d0858e59f90814ae90571a6df60"
    "356f4610bf816f27afdd84f47719e480906d27ecd994985890e5f539e7ea74b6"
)
# inputs, blinds, blinded elements, evaluated elements, outputs, proof, the proof's own r
VECTORS = [
    (
        ["00"],
        [BLIND],
        ["863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945"],
        ["aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e"],
        [OUTPUT],
        "ddef93772692e535d1a53903db24367355cc2cc78de93b3be5a8ffcc6985dd06"
        "6d4346421d17bf5117a2a1ff0fcb2a759f58a539dfbe857a40bce4cf49ec600d",
        BLIND_2,
    ),
    (
        [INPUT_2],
        [BLIND],
        ["cc0b2a350101881d8a4cba4c80241d74fb7dcbfde4a61fde2f91443c2bf9ef0c"],
        ["60a59a57208d48aca71e9e850d22674b611f752bed48b36f7a91b372bd7ad468"],
        [OUTPUT_2],
        "401a0da6264f8cf45bb2f5264bc31e109155600babb3cd4e5af7d181a2c9dc0a"
        "67154fabf031fd936051dec80b0b6ae29c9503493dde7393b722eafdf5a50b02",
        BLIND_2,
    ),
    (
        ["00", INPUT_2],
        [BLIND, BLIND_2],
        [
            "863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945",
            "90a0145ea9da29254c3a56be4fe185465ebb3bf2a1801f7124bbbadac751e654",
        ],
        [
            "aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e",
            "cc5ac221950a49ceaa73c8db41b82c20372a4c8d63e5dded2db920b7eee36a2a",
        ],
        [OUTPUT, OUTPUT_2],
        "cc203910175d786927eeb44ea847328047892ddf8590e723c37205cb74600b0a"
        "5ab5337c8eb4ceae0494c2cf89529dcf94572ed267473d567aeed6ab873dee08",
        "419c4f4f5052c53c45f3da494d2b67b220d02118e0857cdbcf037f9ea84bbe0c",
    ),
]


class FixedScalars:
    """Randomness that yields these scalars: a published scalar is below the order already."""

    def __init__(self, *scalars: str) -> None:
        self._left = [bytes.fromhex(scalar) for scalar in scalars]

    def draw(self, size: int) -> bytes:
        return self._left.pop(0).ljust(size, b"\x00")


def test_the_key_is_derived_as_published() -> None:
    keys = oprf.derive_key_pair(GROUP, SEED, KEY_INFO)
    assert (keys.secret.hex(), keys.public.hex()) == (SECRET, PUBLIC)


@pytest.mark.parametrize("vector", VECTORS, ids=["one", "another", "both"])
def test_every_value_of_a_published_run_comes_out(vector: tuple[list[str], ...]) -> None:
    inputs, blinds, blinded, evaluated, outputs, proof, r = vector
    keys = oprf.derive_key_pair(GROUP, SEED, KEY_INFO)
    sent = [
        oprf.blind(GROUP, bytes.fromhex(data), randomness=FixedScalars(scalar))
        for data, scalar in zip(inputs, blinds, strict=True)
    ]
    elements = [one.element for one in sent]
    assert [one.hex() for one in elements] == blinded
    answers, shown = oprf.blind_evaluate(GROUP, keys, elements, randomness=FixedScalars(str(r)))
    assert [one.hex() for one in answers] == evaluated
    assert shown.to_bytes().hex() == proof
    assert oprf.Proof.parse(shown.to_bytes()) == shown
    oprf.verify_proof(GROUP, keys.public, elements, answers, shown)
    for data, one, answer, output in zip(inputs, sent, answers, outputs, strict=True):
        assert oprf.finalize(GROUP, bytes.fromhex(data), one.scalar, answer).hex() == output
        assert oprf.evaluate(GROUP, keys, bytes.fromhex(data)).hex() == output


# RFC 9496, appendix A.1: small multiples of the generator.
MULTIPLES = {
    1: "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76",
    2: "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919",
    3: "94741f5d5d52755ece4f23f044ee27d5d1ea1e2bd196b462166b16152a9d0259",
}


def test_the_generator_and_its_multiples_are_the_published_ones() -> None:
    for count, encoding in MULTIPLES.items():
        scalar = oprf.decode_scalar(count.to_bytes(32, "little"))
        assert GROUP.generator_times(scalar).hex() == encoding
    one, two = (Element(bytes.fromhex(MULTIPLES[count])) for count in (1, 2))
    assert GROUP.plus(one, two).hex() == MULTIPLES[3]


# RFC 9496, appendix A.2: encodings that must be refused, one of each kind.
BAD = {
    "not below the field's prime": (
        "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    ),
    "the second encoding of 0": (
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"
    ),
    "a negative field element": (
        "0100000000000000000000000000000000000000000000000000000000000000"
    ),
    "x squared is no square": ("26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371"),
    "y is 0": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "the identity": "00" * 32,
    "too short": "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d",
}


@pytest.mark.parametrize("encoding", BAD.values(), ids=BAD)
def test_what_encodes_no_usable_element_is_refused(encoding: str) -> None:
    with pytest.raises(Malformed, match="element"):
        oprf.decode_element(GROUP, bytes.fromhex(encoding))
