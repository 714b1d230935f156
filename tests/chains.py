"""Chains for tests: one of our own that does as told, the simulated one, and anvil."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from ledger.adapters.evm import ChainKey, EvmAnchor, Finality, JsonRpc, create_key, deploy_anchor
from ledger.adapters.simulated_chain import SimulatedChain
from ledger.errors import ChainRefused, ChainUnreachable, ConsistencyRefused
from ledger.ports import AnchoredEvent, Block, ChainHead, ChainReceipt, Fee, Place
from ledger.verify.merkle import verify_consistency

ORIGIN = "log.example/deals"
GWEI = 10**9


@dataclass(frozen=True)
class Sent:
    """A transaction of the fake chain. head: None for a transfer, which anchors nothing."""

    hash: bytes
    account: str
    nonce: int
    fee: Fee
    head: tuple[int, bytes, tuple[bytes, ...]] | None


@dataclass
class FakeChain:
    """The anchor contract and one log, with blocks that are made and given up when told.

    mining:  whether a transaction is mined as soon as it is sent
    cheapest: a transaction that offers less a unit of gas waits
    """

    mining: bool = True
    cheapest: int = GWEI
    final: int | None = None
    silent: bool = False
    successor: str | None = None
    ended: int = 0
    anchorers: set[str] = field(default_factory=lambda: {"a", "b"})
    blocks: list[tuple[bytes, tuple[Sent, ...]]] = field(default_factory=lambda: [(b"\0" * 32, ())])
    pool: list[Sent] = field(default_factory=list)
    made: int = 0

    place = Place(31337, "0x" + "c0" * 20)

    def backend(self, account: str = "a") -> FakeBackend:
        return FakeBackend(self, account)

    def mine(self, count: int = 1) -> None:
        for number in range(count):
            nonces = {sent.account: self.nonce(sent.account) for sent in self.pool}
            taken: list[Sent] = []
            for sent in sorted(self.pool, key=lambda one: (one.nonce, -one.fee.max_wei)):
                fits = sent.nonce == nonces[sent.account] and sent.fee.max_wei >= self.cheapest
                if number == 0 and fits:
                    taken.append(sent)
                    nonces[sent.account] += 1
            self.pool = [one for one in self.pool if one.nonce >= nonces[one.account]]
            self.made += 1
            self.blocks.append((sha256(b"block %d" % self.made).digest(), tuple(taken)))

    def reorganise(self, depth: int) -> None:
        """Replace the newest blocks by as many empty ones; what they held is forgotten."""
        del self.blocks[-depth:]
        self.mine_empty(depth)

    def mine_empty(self, count: int) -> None:
        waiting, self.pool = self.pool, []
        self.mine(count)
        self.pool = waiting

    def spend(self, account: str) -> None:
        """A foreign program uses the account's key for a transfer of its own."""
        name = sha256(b"foreign %d" % self.made).digest()
        self.pool.append(Sent(name, account, self.nonce(account), Fee(10**12, 0), None))
        self.mine()

    def hand_over(self, successor: str) -> None:
        self.successor, self.ended = successor, len(self.blocks)

    def nonce(self, account: str) -> int:
        return sum(one.account == account for _, block in self.blocks for one in block)

    def run(self) -> tuple[list[AnchoredEvent], set[bytes]]:
        """Every head that the contract took, and the transactions that it reverted."""
        taken: list[AnchoredEvent] = []
        reverted: set[bytes] = set()
        for number, (name, block) in enumerate(self.blocks):
            for sent in block:
                if sent.head is None:
                    continue
                try:
                    self.check(number, taken, sent.account, *sent.head)
                except ChainRefused:
                    reverted.add(sent.hash)
                    continue
                size, root, _ = sent.head
                before = taken[-1].size if taken else 0
                taken.append(AnchoredEvent(size, root, before, sent.hash, Block(number, name)))
        return taken, reverted

    def check(
        self,
        number: int,
        taken: Sequence[AnchoredEvent],
        account: str,
        size: int,
        root: bytes,
        proof: Sequence[bytes],
    ) -> None:
        """The contract's rules. Raises ChainRefused."""
        if account not in self.anchorers:
            raise ChainRefused("not an anchorer of this log")
        if self.successor is not None and number >= self.ended:
            raise ChainRefused("handed over")
        if taken and size <= taken[-1].size:
            raise ChainRefused("size must grow")
        if not taken:
            if proof:
                raise ChainRefused("the first head has no proof")
            return
        try:
            verify_consistency(taken[-1].size, taken[-1].root, size, root, proof)
        except ConsistencyRefused:
            raise ChainRefused("not consistent") from None


