"""One party's slice of an SPU 0.9.5 virtual machine: its link, its variables, its programs.

Shares are read from and written to SPU's own storage, whose layout is not promised: the version is
pinned here, and every adapter compares a known answer when a child starts (`check_layout`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import jax
import numpy as np
import spu  # type: ignore[import-untyped]  # ships without types
from spu import libspu
from spu.utils import frontend  # type: ignore[import-untyped]  # ships without types

from crypto.engine import EngineStage, Seat
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.rows import Int64Array

SPU_VERSION: Final = "0.9.5"
CONNECT_RETRY_MS: Final = 200
SECRET: Final = libspu.Visibility.VIS_SECRET
PUBLIC: Final = libspu.Visibility.VIS_PUBLIC

OnStage = Callable[[EngineStage], None]

jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]  # as jax has it


def require_version() -> None:
    if version("spu") != SPU_VERSION:
        raise EngineFailed(EngineFault.LAYOUT, f"spu is {version('spu')}, not {SPU_VERSION}")


def connect(seat: Seat) -> Any:
    """SPU's own link between the parties of an attempt, once it stands at each of them.

    Raises EngineFailed (peer).
    """
    desc = libspu.link.Desc()
    desc.id = seat.attempt
    for name, peer in zip("ABC", seat.peers, strict=False):  # a third holder uploads, no more
        desc.add_party(name, peer or seat.listen)
    desc.connect_retry_interval_ms = CONNECT_RETRY_MS
    desc.connect_retry_times = 1 + seat.connect_timeout_ms // CONNECT_RETRY_MS
    desc.recv_timeout_ms = seat.receive_timeout_ms
    desc.http_timeout_ms = seat.receive_timeout_ms
    deadline = time.monotonic() + seat.connect_timeout_ms / 1000
    made: list[Any] = []

    def dial() -> None:
        # Its port may still be held by channels that have just closed, so it may take a few tries.
        while not made and time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                made.append(libspu.link.create_brpc(desc, seat.rank))
                return
            time.sleep(CONNECT_RETRY_MS / 1000)

    # One retry can last as long as one message may, so counting retries bounds nothing. A thread
    # left behind dies with this process, which has nothing to do without a peer.
    thread = threading.Thread(target=dial, daemon=True)
    thread.start()
    thread.join(seat.connect_timeout_ms / 1000)
    if not made:
        raise EngineFailed(EngineFault.PEER, "the peer's engine could not be reached")
    # An intersection greets its peer once more, with the message that made this link, and the link
    # keeps one of them: a second greeting that overtakes the peer's look at the first is lost, and
    # both wait for it until the time of a message is up. Nobody has answered here before it looked.
    exchange(made[0], "")
    return made[0]


def exchange(link: Any, own: str) -> list[str]:
    """Every party's text, by rank. Raises EngineFailed (peer)."""
    try:
        said: list[str] = link.all_gather(own)
    except RuntimeError as error:
        raise EngineFailed(EngineFault.PEER, "the peer's engine stopped answering") from error
    return said


def in_process(parties: int, take_part: Callable[[Any, int], Any]) -> list[Any]:
    """What `take_part(link, rank)` gives for every rank, all in threads of this process.

    Raises EngineFailed (layout): it is there for known answers.
    """
    desc = libspu.link.Desc()
    for rank in range(parties):
        desc.add_party("ABC"[rank], "abc"[rank])
    found: dict[int, Any] = {}
    problems: list[Exception] = []

    def play(rank: int) -> None:
        try:
            link = libspu.link.create_mem(desc, rank)
            found[rank] = take_part(link, rank)
            link.stop_link()
        except (EngineFailed, RuntimeError) as error:
            problems.append(error)

    threads = [threading.Thread(target=play, args=(r,), daemon=True) for r in range(parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise EngineFailed(EngineFault.LAYOUT, "a known computation failed") from problems[0]
    return [found[rank] for rank in range(parties)]


class Machine:
    """The virtual machine of one party."""

    def __init__(self, link: Any, rank: int, parties: int, runtime: str) -> None:
        """runtime: SPU's RuntimeConfig as JSON."""
        config = libspu.RuntimeConfig()
        config.ParseFromJsonString(runtime)
        self._runtime = spu.Runtime(link, config)
        self._io = spu.Io(parties, config)
        self._rank = rank

    def give(self, name: str, values: Int64Array, *, owner: int) -> None:
        """A secret. values: read at its owner alone; elsewhere only the shape counts."""
        shares = self._io.make_shares(np.ascontiguousarray(values), SECRET, owner)
        self._runtime.set_var(name, shares[self._rank])

    def give_public(self, name: str, values: Int64Array) -> None:
        """What all parties know, and give alike."""
        shares = self._io.make_shares(np.ascontiguousarray(values), PUBLIC)
        self._runtime.set_var(name, shares[self._rank])

    def put(self, name: str, storage: str, shape: tuple[int, ...], content: bytes) -> None:
        """This party's part of a shared variable, in SPU's own storage: the counterpart of `take`.

        Raises EngineFailed (layout) if SPU would not store such a variable as `storage` says.
        """
        blank = self._io.make_shares(np.zeros(shape, dtype=np.int64), SECRET)[self._rank]
        _require_storage(blank, storage)
        chunk = libspu.ValueChunk()
        chunk.total_bytes, chunk.content = len(content), content
        share = libspu.Share()
        share.meta, share.share_chunks = blank.meta, [chunk.SerializeToString()]
        self._runtime.set_var(name, share)

    def keep(self, name: str) -> Any:
        """A variable as it is, for `restore`."""
        return self._runtime.get_var(name)

    def restore(self, name: str, kept: Any) -> None:
        self._runtime.set_var(name, kept)

    def execute(self, executable: Any) -> None:
        try:
            self._runtime.run(executable)
        except RuntimeError as error:
            raise EngineFailed(EngineFault.CRASHED, "the computation was given up") from error

    def take(self, name: str, storage: str, words: int) -> bytes:
        """This party's raw storage of a variable: `words` words of 64 bits.

        Raises EngineFailed (layout) if it is not stored as `storage` says.
        """
        share, chunks = self._runtime.get_var(name), []
        _require_storage(share, storage)
        at = 0
        for raw in share.share_chunks:
            chunk = libspu.ValueChunk()
            chunk.ParseFromString(raw)
            if chunk.chunk_offset != at or chunk.total_bytes != 8 * words:
                raise EngineFailed(EngineFault.LAYOUT, "the output share has another size")
            chunks.append(chunk.content)
            at += len(chunk.content)
        if at != 8 * words:
            raise EngineFailed(EngineFault.LAYOUT, "the output share has another size")
        return b"".join(chunks)


def _require_storage(share: Any, storage: str) -> None:
    meta = libspu.ValueMeta()
    meta.ParseFromString(share.meta)
    if meta.storage_type != storage:
        raise EngineFailed(EngineFault.LAYOUT, f"a share is not stored as {storage}")


def program(
    function: Callable[..., Any],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    *,
    public: frozenset[str] = frozenset(),
) -> Any:
    """`function` over int64 arrays of these names and shapes, compiled for `Machine.execute`."""
    executable, _ = frontend.compile(
        frontend.Kind.JAX,
        function,
        [np.zeros(shape, dtype=np.int64) for shape in inputs.values()],  # for their shapes
        {},
        list(inputs),
        [PUBLIC if name in public else SECRET for name in inputs],
        lambda _: list(outputs),
    )
    return executable
