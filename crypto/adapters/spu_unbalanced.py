"""The oblivious pseudo-random function of an unbalanced intersection, by SPU 0.9.5 (`ub_psi`).

Masks are points of FourQ; F(token) is 12 bytes of BLAKE3 of the server's secret times the hash of
the token to the curve (psi 0.6.0.dev250507, psi/algorithm/ecdh/ub_psi). What was found in it, and
what follows:

- Told to give the server the result as well, it reads all of the server's rows in every job, which
  takes as long as intersecting anew. So only the client gets it, and tells the server itself.
- With a secret that is not the one the items were made with, it finds nothing and says nothing.
- Its transfer sends the masked keys nearly in the order of the sorted file. So it only computes
  them here, alone, and `crypto.joins.unbalanced` sends them in an order of its own.
- Its client keeps 36 bytes a key, of which 24 are whatever was in its memory. Only 12 are kept
  here, and the file that it reads is made in the run's own folder, with zeros.
- Its server does not check that a point has the prime order: the client could learn the secret
  modulo 392. Like the rest of the revealed join, it is for parties that follow the protocol.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from spu import libspu, psi  # type: ignore[import-untyped]  # ships without types

from crypto.errors import EngineFailed, EngineFault
from crypto.joins.intersection import MASKED_BYTES
from crypto.joins.ports import Int64Array, UInt8Array

# Of psi's own files: offsets and sizes in bytes.
_MADE_RECORD: Final = 44
_MADE_ITEM_AT: Final = 12
_READ_RECORD: Final = 36

# As text: psi wants a folder in each path and Path drops the leading one.
_KEY, _TOKENS, _FOUND, _FOLDER = "./ub_key", "./ub_tokens.csv", "./ub_found.csv", "./ub_work"


@dataclass(frozen=True)
class SpuMasking:
    """A `crypto.joins.ports.Masking`, in the run's own folder, which is the working directory.

    link: SPU's own, between the two parties, whose ranks are 0 and 1
    """

    link: Any

    def mask(self, tokens: UInt8Array, secret: bytes) -> UInt8Array:
        self._make(tokens, secret)
        made = np.fromfile(Path(_FOLDER) / "ub_psi_cache.bin", dtype=np.uint8)
        items = made.reshape(-1, _MADE_RECORD)[:, _MADE_ITEM_AT : _MADE_ITEM_AT + MASKED_BYTES]
        if len(items) != len(tokens):
            raise EngineFailed(EngineFault.CRASHED, "masking the keys lost some of them")
        self._clean()
        return items

    def answer(self, secret: bytes) -> None:
        # It will not begin without rows of its own; they are not used.
        self._make(np.zeros((1, 16), dtype=np.uint8), secret)
        self._run(_server(psi.UbPsiMode.MODE_ONLINE), self.link)
        self._clean()

    def ask(self, tokens: UInt8Array, items: UInt8Array) -> Int64Array:
        self._clean()
        Path(_FOLDER).mkdir()
        records = np.zeros((len(items), _READ_RECORD), dtype=np.uint8)
        records[:, :MASKED_BYTES] = items
        records.tofile(Path(_FOLDER) / "server_cache")
        _write(tokens)
        config = psi.UbPsiExecuteConfig(
            mode=psi.UbPsiMode.MODE_ONLINE,
            role=psi.UbPsiRole.ROLE_CLIENT,
            server_receive_result=False,
            client_receive_result=True,
            cache_path=_FOLDER,
            input_params=_input(),
            output_params=psi.OutputParams(path=_FOUND),
        )
        report = self._run(config, self.link)
        with Path(_FOUND).open(encoding="ascii", newline="") as file:
            found = list(csv.DictReader(file))
        at = np.array([int(line["row"]) for line in found], dtype=np.int64)
        named = "".join(line["token"] for line in found)
        if len(found) != report.intersection_count or named != tokens[at].tobytes().hex():
            raise EngineFailed(EngineFault.CRASHED, "the intersection's result is not in order")
        self._clean()
        return at

    def _make(self, tokens: UInt8Array, secret: bytes) -> None:
        """Mask own tokens, without a peer."""
        self._clean()
        _write(tokens)
        Path(_KEY).write_bytes(secret)
        alone = libspu.link.Desc()
        alone.add_party("alone", "alone")
        mode = psi.UbPsiMode.MODE_OFFLINE_GEN_CACHE
        self._run(_server(mode), libspu.link.create_mem(alone, 0))

    def _run(self, config: Any, link: Any) -> Any:
        try:
            return psi.ub_psi_execute(config, link)
        except RuntimeError as error:
            raise EngineFailed(EngineFault.CRASHED, "the intersection was given up") from error

    def _clean(self) -> None:
        shutil.rmtree(_FOLDER, ignore_errors=True)
        for left in (_KEY, _TOKENS, _FOUND):
            Path(left).unlink(missing_ok=True)


@dataclass(frozen=True)
class SpuPeerLink:
    """A `crypto.joins.ports.PeerLink` over SPU's own link."""

    link: Any
    peer: int

    def send(self, payload: bytes) -> None:
        try:
            self.link.send(self.peer, payload)
        except RuntimeError as error:
            raise EngineFailed(EngineFault.PEER, "the peer's engine stopped answering") from error

    def receive(self) -> bytes:
        try:
            received: bytes = self.link.recv(self.peer)
        except RuntimeError as error:
            raise EngineFailed(EngineFault.PEER, "the peer's engine stopped answering") from error
        return received


def _server(mode: Any) -> Any:
    return psi.UbPsiExecuteConfig(
        mode=mode,
        role=psi.UbPsiRole.ROLE_SERVER,
        server_receive_result=False,
        client_receive_result=True,
        cache_path=_FOLDER,
        input_params=_input(),
        server_params=psi.UbPsiServerParams(secret_key_path=_KEY),
    )


def _input() -> Any:
    return psi.InputParams(path=_TOKENS, selected_keys=["token"], keys_unique=True)


def _write(tokens: UInt8Array) -> None:
    digits, width = tokens.tobytes().hex(), 2 * tokens.shape[1]
    with Path(_TOKENS).open("w", encoding="ascii") as file:
        file.write("token,row\n")
        file.writelines(f"{digits[width * i : width * (i + 1)]},{i}\n" for i in range(len(tokens)))
