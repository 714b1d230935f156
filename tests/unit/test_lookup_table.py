"""The encrypted table: what opens a row, what a table shows, and which tables are refused."""

from __future__ import annotations

import hmac
import struct
from pathlib import Path

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.adapters.ristretto import Ristretto255
from crypto.errors import Malformed
from crypto.lookup import oprf
from crypto.lookup.answers import AskedKeys, pack, unpack
from crypto.lookup.table import (
    Absence,
    Table,
    TableSecret,
    make_table,
    public_key,
    size_bytes,
    table_secret,
)
from crypto.ports import SystemRandomness

GROUP = Ristretto255()
SEED = b"s" * 32
SECRET = table_secret(GROUP, SEED, epoch=1)
CAP, LABEL = 40, 24
KEYS = [b"%d" % number for number in range(30)]
RECORDS = [b"", b"x" * LABEL] + [b"record of %d" % number for number in range(2, 30)]
HEADER, WIDTH = 68, 2 + LABEL + 16
START = HEADER + 16 * CAP


class Stream:
    """The same bytes each time, for tables that are compared."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(5)

    def draw(self, size: int) -> bytes:
        return self._generator.bytes(size)


def a_table(
    keys: list[bytes] = KEYS,
    records: list[bytes] = RECORDS,
    *,
    secret: TableSecret = SECRET,
    cap: int = CAP,
) -> Table:
    return make_table(
        keys,
        records,
        group=GROUP,
        secret=secret,
        randomness=Stream(),
        cap=cap,
        label_bytes=LABEL,
    )


TABLE = a_table()


def output(key: bytes, secret: TableSecret = SECRET) -> bytes:
    return oprf.evaluate(GROUP, secret.keys, key)


def changed(image: np.ndarray, at: int) -> np.ndarray:
    image = image.copy()
    image[at] ^= 1
    return image


def test_each_key_opens_its_record_and_a_key_without_one_opens_nothing() -> None:
    assert TABLE.records([output(key) for key in KEYS]) == RECORDS
    assert TABLE.records([output(b"30"), output(b"7")]) == [Absence.NO_RECORD, b"record of 7"]


def test_a_table_holds_what_its_specification_says() -> None:
    """Read again from the words of the module's docstring, by other code."""
    raw = TABLE.image.tobytes()
    assert raw[:HEADER] == b"UNSEEN-LOOKUP-1\n" + struct.pack(">QQI", 1, CAP, LABEL) + bytes(
        SECRET.keys.public
    )
    material = hmac.digest(output(b"7"), b"unseen/lookup/row/v1\x01", "sha512")
    ids = [raw[HEADER + 16 * row :][:16] for row in range(CAP)]
    assert ids == sorted(ids)
    start = START + WIDTH * ids.index(material[:16])
    plain = AESGCM(material[16:48]).decrypt(bytes(12), raw[start : start + WIDTH], raw[:HEADER])
    assert plain == b"\x00\x0brecord of 7" + bytes(LABEL - 11)


def test_the_output_for_one_key_opens_no_other_row() -> None:
    """The claim: with the evaluation of one key, every other row stays shut."""
    raw = TABLE.image.tobytes()
    material = hmac.digest(output(b"7"), b"unseen/lookup/row/v1\x01", "sha512")
    opened = 0
    for row in range(CAP):
        start = START + WIDTH * row
        try:
            AESGCM(material[16:48]).decrypt(bytes(12), raw[start : start + WIDTH], raw[:HEADER])
            opened += 1
        except InvalidTag:
            pass
    assert opened == 1


def test_whoever_knows_a_key_but_has_no_evaluation_finds_nothing() -> None:
    """What a consumer can test alone: F under any secret that it makes up itself."""
    guessed = table_secret(GROUP, b"g" * 32, epoch=1)
    assert set(TABLE.records([output(key, guessed) for key in KEYS])) == {Absence.NO_RECORD}


def test_evaluations_of_one_epoch_open_nothing_of_the_next() -> None:
    after = table_secret(GROUP, SEED, epoch=2)
    table = a_table(secret=after)
    assert set(table.records([output(key) for key in KEYS])) == {Absence.NO_RECORD}
    assert table.records([output(key, after) for key in KEYS]) == RECORDS
    assert public_key(GROUP, table) != public_key(GROUP, TABLE)


def test_the_rows_of_two_epochs_cannot_be_linked_by_their_ids() -> None:
    def ids(table: Table) -> set[bytes]:
        raw = table.image.tobytes()
        return {raw[HEADER + 16 * row :][:16] for row in range(CAP)}

    full = (KEYS + [b"k%d" % n for n in range(10)], RECORDS + [b"r"] * 10)
    tables = [a_table(*full, secret=table_secret(GROUP, SEED, epoch=epoch)) for epoch in (1, 2)]
    assert not ids(tables[0]) & ids(tables[1])


