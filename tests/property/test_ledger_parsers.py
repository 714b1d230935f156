"""Every reader of the ledger's formats, under damage: strict, never a crash, one encoding.

Valid inputs are damaged where their formats have joints: lines, numbers, base64, separators. What
is then refused is refused with the package's own error; what is accepted is written back as the
very bytes that were read, so that no two texts mean one thing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import record
from crypto.digest import digest
from crypto.envelope import Envelope
from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from crypto.keys import PublicKey, SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, SignedStatement, read_statement, sign_statement
from ledger.errors import FormatRefused, LedgerError
from ledger.ports import WitnessHead
from ledger.verify.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.verify.cosignature import cosign, verify_cosignatures
from ledger.verify.heads import page_bytes, parse_page
from ledger.verify.history import LogKeys, SignedLogKeys, read_log_keys, sign_log_keys
from ledger.verify.merkle import leaf_hash, node_hash
from ledger.verify.note import COSIGNATURE, LOG_SIGNATURE, Note, VerifierKey, parse_lines
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof, verify_proof
from ledger.verify.tile_names import ENTRIES, Tile
from ledger.verify.tiles import bundle_bytes, parse_bundle
from ledger.witness import AddCheckpoint, add_checkpoint

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ORIGIN = "log.example/deals"


def _key(number: int) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


# Fixed, so that an example that fails can be run again.
LOG, FIRST, SECOND, ACTOR = (_key(n) for n in range(1, 5))
LOG_KEY = VerifierKey(ORIGIN, LOG_SIGNATURE, LOG.public)
WITNESSES = [
    VerifierKey("first.example", COSIGNATURE, FIRST.public),
    VerifierKey("second.example", COSIGNATURE, SECOND.public),
]
LEAVES = [leaf_hash(b"one"), leaf_hash(b"two")]
HEAD = Checkpoint(ORIGIN, 2, node_hash(*LEAVES))
NOTE = sign_checkpoint(HEAD, LOG).with_signatures(
    [
        cosign(HEAD.text, key.name, signer, now=NOW)
        for key, signer in zip(WITNESSES, (FIRST, SECOND), strict=True)
    ]
)
RECEIPT = Proof(1, (LEAVES[0],), NOTE.to_bytes(), b"beside").text.encode()
REQUEST = AddCheckpoint(1, (LEAVES[1],), NOTE.to_bytes()).to_bytes()
POLICY = (
    f"# dated\nlog {LOG_KEY} https://log.example/\nwitness a {WITNESSES[0]}\n"
    f"witness b {WITNESSES[1]} https://b.example/\ngroup both all a b\nquorum both\n"
).encode()


def _statement() -> bytes:
    signed = sign_statement(
        Act("job.admitted", "job-1", after=(digest(b"x"),), body={"why": "数据"}),
        actor=PartyId.parse("pty_01998b5a7b1c70008000000000000001"),
        head=ChainHead(),
        signer=ACTOR,
        now=NOW,
        randomness=SystemRandomness(),
    )
    return signed.entry


STATEMENT = _statement()
RECOVERY = _key(5)
LOG_KEYS = sign_log_keys(
    LogKeys(1, ORIGIN, 0, None, (str(LOG_KEY),), RECOVERY.public, ()), LOG, RECOVERY
).envelope.to_bytes()
LATTICE_KEY = VerifierKey(
    "witness.example", 0x06, PublicKey("ml-dsa-44", bytes(range(256)) * 5 + bytes(32))
)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Reader:
    """One format: how it is read and, if it has a writer, what writing gives back."""

    valid: bytes
    read: Callable[[bytes], bytes | None]


def text_of(read: Callable[[str], str]) -> Callable[[bytes], bytes]:
    """For a reader of text, which its caller has decoded as UTF-8 before."""

    def reader(data: bytes) -> bytes:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise FormatRefused("text", "is not UTF-8") from None
        return read(text).encode()

    return reader


def only_read(read: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """For a format in which comments and blanks are free, so that many texts mean one thing."""

    def reader(data: bytes) -> None:
        read(data)

    return reader


READERS: Final = {
    "note": Reader(NOTE.to_bytes(), lambda data: Note.parse(data).to_bytes()),
    "checkpoint": Reader(HEAD.text.encode(), text_of(lambda text: Checkpoint.parse(text).text)),
    "verifier key": Reader(str(LOG_KEY).encode(), text_of(lambda t: str(VerifierKey.parse(t)))),
    "cosigner's key": Reader(
        str(WITNESSES[0]).encode(), text_of(lambda text: str(VerifierKey.parse(text)))
    ),
    "signature lines": Reader(
        "".join(signature.line for signature in NOTE.signatures).encode(),
        text_of(lambda text: "".join(line.line for line in parse_lines(text))),
    ),
    "proof": Reader(RECEIPT, lambda data: Proof.parse(data).text.encode()),
    "witness request": Reader(REQUEST, lambda data: AddCheckpoint.parse(data).to_bytes()),
    "policy": Reader(POLICY, only_read(Policy.parse)),
    "tile path": Reader(
        b"tile/entries/x001/x234/067.p/112", text_of(lambda text: Tile.parse(text).path)
    ),
    "bundle": Reader(
        bundle_bytes([b"one", b"", b"three" * 20]),
        lambda data: bundle_bytes(parse_bundle(data, Tile(ENTRIES, 0, 3))),
    ),
    "past heads": Reader(
        page_bytes([NOTE.to_bytes(), NOTE.to_bytes()]), lambda data: page_bytes(parse_page(data))
    ),
    "ML-DSA key": Reader(
        str(LATTICE_KEY).encode(), text_of(lambda text: str(VerifierKey.parse(text)))
    ),
    "log keys": Reader(LOG_KEYS, lambda data: _keys_again(read_log_keys(data))),
    "statement": Reader(STATEMENT, lambda data: _written_again(read_statement(data))),
}


def _written_again(signed: SignedStatement) -> bytes:
    """The entry from what was read: its payload from the statement, its envelope from both."""
    envelope = Envelope.from_bytes(signed.entry)
    payload = record.to_bytes(signed.statement)
    return replace(envelope, payload=payload).to_bytes()


def _keys_again(signed: SignedLogKeys) -> bytes:
    payload = record.to_bytes(signed.document)
    return replace(signed.envelope, payload=payload).to_bytes()


# Characters that some reader, somewhere, takes for a space, an end of line or a digit.
ODD: Final = [
    *"\n\r\t \0\x0b\x0c\x1c\x1e\x7f\x85\xa0\u2028\u2029\ufeff\u200b\u3000",
    *"+-_.=/0٣５é—‐A",
]
NUMBER: Final = re.compile(rb"\d+")
BASE64: Final = re.compile(rb"[A-Za-z0-9+/]{20,}={0,2}")


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid input after one to four changes, each where a format has a joint."""
    data = valid
    for _ in range(draw(st.integers(1, 4))):
        change = draw(st.sampled_from(CHANGES))
        data = change(draw, data)
    return data


