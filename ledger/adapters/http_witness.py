"""A witness over HTTP, as C2SP tlog-witness says."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final, NoReturn

import httpx2

from ledger.errors import (
    FormatRefused,
    WitnessAt,
    WitnessDisagrees,
    WitnessUnreachable,
)
from ledger.verify.deadline import within
from ledger.verify.note import Note, Signature, VerifierKey, parse_lines
from ledger.verify.text import decode_decimal, decode_utf8
from ledger.witness import SIZE, AddCheckpoint

TIMEOUT_S: Final = 10.0  # for a whole request
MAX_ANSWER_BYTES: Final = 1 << 16


class HttpWitness:
    """WitnessPort. url: the submission prefix. keys: the witness's, of the policy.

    client: whoever makes it decides about proxies and certificates, and closes it.
    """

    def __init__(self, url: str, keys: Sequence[VerifierKey], client: httpx2.Client) -> None:
        self._url = url.rstrip("/") + "/add-checkpoint"
        self._keys = tuple(keys)
        self._client = client
        self._under_way = threading.Lock()

    @property
    def key(self) -> VerifierKey:
        return self._keys[0]

    @property
    def keys(self) -> Sequence[VerifierKey]:
        return self._keys

    def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: Note
    ) -> Sequence[Signature]:
        body = AddCheckpoint(old_size, tuple(proof), note.to_bytes()).to_bytes()
        status, content_type, answer = self._post(body)
        try:
            if status == 200:
                return parse_lines(decode_utf8(answer, where="answer"))
            if status == 409 and content_type == SIZE:
                text = decode_utf8(answer, where="answer")
                raise WitnessAt(decode_decimal(text.removesuffix("\n"), where="stated size"))
        except FormatRefused as error:
            raise WitnessUnreachable(f"{self.key.name} answered {error}") from error
        self._refused(status, answer)

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body, of which no more than is expected is read, nor for
        longer: a witness that drips must not keep the log from the others' cosignatures."""
        # A request that was given up may go on for long, so that there is one of them at most.
        if not self._under_way.acquire(timeout=TIMEOUT_S):
            raise WitnessUnreachable(f"{self.key.name} has not ended its answer to an earlier call")
        try:
            return within(TIMEOUT_S, lambda: self._exchange(body))
        except TimeoutError as error:
            raise WitnessUnreachable(f"{self.key.name}: {error}") from error

    def _exchange(self, body: bytes) -> tuple[int, str, bytes]:
        deadline = time.monotonic() + TIMEOUT_S
        try:
            with self._client.stream(
                "POST", self._url, content=body, timeout=TIMEOUT_S
            ) as response:
                answer = b""
                for chunk in response.iter_bytes():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        raise WitnessUnreachable(f"{self.key.name} answered without end")
                return response.status_code, response.headers.get("content-type", ""), answer
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise WitnessUnreachable(f"{self.key.name} did not answer: {error}") from error
        finally:
            self._under_way.release()

    def _refused(self, status: int, answer: bytes) -> NoReturn:
        why = answer[:200].decode("utf-8", "replace").strip()
        text = f"{self.key.name} answered {status}: {why}"
        if status == 422:
            raise WitnessDisagrees(text)
        # A 403 or 404 may come from a proxy, or from a witness that has not been told our key.
        raise WitnessUnreachable(text)
