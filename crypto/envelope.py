"""DSSE envelopes: signatures that say what kind of payload they are over.

Source: Dead Simple Signing Envelope 1.0.2 (secure-systems-lab). The payload type is part of what
is signed, so a signature over a statement can never be replayed as one over a plan. The envelope
itself is canonical JSON, with signatures in order of key id: one envelope, one encoding.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Final

from crypto import canonical
from crypto.digest import Digest, digest
from crypto.errors import BadSignature, Malformed, UnknownKey
from crypto.keys import PublicKey, Signer

MAX_ENVELOPE_BYTES: Final = 1 << 20
MAX_SIGNATURES: Final = 16
# One signature and nothing that JSON would escape: canonical as it stands, and what nearly every
# envelope is. Reading it so takes a third of the time, of which a log's audit needs much.
_PLAIN: Final = re.compile(
    rb'\{"payload":"([A-Za-z0-9+/=]*)","payloadType":"([ !#-\[\]-~]*)",'
    rb'"signatures":\[\{"keyid":"([ !#-\[\]-~]*)","sig":"([A-Za-z0-9+/=]*)"\}\]\}'
)


@dataclass(frozen=True)
class Envelope:
    """payload: canonical bytes; signatures: (key id, raw signature), in order of key id."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    def to_bytes(self) -> bytes:
        return canonical.encode(
            {
                "payload": _encode(self.payload),
                "payloadType": self.payload_type,
                "signatures": [{"keyid": k, "sig": _encode(s)} for k, s in self.signatures],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Raises Malformed unless `data` is one envelope in its one encoding."""
        if len(data) > MAX_ENVELOPE_BYTES:
            raise Malformed("envelope", f"is larger than {MAX_ENVELOPE_BYTES} bytes")
        plain = _PLAIN.fullmatch(data)
        if plain is not None:
            payload, kind, key_id, signature = plain.groups()
            signed = _decode(signature, "signatures[0].sig")
            signatures = ((key_id.decode("ascii"), signed),)
            return cls(kind.decode("ascii"), _decode(payload, "payload"), signatures)
        value = canonical.decode(data)
        if not isinstance(value, dict) or set(value) != {"payload", "payloadType", "signatures"}:
            raise Malformed("envelope", "must have payload, payloadType and signatures only")
        payload_type, signatures = value["payloadType"], value["signatures"]
        if not isinstance(payload_type, str):
            raise Malformed("payloadType", "is not text")
        if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_SIGNATURES:
            raise Malformed("signatures", f"must hold 1 to {MAX_SIGNATURES} signatures")
        found: list[tuple[str, bytes]] = []
        for index, item in enumerate(signatures):
            if not isinstance(item, dict) or set(item) != {"keyid", "sig"}:
                raise Malformed(f"signatures[{index}]", "must have keyid and sig only")
            key_id = item["keyid"]
            if not isinstance(key_id, str):
                raise Malformed(f"signatures[{index}].keyid", "is not text")
            found.append((key_id, _decode_text(item["sig"], f"signatures[{index}].sig")))
        key_ids = [key_id for key_id, _ in found]
        if key_ids != sorted(set(key_ids)):
            raise Malformed("signatures", "must be in order of keyid, each once")
        return cls(payload_type, _decode_text(value["payload"], "payload"), tuple(found))

    @property
    def payload_digest(self) -> Digest:
        return digest(self.payload)

    def with_signature(self, signer: Signer) -> Envelope:
        """The same envelope with one more signature."""
        signature = signer.sign(pre_authentication_encoding(self.payload_type, self.payload))
        others = [s for s in self.signatures if s[0] != signer.public.key_id]
        merged = sorted([*others, (signer.public.key_id, signature)])
        return Envelope(self.payload_type, self.payload, tuple(merged))


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed. Source: DSSE protocol, PAE."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, signer: Signer) -> Envelope:
    return Envelope(payload_type, payload, ()).with_signature(signer)


def verify(envelope: Envelope, payload_type: str, key: PublicKey) -> bytes:
    """The payload, once `key` is known to have signed it as `payload_type`.

    Other signatures on the envelope are ignored: each is checked by whoever relies on it.
    Raises UnknownKey if this key did not sign, BadSignature if it did and it does not verify.
    """
    if envelope.payload_type != payload_type:
        raise BadSignature(f"the envelope holds {envelope.payload_type}, not {payload_type}")
    signature = dict(envelope.signatures).get(key.key_id)
    if signature is None:
        raise UnknownKey(key.key_id)
    key.verify(signature, pre_authentication_encoding(envelope.payload_type, envelope.payload))
    return envelope.payload


def _encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _decode_text(text: object, where: str) -> bytes:
    if not isinstance(text, str):
        raise Malformed(where, "is not text")
    return _decode(text.encode("utf-8"), where)


def _decode(written: bytes, where: str) -> bytes:
    try:
        data = binascii.a2b_base64(written, strict_mode=True)
    except binascii.Error:
        raise Malformed(where, "is not base64") from None
    if binascii.b2a_base64(data, newline=False) != written:
        raise Malformed(where, "is not base64 in its one canonical spelling")
    return data
