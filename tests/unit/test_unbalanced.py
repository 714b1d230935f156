from __future__ import annotations

import queue
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from crypto.adapters.kept_folder import CLIENT_FILE, SERVER_FILE, KeptFolder
from crypto.engine import EngineStage
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins import unbalanced
from crypto.joins.ports import Int64Array, UInt8Array
from crypto.ports import SystemRandomness
from tests.fakes.two_masked import STANDING, FakeMasking, Job, one_job, tokens

OFFLINE, MATCH = EngineStage.OFFLINE, EngineStage.MATCH


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """One job over what earlier ones kept."""
    return partial(one_job, tmp_path)


MANY, FEW = tokens(range(300)), tokens([298, 299, 300, 301, 5])


def pairs(found: Job, server: UInt8Array = MANY, client: UInt8Array = FEW) -> set[bytes]:
    """What both say matched, position by position."""
    assert np.array_equal(server[found.server], client[found.client])
    return {token.tobytes() for token in client[found.client]}


EXPECTED = {token.tobytes() for token in tokens([298, 299, 5])}


def test_both_sides_learn_the_same_pairs_in_the_same_order(job: Callable[..., Job]) -> None:
    assert pairs(job(MANY, FEW)) == EXPECTED


def test_the_second_job_over_the_same_rows_masks_nothing(job: Callable[..., Job]) -> None:
    first, second = job(MANY, FEW), job(MANY[::-1].copy(), FEW)
    assert (first.stages, second.stages) == ([OFFLINE, MATCH], [MATCH])
    assert pairs(second, server=MANY[::-1].copy()) == EXPECTED
    others = tokens([7, 8, 1000])
    third = job(MANY, others)
    assert not third.offline
    assert len(pairs(third, client=others)) == 2