def test_a_table_has_the_size_of_its_cap_and_not_of_its_records() -> None:
    few, none = a_table(KEYS[:1], RECORDS[:1]), a_table([], [])
    assert len(few.image) == len(none.image) == len(TABLE.image) == size_bytes(CAP, LABEL)
    assert few.image[:HEADER].tobytes() == TABLE.image[:HEADER].tobytes()


def test_the_order_of_the_rows_says_nothing_of_the_order_of_the_records() -> None:
    again = a_table(KEYS[::-1], RECORDS[::-1])
    assert again.digest == TABLE.digest


def test_dummies_look_like_rows() -> None:
    """Bytes of sealed records and of dummies, as one chi-squared against uniform each: 255 degrees
    of freedom, bound 381. False alarm: one in 10**6 runs."""
    real = a_table([b"%d" % n for n in range(1000)], [b""] * 1000, cap=1000)
    dummies = make_table(
        [],
        [],
        group=GROUP,
        secret=SECRET,
        randomness=SystemRandomness(),
        cap=1000,
        label_bytes=LABEL,
    )
    for table in (real, dummies):
        counts = np.bincount(table.image[HEADER + 16 * 1000 :], minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < 381


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "table")
    read = Table.load(tmp_path / "table")
    assert read.digest == TABLE.digest
    assert (read.epoch, read.rows, read.label_bytes) == (1, CAP, LABEL)
    assert read.records([output(b"3")]) == [b"record of 3"]


def test_every_byte_counts_for_the_digest() -> None:
    for at in (20, 40, START, len(TABLE.image) - 1):
        assert Table(changed(TABLE.image, at)).digest != TABLE.digest


@pytest.mark.parametrize(
    ("where", "image"),
    [
        ("table", TABLE.image[:10]),
        ("table", TABLE.image[:-1]),
        ("table", np.append(TABLE.image, np.uint8(0))),
        ("table", TABLE.image[:0]),
        ("table", changed(TABLE.image, 0)),
        ("table", changed(TABLE.image, 31)),  # one row more or fewer
        ("table", changed(TABLE.image, 35)),  # records one byte longer or shorter
        ("rows", changed(TABLE.image, 24)),
        ("label_bytes", changed(TABLE.image, 32)),
        ("ids", np.concatenate([TABLE.image[:HEADER], TABLE.image[HEADER:].copy()[::-1]])),
        (
            "ids",  # one row twice
            np.concatenate(
                [
                    TABLE.image[: HEADER + 16],
                    TABLE.image[HEADER : HEADER + 16],
                    TABLE.image[HEADER + 32 :],
                ]
            ),
        ),
    ],
)
def test_a_table_of_another_form_is_refused(where: str, image: np.ndarray) -> None:
    with pytest.raises(Malformed) as refusal:
        Table(image)
    assert refusal.value.where == where


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    for size in (0, 10, HEADER, len(TABLE.image) - 1):
        (tmp_path / "table").write_bytes(TABLE.image.tobytes()[:size])
        with pytest.raises(Malformed):
            Table.load(tmp_path / "table")


def test_a_table_whose_public_key_is_none_is_noticed() -> None:
    for public in (bytes(32), b"\xff" * 32):
        image = TABLE.image.copy()
        image[36:HEADER] = np.frombuffer(public, dtype=np.uint8)
        with pytest.raises(Malformed, match="element"):
            public_key(GROUP, Table(image))


def test_a_row_altered_is_damaged_and_the_others_stand() -> None:
    outputs = [output(key) for key in KEYS]
    damaged = 0
    for row in range(CAP):
        found = Table(changed(TABLE.image, START + row * WIDTH)).records(outputs)
        pairs = list(zip(found, RECORDS, strict=True))
        damaged += found.count(Absence.DAMAGED)
        assert all(answer in (record, Absence.DAMAGED) for answer, record in pairs)
    assert damaged == len(KEYS)  # each once; the other rows are dummies


def test_half_an_id_finds_nothing() -> None:
    """Rows are searched by the first half of their id; the second half decides."""
    ids = TABLE.image[HEADER:START].reshape(CAP, 16)
    material = hmac.digest(output(b"7"), b"unseen/lookup/row/v1\x01", "sha512")
    row = [one.tobytes() for one in ids].index(material[:16])
    assert 0 < row < CAP - 1, "a first or last row has one neighbour; choose another key"
    for neighbour, end in ((row - 1, 0), (row + 1, 255)):
        image = TABLE.image.copy()
        place = HEADER + 16 * neighbour
        image[place : place + 8] = ids[row, :8]
        image[place + 8 : place + 16] = end
        assert Table(image).records([output(b"7")]) == [b"record of 7"]
    image = TABLE.image.copy()
    image[HEADER + 16 * row + 15] ^= 1
    assert Table(image).records([output(b"7")]) == [Absence.NO_RECORD]


