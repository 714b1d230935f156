"""Keys of one attempt between two parties, from ephemeral keys that each signed into its admission.

Each party draws a fresh X25519 key per attempt and states it in its signed statement of admission,
which names the plan. Both derive the same keys and forget the ephemeral secret when the attempt
ends, so a later theft of a node's long-lived keys does not uncover them (forward secrecy).
Source: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.digest import Digest
from crypto.identifiers import JobId, PartyId
from crypto.joinkeys import TOKEN_BYTES
from crypto.keys import ExchangeKey, PublicKey

_LABEL: Final = b"unseen/pair-keys/v1\x00"
_STANDING_LABEL: Final = b"unseen/standing-token/v1\x00"
_FILLER_LABEL: Final = b"unseen/standing-filler/v1\x00"
_KEY_BYTES: Final = 32


@dataclass(frozen=True)
class PairKeys:
    """token: for join tokens; zero: for zero shares; engine: for the engines' own messages, seeds
    and masks. 32 bytes each, never used for another job."""

    token: bytes = field(repr=False)
    zero: bytes = field(repr=False)
    engine: bytes = field(repr=False)


def pair_keys(
    own: ExchangeKey, peer: PublicKey, *, plan: Digest, job: JobId, between: tuple[PartyId, PartyId]
) -> PairKeys:
    """The same on both sides, whatever the order of `between`. Raises Malformed for a bad key."""
    first, second = sorted(between)
    info = _LABEL + b"\x00".join([job.encode(), first.encode(), second.encode()])
    derived = HKDF(SHA256(), 3 * _KEY_BYTES, salt=plan.raw, info=info).derive(own.agree(peer))
    token, zero, engine = (derived[i : i + _KEY_BYTES] for i in range(0, 96, _KEY_BYTES))
    return PairKeys(token, zero, engine)


def standing_token_key(
    own: ExchangeKey, peer: PublicKey, *, between: tuple[PartyId, PartyId]
) -> bytes:
    """32 bytes for the join tokens of an unbalanced intersection: the same in every job of a pair,
    for what is masked once is asked for by later jobs. From the agreement keys of both documents.

    It keeps join keys out of an engine's temporary files, without forward secrecy: who has such a
    file *and* a node's agreement key can try keys. What is kept between jobs is masked under
    another secret. Raises Malformed for a bad key.
    """
    first, second = sorted(between)
    info = _STANDING_LABEL + b"\x00".join([first.encode(), second.encode()])
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=info).derive(own.agree(peer))


def standing_filler(own: ExchangeKey, name: Digest) -> bytes:
    """16 bytes for a side without rows in an unbalanced intersection: the same in every job over
    one standing set, for else masks made anew would say that nobody was selected. From the
    party's own agreement key, so that the peer cannot ask whether it is there, and two fillers
    never match. name: of the standing set."""
    secret = own.private.private_bytes_raw()
    return HKDF(SHA256(), TOKEN_BYTES, salt=None, info=_FILLER_LABEL + name.raw).derive(secret)