class FakeBackend:
    """AnchorBackend on a fake chain, with one account."""

    def __init__(self, chain: FakeChain, account: str) -> None:
        self.chain = chain
        self.account = account

    @property
    def place(self) -> Place:
        return self.chain.place

    def head(self) -> ChainHead:
        self._ask()
        taken, _ = self.chain.run()
        last = taken[-1] if taken else None
        return ChainHead(
            last.size if last else 0,
            last.root if last else b"\0" * 32,
            last.block.number if last else 0,
            self.chain.successor,
            self.chain.nonce(self.account),
            Fee(2 * GWEI, GWEI),
            False,
        )

    def anchor(
        self,
        size: int,
        root: bytes,
        proof: Sequence[bytes],
        *,
        nonce: int,
        fee: Fee,
        keep: Callable[[bytes], None],
    ) -> None:
        self._ask()
        taken, _ = self.chain.run()
        self.chain.check(len(self.chain.blocks), taken, self.account, size, root, proof)
        text = f"{self.account} {nonce} {fee} {size} {root.hex()}"
        sent = Sent(
            sha256(text.encode()).digest(), self.account, nonce, fee, (size, root, (*proof,))
        )
        keep(sent.hash)
        same = [o for o in self.chain.pool if (o.account, o.nonce) == (sent.account, sent.nonce)]
        if any(fee.max_wei < one.fee.max_wei * 1.1 and one != sent for one in same):
            raise ChainRefused("replacement transaction underpriced")
        self.chain.pool = [one for one in self.chain.pool if one not in same] + [sent]
        if self.chain.mining:
            self.chain.mine()

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        self._ask()
        _, reverted = self.chain.run()
        for number, (name, block) in enumerate(self.chain.blocks):
            if any(one.hash == transaction for one in block):
                return ChainReceipt(Block(number, name), transaction in reverted, 87_000)
        waiting = any(one.hash == transaction for one in self.chain.pool)
        return ChainReceipt(None) if waiting else None

    def finality(self) -> int:
        self._ask()
        return len(self.chain.blocks) - 1 if self.chain.final is None else self.chain.final

    def events(self, first_block: int, last_block: int) -> Sequence[AnchoredEvent]:
        self._ask()
        taken, _ = self.chain.run()
        return [one for one in taken if first_block <= one.block.number <= last_block]

    def _ask(self) -> None:
        if self.chain.silent:
            raise ChainUnreachable("the chain's node did not answer")


@dataclass(frozen=True)
class EvmChain:
    """A deployed contract on a chain that speaks JSON-RPC, and an account that may anchor."""

    rpc: JsonRpc
    place: Place
    key: ChainKey

    def backend(self, finality: Finality = 1, key: ChainKey | None = None) -> EvmAnchor:
        return EvmAnchor(self.rpc, self.place, ORIGIN, key or self.key, finality)


def deployed(rpc: JsonRpc, key: ChainKey) -> EvmChain:
    made = deploy_anchor(rpc, key, ORIGIN, key.address, patience_s=20)
    return EvmChain(rpc, Place(made.chain_id, made.address), key)


def simulated(folder: Path) -> EvmChain:
    """A simulated chain in this process, asked without a network."""
    chain = SimulatedChain()

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=chain.answer(request.read()))

    key = create_key(folder / "simulated.key")
    chain.fund(key.address)
    rpc = JsonRpc("http://chain", httpx2.Client(transport=httpx2.MockTransport(answer)))
    return deployed(rpc, key)


def need_anvil() -> str:
    """The program, found as the product finds it; the test is skipped where there is none."""
    found = shutil.which("anvil")
    if found is None:
        why = "anvil is not on PATH; `npm install @foundry-rs/anvil` gives it"
        if os.environ.get("UNSEEN_CI") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return found


@contextlib.contextmanager
def anvil(*options: str) -> Iterator[JsonRpc]:
    """A node of its own on a free loopback port, ended in order."""
    node = subprocess.Popen(
        [need_anvil(), "--host", "127.0.0.1", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with httpx2.Client(trust_env=False) as client:
        try:
            assert node.stdout is not None
            for line in node.stdout:
                if line.startswith("Listening on "):
                    yield JsonRpc(f"http://{line.split()[-1]}", client)
                    return
            raise AssertionError("anvil ended before it listened")
        finally:
            node.send_signal(signal.SIGINT)
            node.communicate(timeout=20)


def funded(rpc: JsonRpc, path: Path) -> ChainKey:
    """A new key with money on an anvil chain."""
    key = create_key(path)
    rpc.ask("anvil_setBalance", key.address, hex(10**21))
    return key
