"""The witness as a process, killed while it answers: it remembers whatever it has cosigned."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import httpx2
import pytest

from crypto.keys import SigningKey
from ledger.tree import consistency_path, range_hash
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.merkle import leaf_hash
from ledger.verify.note import Note, VerifierKey, log_key, parse_lines
from ledger.witness import AddCheckpoint
from tests.integration.test_wiring_hub import a_witness, running
from tests.trees import nodes_of

ORIGIN = "log.example/deals"
LOG = SigningKey.generate()
SIZE = 400


class History:
    """A log's tree; `salt` makes another one."""

    def __init__(self, salt: str = "") -> None:
        self.nodes = nodes_of([leaf_hash(f"{salt}{n}".encode()) for n in range(SIZE)])

    def head(self, size: int) -> Checkpoint:
        return Checkpoint(ORIGIN, size, range_hash((0, size), self.nodes))

    def request(self, old: int, new: int) -> bytes:
        proof = tuple(range_hash(part, self.nodes) for part in consistency_path(old, new))
        note = sign_checkpoint(self.head(new), LOG)
        return AddCheckpoint(old, proof, note.to_bytes()).to_bytes()


@pytest.mark.slow
def test_a_witness_killed_while_it_cosigns_forgets_nothing_that_it_cosigned(tmp_path: Path) -> None:
    honest, fork = History(), History("fork")
    settings = a_witness(tmp_path / "w", str(log_key(ORIGIN, LOG)))
    cosigned = 0
    for _ in range(2):
        with running("witness", "--settings", str(settings)) as witness:
            keys = [VerifierKey.parse(text) for text in witness.ready["vkeys"]]
            start = cosigned
            client = httpx2.Client(base_url=witness.url, trust_env=False, timeout=5)
            killer = threading.Timer(0.02, witness.child.kill)  # SIGKILL: no handler runs
            with client, contextlib.suppress(httpx2.HTTPError):
                # What the process before stored without answering is asked for first.
                told = client.post("/add-checkpoint", content=honest.request(SIZE, SIZE))
                assert told.status_code == 409 and int(told.text) >= cosigned
                cosigned = int(told.text)
                while cosigned < SIZE:
                    body = honest.request(cosigned, cosigned + 1)
                    answer = client.post("/add-checkpoint", content=body)
                    assert answer.status_code == 200
                    note = Note(honest.head(cosigned + 1).text, parse_lines(answer.text))
                    assert set(verify_cosignatures(note, keys)) == set(keys)
                    cosigned += 1
                    if cosigned == start + 5:  # and somewhere in the next requests it dies
                        killer.start()
            killer.join()
            assert witness.child.wait(30) == -9
            assert cosigned >= start + 5
    with running("witness", "--settings", str(settings)) as witness:
        url = witness.url + "/add-checkpoint"
        told = httpx2.post(url, content=honest.request(0, 1), trust_env=False)
        held = int(told.text)
        assert told.status_code == 409 and held in (cosigned, cosigned + 1)
        if held < SIZE:
            forked = httpx2.post(url, content=fork.request(held, SIZE), trust_env=False)
            assert forked.status_code == 422
