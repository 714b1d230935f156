"""Which rows two sides share where one has many and the other few: masked once, asked for per job.

An oblivious pseudo-random function F under a secret of the *server*, the side with many rows
(Jarecki and Liu 2010; unbalanced intersection from it: Resende and Aranha 2018).

Offline, once for a set of the server's rows:
1. The server draws a secret, puts its tokens in a random order and masks each: F(token), 12 bytes.
2. It sends all of them; the *client*, the side with few rows, keeps them, the server its secret.

Online, in every job:
3. Both name what they keep by its digest; unless the two are equal and the server's rows are those
   that were masked, everything kept is made anew, under a new secret.
4. The client has F computed at its own tokens, without the server learning them, and looks the
   values up among those it keeps.
5. It tells the server which of its tokens are there: the revealed join tells both who matched.

Beside the server's rows one *probe* is masked, which both can name and which is nobody's. The
client asks for it every time: where it is not found, secret and masked keys do not belong together,
and both are dropped and made anew. An answer is therefore never wrong for what was kept.

Parties are taken to follow the protocol, as in the rest of the revealed join. What the client can
do with what it keeps is guess, and every guess is an evaluation that the server makes, in a job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Final

import numpy as np

from crypto.digest import Digest, digest
from crypto.engine import EngineStage, Standing
from crypto.errors import EngineFailed, EngineFault
from crypto.joinkeys import TOKEN_BYTES
from crypto.joins.intersection import MASKED_BYTES
from crypto.joins.ports import (
    MASK_SECRET_BYTES,
    Int64Array,
    Kept,
    KeptSecret,
    Masking,
    PeerLink,
    UInt8Array,
)
from crypto.ports import Randomness

# The client hears from the server after every block, so no wait is as long as the whole.
ROWS_PER_BLOCK: Final = 2**17
_PERSON: Final = b"unseen-probe-v1"
_NONE: Final = b""


def run(
    standing: Standing,
    tokens: UInt8Array,
    *,
    server: bool,
    kept: Kept,
    masking: Masking,
    link: PeerLink,
    randomness: Randomness,
    on_stage: Callable[[EngineStage], None],
) -> Int64Array:
    """Positions of the matched rows, in an order that both sides share.

    tokens: shape (n, 16), distinct, of own rows, under the key that `standing` speaks of
    Raises EngineFailed (mismatch) where the peer says what this protocol cannot have said.
    """
    probe = probe_of(standing.name)
    part = _serve if server else _ask
    for again in (False, True):
        held = _held(tokens, server=server, kept=kept)
        ours = _NONE if held is None or again else held.raw
        theirs = _swap(link, ours)
        if not ours or theirs != ours:
            on_stage(EngineStage.OFFLINE)
            kept.drop()
            if server:
                _send_masked(standing, tokens, kept, masking, link, randomness)
            else:
                _receive_masked(standing, kept, link)
        on_stage(EngineStage.MATCH)
        found = part(tokens, probe, kept, masking, link)
        if found is not None:
            return found
    raise EngineFailed(EngineFault.MISMATCH, "masked keys that were just made do not fit")


def probe_of(name: Digest) -> UInt8Array:
    """A token that no key has. shape (1, 16)"""
    made = blake2b(name.raw, digest_size=TOKEN_BYTES, person=_PERSON).digest()
    return np.frombuffer(made, dtype=np.uint8).reshape(1, TOKEN_BYTES)


def rows_digest(tokens: UInt8Array) -> Digest:
    """Of a set of rows, whatever their order."""
    halves = np.ascontiguousarray(tokens).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    return digest(tokens[order].tobytes())


def _held(tokens: UInt8Array, *, server: bool, kept: Kept) -> Digest | None:
    """The digest of the masked keys that this side could use for these rows."""
    if not server:
        items = kept.items()
        return None if items is None else digest(items.tobytes())
    secret = kept.secret()
    if secret is None or secret.rows != rows_digest(tokens):
        return None
    return secret.items


def _send_masked(
    standing: Standing,
    tokens: UInt8Array,
    kept: Kept,
    masking: Masking,
    link: PeerLink,
    randomness: Randomness,
) -> None:
    secret = randomness.draw(MASK_SECRET_BYTES)
    whole = np.concatenate([tokens, probe_of(standing.name)])
    drawn = np.frombuffer(randomness.draw(16 * len(whole)), dtype=np.uint64).reshape(2, -1)
    order, summed = np.lexsort(drawn), hashlib.sha256()
    link.send(len(whole).to_bytes(8, "big"))
    for block in _blocks(len(whole)):
        # Sorted, so that their order comes from the secret and not from the tokens.
        items = _sorted(masking.mask(whole[order[block]], secret)).tobytes()
        summed.update(items)
        link.send(items)
    made = Digest(summed.digest())
    if link.receive() != made.raw:
        raise EngineFailed(EngineFault.MISMATCH, "the peer received other masked keys")
    kept.keep_secret(KeptSecret(secret, rows_digest(tokens), made))


def _receive_masked(standing: Standing, kept: Kept, link: PeerLink) -> None:
    count = int.from_bytes(link.receive(), "big")
    if not 1 <= count <= standing.rows + 1:
        raise EngineFailed(EngineFault.MISMATCH, "the peer masked more keys than its product has")
    received = []
    for block in _blocks(count):
        items = link.receive()
        if len(items) != MASKED_BYTES * (block.stop - block.start):
            raise EngineFailed(EngineFault.MISMATCH, "the peer's masked keys have another length")
        received.append(items)
    whole = b"".join(received)
    # Kept first: where only one side keeps, the next job's digests differ and all is made anew.
    kept.keep_items(np.frombuffer(whole, dtype=np.uint8).reshape(-1, MASKED_BYTES))
    link.send(digest(whole).raw)


def _serve(
    tokens: UInt8Array, probe: UInt8Array, kept: Kept, masking: Masking, link: PeerLink
) -> Int64Array | None:
    secret = kept.secret()
    if secret is None:
        raise EngineFailed(EngineFault.CRASHED, "the secret of the masked keys is gone")
    masking.answer(secret.secret)
    said = link.receive()
    if not said:
        kept.drop()
        return None
    named = np.frombuffer(said, dtype=np.uint8)
    if len(named) % TOKEN_BYTES:
        raise EngineFailed(EngineFault.MISMATCH, "the peer's matches have another length")
    matched = named.reshape(-1, TOKEN_BYTES)
    if not np.array_equal(matched[:1], probe):
        raise EngineFailed(EngineFault.MISMATCH, "the peer's matches do not begin as they must")
    return _positions(tokens, matched[1:])


def _ask(
    tokens: UInt8Array, probe: UInt8Array, kept: Kept, masking: Masking, link: PeerLink
) -> Int64Array | None:
    items = kept.items()
    if items is None:
        raise EngineFailed(EngineFault.CRASHED, "the masked keys are gone")
    at = masking.ask(np.concatenate([tokens, probe]), items)
    found = at[at < len(tokens)]
    if len(found) == len(at):
        link.send(_NONE)
        kept.drop()
        return None
    # By token: the order of own rows is nobody else's business.
    halves = np.ascontiguousarray(tokens[found]).view(np.uint64).reshape(-1, 2)
    matched: Int64Array = found[np.lexsort((halves[:, 1], halves[:, 0]))]
    link.send(probe.tobytes() + tokens[matched].tobytes())
    return matched


def _sorted(items: UInt8Array) -> UInt8Array:
    words = np.ascontiguousarray(items).view(np.uint32)
    ordered: UInt8Array = items[np.lexsort(tuple(words.T))]
    return ordered


def _positions(tokens: UInt8Array, named: UInt8Array) -> Int64Array:
    """Where the named tokens stand among `tokens`, in the order in which they are named."""
    halves = np.ascontiguousarray(tokens).view(np.uint64).reshape(-1, 2)[:, 0]
    wanted = np.ascontiguousarray(named).view(np.uint64).reshape(-1, 2)[:, 0]
    near = np.flatnonzero(np.isin(halves, wanted))
    places = {tokens[i].tobytes(): int(i) for i in near}
    try:
        at = [places.pop(token.tobytes()) for token in named]
    except KeyError:
        raise EngineFailed(
            EngineFault.MISMATCH, "the peer names a match that is not a row, or names it twice"
        ) from None
    return np.array(at, dtype=np.int64)


def _swap(link: PeerLink, own: bytes) -> bytes:
    link.send(own)
    return link.receive()


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, ROWS_PER_BLOCK):
        yield slice(start, min(start + ROWS_PER_BLOCK, rows))