def _bit(draw: st.DrawFn, data: bytes) -> bytes:
    if not data:
        return data
    at, changed = draw(st.integers(0, len(data) - 1)), bytearray(data)
    changed[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _insert(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.sampled_from(ODD)).encode() + data[at:]


def _insert_byte(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(min_size=1, max_size=2)) + data[at:]


def _cut(draw: st.DrawFn, data: bytes) -> bytes:
    start = draw(st.integers(0, len(data)))
    return data[:start] + data[draw(st.integers(start, len(data))) :]


def _lines(draw: st.DrawFn, data: bytes) -> bytes:
    """Repeat, drop, move or empty one line."""
    lines = data.split(b"\n")
    at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    line = lines[at]
    match draw(st.sampled_from(["repeat", "drop", "move", "empty", "blank", "spaced", "return"])):
        case "repeat":
            lines.insert(other, line)
        case "drop":
            del lines[at]
        case "move":
            lines.insert(other, lines.pop(at))
        case "empty":
            lines[at] = b""
        case "blank":
            lines.insert(at, b"")
        case "spaced":
            lines[at] = line + b" "
        case _:
            lines[at] = line + b"\r"
    return b"\n".join(lines)


def _number(draw: st.DrawFn, data: bytes) -> bytes:
    found = list(NUMBER.finditer(data))
    if not found:
        return data
    match = draw(st.sampled_from(found))
    old = match.group()
    others = [b"0" + old, b"+" + old, b"-" + old, b" " + old, old + b"_0", b"0x1", b"1e3", b""]
    others += [str(n).encode() for n in (0, 2**53, 2**63 - 1, 2**63, 2**64, 10**30)]
    others += [b"1" * 5000, "５".encode(), old + b".0"]
    return data[: match.start()] + draw(st.sampled_from(others)) + data[match.end() :]


def _base64(draw: st.DrawFn, data: bytes) -> bytes:
    found = list(BASE64.finditer(data))
    if not found:
        return data
    match = draw(st.sampled_from(found))
    old = match.group()
    bare = old.rstrip(b"=")
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = letters.find(bare[-1:])
    others = [
        bare,  # without its padding
        old + b"=",
        bare[:-1] + letters[last ^ 1 : (last ^ 1) + 1] + old[len(bare) :],  # bits nobody reads
        old.replace(b"+", b"-").replace(b"/", b"_"),
        bare[:7] + b"\n" + old[7:],
        bare[:7] + b"=" + old[7:],
        old + old,
        bare[:-4],
        b"",
        base64.b64encode(draw(st.binary(max_size=80))),
    ]
    return data[: match.start()] + draw(st.sampled_from(others)) + data[match.end() :]


def _splice(draw: st.DrawFn, data: bytes) -> bytes:
    """Go on as another format would."""
    other = draw(st.sampled_from([reader.valid for reader in READERS.values()]))
    at, begin = draw(st.integers(0, len(data))), draw(st.integers(0, len(other)))
    return data[:at] + other[begin:]


CHANGES: Final = [_bit, _insert, _insert_byte, _cut, _lines, _number, _base64, _splice]


def require_strict(reader: Reader, data: bytes) -> None:
    try:
        written = reader.read(data)
    except (LedgerError, CryptoError):
        return
    assert written is None or written == data


@pytest.mark.parametrize("name", READERS)
def test_what_is_written_is_read(name: str) -> None:
    reader = READERS[name]
    assert reader.read(reader.valid) in (None, reader.valid)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100, deadline=None)