def test_a_record_moved_to_another_row_or_another_table_does_not_open() -> None:
    outputs = [output(key) for key in KEYS]
    sealed = TABLE.image[START:].reshape(CAP, WIDTH)
    moved = Table(np.concatenate([TABLE.image[:START], np.roll(sealed, 1, axis=0).ravel()]))
    foreign = Table(changed(TABLE.image, 23))  # all rows under another epoch's header
    for table in (moved, foreign):
        assert set(table.records(outputs)) == {Absence.DAMAGED}


def test_a_record_that_its_holder_padded_with_something_is_damaged() -> None:
    """Nothing hides in the padding, and no length leads out of the record."""
    row_material = hmac.digest(output(b"7"), b"unseen/lookup/row/v1\x01", "sha512")
    raw = TABLE.image.tobytes()
    row = [raw[HEADER + 16 * row :][:16] for row in range(CAP)].index(row_material[:16])
    for plain in (
        b"\x00\x01ab" + bytes(LABEL - 2),
        bytes([0, LABEL + 1]) + bytes(LABEL),
        b"\xff\xff" + bytes(LABEL),
    ):
        image = TABLE.image.copy()
        forged = AESGCM(row_material[16:48]).encrypt(bytes(12), plain, raw[:HEADER])
        image[START + row * WIDTH :][:WIDTH] = np.frombuffer(forged, dtype=np.uint8)
        assert Table(image).records([output(b"7")]) == [Absence.DAMAGED]


@pytest.mark.parametrize(
    ("where", "keys", "records"),
    [
        ("records", [b"a", b"b"], [b""]),
        ("keys", [b"%d" % n for n in range(CAP + 1)], [b""] * (CAP + 1)),
        ("keys[2]", [b"secret-key", b"b", b"secret-key"], [b"", b"", b""]),
        ("keys[0]", [b""], [b""]),
        ("keys[1]", [b"a", b"k" * 1025], [b"", b""]),
        ("records[1]", [b"a", b"b"], [b"", b"y" * (LABEL + 1)]),
    ],
)
def test_records_that_make_no_table_are_refused_by_row_and_never_by_value(
    where: str, keys: list[bytes], records: list[bytes]
) -> None:
    with pytest.raises(Malformed) as refusal:
        a_table(keys, records)
    assert refusal.value.where == where
    assert "secret-key" not in str(refusal.value)


@pytest.mark.parametrize(("cap", "label_bytes"), [(0, 8), (2**26 + 1, 8), (4, 0), (4, 2**15 + 1)])
def test_a_table_too_large_or_empty_by_its_terms_is_refused(cap: int, label_bytes: int) -> None:
    with pytest.raises(Malformed, match="is not 1"):
        make_table(
            [],
            [],
            group=GROUP,
            secret=SECRET,
            randomness=Stream(),
            cap=cap,
            label_bytes=label_bytes,
        )


def test_neither_secret_nor_rows_nor_keys_are_printed() -> None:
    assert SECRET.keys.secret.hex() not in repr(SECRET) and "KeyPair" not in repr(SECRET)
    assert len(repr(TABLE)) < 100
    assert "key" not in repr(AskedKeys((b"key",))).replace("AskedKeys", "")


def test_an_answer_is_read_back_and_has_one_size_whatever_was_found() -> None:
    answers = [b"", b"x" * LABEL, Absence.NO_RECORD, Absence.DAMAGED, b"\x00\x00"]
    packed = pack(answers, evaluations=8, label_bytes=LABEL)
    assert unpack(packed, evaluations=8, label_bytes=LABEL) == [
        *answers,
        *[Absence.NO_RECORD] * 3,
    ]
    nothing = pack([Absence.NO_RECORD], evaluations=8, label_bytes=LABEL)
    assert len(nothing) == len(packed)


def test_an_answer_of_another_form_is_refused() -> None:
    packed = pack([b"ab", Absence.NO_RECORD], evaluations=2, label_bytes=4)
    for bad in (
        packed[:-1],
        packed + b"\x00",
        b"\x03" + packed[1:],
        packed[:1] + b"\x00\x05" + packed[3:],
        packed[:1] + b"\x00\x01" + packed[3:],
        packed[:-1] + b"\x01",
        b"\x00" + packed[1:],
    ):
        with pytest.raises(Malformed, match="answers"):
            unpack(bad, evaluations=2, label_bytes=4)


def test_the_keys_file_is_read_strictly() -> None:
    asked = AskedKeys((b"1", b"\xff"))
    assert AskedKeys.parse(asked.to_bytes()) == asked
    with pytest.raises(Malformed):
        AskedKeys.parse(asked.to_bytes().replace(b'"keys"', b'"more":1,"keys"'))
