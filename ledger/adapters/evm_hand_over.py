"""Handing a log over from one anchor contract to its successor, on one chain.

The contracts say what is possible (docs/contracts.md): anchoring at the old one ends for good, and
the new one goes on from its last head. Four transactions of the administrator do it. Each is sent
only if the chain does not show its effect yet, so that whoever was cut short repeats the command,
and whoever repeats it after the end changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.adapters.evm import (
    ChainKey,
    JsonRpc,
    checksummed,
    contract_of,
    created_by,
    deploy,
    log_id,
    read_address,
    require_contract,
    transact,
)
from ledger.contracts import load
from ledger.errors import ChainRefused
from ledger.ports import Place

_NOBODY = bytes(20)


@dataclass(frozen=True)
class HandedOver:
    """successor: where the log is anchored from now on. size: of the head that it goes on from.

    sent: the acts that this run had to send, of `deploy`, `hand_over`, `take_over`, `grant`.
    """

    successor: Place
    size: int
    sent: tuple[str, ...]


def hand_over(
    rpc: JsonRpc,
    key: ChainKey,
    origin: str,
    old: str,
    anchorer: str,
    *,
    successor: str | None,
    patience_s: float,
) -> HandedOver:
    """Move the log from the contract `old` to another, and let `anchorer` anchor it there.

    key:       the administrator's of both contracts
    successor: one that is there, and has not begun the log; None to deploy it. What was handed
               over already goes to the contract that `old` names.
    Raises ChainRefused, WrongChain, ChainUnreachable, TimeoutError; then repeat it.
    """
    sent: list[str] = []
    anchorer = read_address(anchorer)
    successor = None if successor is None else read_address(successor)
    place = Place(rpc.quantity("eth_chainId"), read_address(old))
    require_contract(rpc, place, "anchor")
    before = _Contract(rpc, key, place, origin, patience_s)
    before.require_administrator()
    named = before.address("successor")
    if named is not None and successor not in (None, named):
        raise ChainRefused(f"{old} has handed this log over to {named}, not to {successor}")
    if before.size() == 0:
        raise ChainRefused(f"{old} holds no head of this log: there is nothing to hand over")
    new = named or successor or _deployed_last(rpc, key, origin, patience_s)
    if new is None:
        new = deploy(rpc, key, "anchor", patience_s=patience_s).address
        sent.append("deploy")
    require_contract(rpc, Place(place.chain_id, new), "anchor")
    after = _Contract(rpc, key, Place(place.chain_id, new), origin, patience_s)
    after.require_administrator()  # before anything that cannot be taken back
    if named is None:
        before.act("hand_over", new)
        sent.append("hand_over")
    if not after.flag("begun"):
        after.act("take_over", place.contract)
        sent.append("take_over")
    if after.address("predecessor") != place.contract:
        raise ChainRefused(f"{new} has begun this log anew, and does not continue {old}")
    if not after.flag("is_anchorer", anchorer):
        after.act("grant", anchorer)
        sent.append("grant")
    return HandedOver(after.place, before.size(), tuple(sent))


class _Contract:
    """One anchor contract, asked and told about one log."""

    def __init__(
        self, rpc: JsonRpc, key: ChainKey, place: Place, origin: str, patience_s: float
    ) -> None:
        self.place = place
        self._rpc = rpc
        self._key = key
        self._log = log_id(origin)
        self._patience_s = patience_s
        self._abi = contract_of(load("anchor").abi)

    def act(self, name: str, address: str) -> None:
        data = self._encode(name, self._log, checksummed(address))
        call = {"to": self.place.contract, "data": data}
        transact(self._rpc, self._key, self.place.chain_id, call, self._patience_s)

    def address(self, name: str) -> str | None:
        found = self._word(name, self._log)[-20:]
        return None if found == _NOBODY else f"0x{found.hex()}"

    def flag(self, name: str, *addresses: str) -> bool:
        return any(self._word(name, self._log, *map(checksummed, addresses)))

    def size(self) -> int:
        return int.from_bytes(self._word("head", self._log))

    def require_administrator(self) -> None:
        found = f"0x{self._word('administrator')[-20:].hex()}"
        if found != self._key.address:
            raise ChainRefused(
                f"the administrator of {self.place.contract} is {found}, and the key is of "
                f"{self._key.address}"
            )

    def _word(self, name: str, *arguments: object) -> bytes:
        """The first word of an answer, as of the newest block."""
        call = {"to": self.place.contract, "data": self._encode(name, *arguments)}
        answer = self._rpc.data("eth_call", call, "latest")
        if not answer or len(answer) % 32:
            self._rpc.lied("eth_call")
        return answer[:32]

    def _encode(self, name: str, *arguments: object) -> str:
        return str(self._abi.encode_abi(name, args=list(arguments)))


def _deployed_last(rpc: JsonRpc, key: ChainKey, origin: str, patience_s: float) -> str | None:
    """The contract that the account's last transaction made, if it is one that has begun nothing
    of this log: a run that was cut short after deploying goes on with it."""
    made = rpc.quantity("eth_getTransactionCount", key.address, "latest") - 1
    if made < 0:
        return None
    address = created_by(key, made)
    place = Place(rpc.quantity("eth_chainId"), address)
    if rpc.data("eth_getCode", address, "latest") != bytes.fromhex(load("anchor").runtime[2:]):
        return None
    found = _Contract(rpc, key, place, origin, patience_s)
    return None if found.flag("begun") or found.address("successor") else address