@given(draw=st.data())
def test_damaged_input_is_refused_or_means_exactly_what_it_says(
    name: str, draw: st.DataObject
) -> None:
    require_strict(READERS[name], draw.draw(damaged(READERS[name].valid)))


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=50, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(_utf8)))
def test_any_bytes_are_refused_or_mean_exactly_what_they_say(name: str, data: bytes) -> None:
    require_strict(READERS[name], data)


def require_same_claim(note: Note) -> None:
    """What a trusted key signed is what is believed, whatever surrounds it."""
    with suppress(LedgerError):
        assert open_checkpoint(note, [LOG_KEY]) == HEAD
    with suppress(LedgerError):
        times = verify_cosignatures(note, WITNESSES)
        assert set(times) <= set(WITNESSES) and set(times.values()) <= {NOW}
        assert not times or note.text == HEAD.text


@settings(max_examples=100, deadline=None)
@given(damaged(NOTE.to_bytes()))
def test_no_damage_makes_a_note_say_what_was_not_signed(data: bytes) -> None:
    with suppress(FormatRefused):
        require_same_claim(Note.parse(data))


@settings(max_examples=100, deadline=None)
@given(damaged(RECEIPT))
def test_no_damage_makes_a_receipt_prove_another_entry(data: bytes) -> None:
    policy = Policy.parse(POLICY)
    with suppress(FormatRefused):
        proof = Proof.parse(data)
        for entry in (b"one", b"three"):
            with pytest.raises(LedgerError):
                verify_proof(proof, entry, policy)
        with suppress(LedgerError):
            assert verify_proof(proof, b"two", policy).checkpoint == HEAD


class Forgetful:
    """A witness's memory of one log, in memory."""

    def __init__(self) -> None:
        first = Checkpoint(ORIGIN, 1, LEAVES[0])
        line = cosign(first.text, "first.example", FIRST, now=NOW)
        note = sign_checkpoint(first, LOG).with_signatures([line])
        self.stored: WitnessHead | None = WitnessHead(first, note.to_bytes(), NOW)

    def head(self, origin: str) -> WitnessHead | None:
        return self.stored if origin == ORIGIN else None

    def heads(self) -> Sequence[WitnessHead]:
        return [] if self.stored is None else [self.stored]

    def advance(self, old: WitnessHead | None, new: WitnessHead) -> bool:
        assert old == self.stored
        self.stored = new
        return True


@settings(max_examples=150, deadline=None)
@given(st.one_of(damaged(REQUEST), st.binary(max_size=200)))
def test_no_request_crashes_a_witness_or_makes_it_store_what_the_log_did_not_sign(
    body: bytes,
) -> None:
    store = Forgetful()
    before = store.stored
    answer = add_checkpoint(
        body, store=store, name="first.example", signers=[FIRST], trusted_logs=[LOG_KEY], now=NOW
    )
    assert answer.status in {200, 400, 403, 404, 409, 422}
    assert store.stored is not None
    assert (store.stored.checkpoint == HEAD) if answer.status == 200 else store.stored == before


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=1_000, deadline=None)
@given(draw=st.data())
def test_much_damaged_input_is_refused_or_means_exactly_what_it_says(
    name: str, draw: st.DataObject
) -> None:
    require_strict(READERS[name], draw.draw(damaged(READERS[name].valid)))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_every_flipped_bit_and_every_cut_is_refused_or_means_exactly_what_it_says(
    name: str,
) -> None:
    reader = READERS[name]
    for at in range(len(reader.valid)):
        require_strict(reader, reader.valid[:at])
        require_strict(reader, reader.valid[:at] + reader.valid[at + 1 :])
        for bit in range(8):
            changed = bytearray(reader.valid)
            changed[at] ^= 1 << bit
            require_strict(reader, bytes(changed))