def test_one_row_more_or_another_in_its_place_has_everything_masked_anew(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    job(MANY, FEW)
    secrets = {(tmp_path / "a" / SERVER_FILE).read_bytes()}
    one_more, another = tokens([*range(300), 900]), tokens([*range(1, 300), 900])
    for changed in (one_more, another):
        again = job(changed, FEW)
        assert again.offline
        assert pairs(again, server=changed) == EXPECTED
        secrets.add((tmp_path / "a" / SERVER_FILE).read_bytes())
    assert len(secrets) == 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped", "cut", "gone"])
@pytest.mark.parametrize("file", [f"a/{SERVER_FILE}", f"b/{CLIENT_FILE}"])
def test_what_is_damaged_is_made_anew_and_the_answer_is_right(
    job: Callable[..., Job], tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    job(MANY, FEW)
    damage(tmp_path / file)
    again = job(MANY, FEW)
    assert again.offline
    assert pairs(again) == EXPECTED
    assert not job(MANY, FEW).offline


def test_a_secret_that_does_not_fit_its_masked_keys_is_found_by_the_probe(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    """The nearest forgery: both digests agree, so only an evaluation can tell."""
    job(MANY, FEW)
    kept = KeptFolder(tmp_path / "a")
    held = kept.secret()
    assert held is not None
    kept.keep_secret(replace(held, secret=b"x" * 32))
    again = job(MANY, FEW)
    assert again.stages == [MATCH, OFFLINE, MATCH]
    assert pairs(again) == EXPECTED


def test_a_crash_between_the_two_sides_keeping_costs_only_time(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    job(MANY, FEW)
    old = (tmp_path / "a" / SERVER_FILE).read_bytes()
    job(tokens(range(301)), FEW)
    (tmp_path / "a" / SERVER_FILE).write_bytes(old)
    again = job(MANY, FEW)
    assert again.offline
    assert pairs(again) == EXPECTED


def test_the_client_receives_nothing_that_tells_which_keys_are_masked(
    job: Callable[..., Job],
) -> None:
    found = job(MANY, FEW)
    everything = b"".join(found.client_saw)
    assert not any(token.tobytes() in everything for token in MANY)
    # The same rows masked again look like other rows.
    blocks = [set(np.frombuffer(found.client_saw[2], dtype="V12").tolist())]
    other = job(tokens(range(301)), FEW)
    blocks.append(set(np.frombuffer(other.client_saw[2], dtype="V12").tolist()))
    assert not blocks[0] & blocks[1]
    assert len(blocks[0]) == 301


def test_the_server_learns_which_rows_matched_and_how_many_were_asked_for(
    job: Callable[..., Job],
) -> None:
    job(MANY, FEW)
    found = job(MANY, FEW)
    assert found.asked == [len(FEW) + 1]
    _, matches = found.server_saw
    assert not any(FEW[i].tobytes() in matches for i in (2, 3))


def test_the_order_in_which_matches_are_named_is_not_that_of_the_clients_rows(
    job: Callable[..., Job],
) -> None:
    one, other = job(MANY, FEW), job(MANY, FEW[::-1].copy())
    assert one.server_saw[-1] == other.server_saw[-1]


@dataclass
class Liar:
    """A peer that says these things, whatever it hears."""

    says: list[bytes]

    def send(self, payload: bytes) -> None: ...

    def receive(self) -> bytes:
        return self.says.pop(0)


def serving(kept: KeptFolder, says: list[bytes]) -> Int64Array:
    masking = FakeMasking(queue.Queue(), queue.Queue())
    masking.into.put(1)
    return unbalanced.run(
        STANDING,
        MANY,
        server=True,
        kept=kept,
        masking=masking,
        link=Liar(says),
        randomness=SystemRandomness(),
        on_stage=lambda _: None,
    )


PROBE = unbalanced.probe_of(STANDING.name).tobytes()


@pytest.mark.parametrize(
    "named",
    [
        MANY[0].tobytes(),
        PROBE + FEW[2].tobytes(),
        PROBE + MANY[:1].tobytes() * 2,
        PROBE + MANY[0].tobytes()[:-1],
    ],
    ids=["without the probe", "not a row", "a row twice", "half a token"],
)
def test_a_match_that_cannot_be_one_is_refused(
    job: Callable[..., Job], tmp_path: Path, named: bytes
) -> None:
    job(MANY, FEW)
    held = KeptFolder(tmp_path / "a").secret()
    assert held is not None
    with pytest.raises(EngineFailed) as failed:
        serving(KeptFolder(tmp_path / "a"), [held.items.raw, named])
    assert failed.value.fault is EngineFault.MISMATCH


def test_a_server_that_masks_more_keys_than_its_product_has_is_refused(tmp_path: Path) -> None:
    too_many = (STANDING.rows + 2).to_bytes(8, "big")
    with pytest.raises(EngineFailed, match="more keys") as failed:
        unbalanced.run(
            STANDING,
            FEW,
            server=False,
            kept=KeptFolder(tmp_path),
            masking=FakeMasking(queue.Queue(), queue.Queue()),
            link=Liar([b"", too_many]),
            randomness=SystemRandomness(),
            on_stage=lambda _: None,
        )
    assert failed.value.fault is EngineFault.MISMATCH


def test_what_is_kept_can_be_read_by_its_owner_alone(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    job(MANY, FEW)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {SERVER_FILE, CLIENT_FILE}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_folder_that_cannot_be_written_costs_the_saving_and_not_the_answer(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("a file, where a folder should be")
    assert pairs(job(MANY, FEW)) == EXPECTED
    assert job(MANY, FEW).offline


def test_a_secret_is_not_printed(job: Callable[..., Job], tmp_path: Path) -> None:
    job(MANY, FEW)
    assert "secret=" not in repr(KeptFolder(tmp_path / "a").secret())


def test_who_serves_is_a_holder() -> None:
    with pytest.raises(Malformed, match="holder"):
        replace(STANDING, server=2)
