"""The register of rights on an EVM chain: RightsRegistry over JSON-RPC.

Source: the contract `ledger/contracts/Rights.vy`. web3.py encodes and signs; answers are read
here, word by word, since whoever runs the node may be mistaken or lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ledger.adapters.evm import (
    ChainKey,
    Deployed,
    JsonRpc,
    checksummed,
    contract_of,
    deploy,
    require_contract,
    transact,
)
from ledger.contracts import load
from ledger.errors import ChainRefused, ChainUnreachable
from ledger.ports import (
    LicenceTerms,
    Place,
    RegisteredDispute,
    RegisteredLicence,
    RegisteredRight,
    RightState,
    RightTerms,
)

if TYPE_CHECKING:
    from web3.contract import Contract

KINDS: Final = ("holding", "processing", "operating")
"""Kinds of right to begin with; the registry's administrator allows others."""
_NONE: Final = b"\0" * 32
_KIND_BYTES: Final = 32
# As the contract's state() numbers them; 0 is a right that it does not know.
_STATES: Final = (
    RightState.PUBLICISED,
    RightState.OBJECTED,
    RightState.CERTIFIED,
    RightState.DISPUTED,
    RightState.CANCELLED,
    RightState.REVOKED,
    RightState.EXPIRED,
    RightState.LAPSED,
)
_RIGHT_WORDS: Final = 14
_LICENCE_WORDS: Final = 6
_DISPUTE_WORDS: Final = 6


class EvmRights:
    """RightsRegistry on one contract, for one account.

    key: of a registrar, a holder or a manager; the contract decides what it may do
    patience_s: how long an act waits to be mined
    """

    def __init__(self, rpc: JsonRpc, place: Place, key: ChainKey, *, patience_s: float) -> None:
        self._rpc = rpc
        self._place = place
        self._key = key
        self._patience_s = patience_s
        self._contract: Contract | None = None

    def register(self, entry: bytes, terms: RightTerms) -> None:
        self._act(
            "register",
            entry,
            terms.asset,
            _kind(terms.kind),
            checksummed(terms.holder),
            terms.parent or _NONE,
            terms.content_hash,
            _seconds(terms.valid_until),
            _seconds(terms.notice_until),
        )

    def certify(self, entry: bytes, right: bytes) -> None:
        self._act("certify", entry, right)

    def transfer(self, entry: bytes, right: bytes, holder: str, *, licences: int) -> None:
        self._act("transfer", entry, right, checksummed(holder), licences)

    def change(self, entry: bytes, right: bytes, content_hash: bytes) -> None:
        self._act("change", entry, right, content_hash)

    def cancel(self, entry: bytes, right: bytes) -> None:
        self._act("cancel", entry, right)

    def renew(self, entry: bytes, right: bytes, valid_until: datetime) -> None:
        self._act("renew", entry, right, _seconds(valid_until))

    def license(self, entry: bytes, right: bytes, terms: LicenceTerms) -> None:
        hashes = (terms.terms_hash, terms.scope_hash)
        grantee = checksummed(terms.grantee)
        self._act("license", entry, right, grantee, *hashes, _seconds(terms.expires))

    def revoke(self, entry: bytes, right: bytes, licence: bytes) -> None:
        self._act("revoke", entry, right, licence)

    def dispute(self, entry: bytes, right: bytes, claimant: bytes, evidence_hash: bytes) -> None:
        self._act("dispute", entry, right, claimant, evidence_hash)

    def rule(self, entry: bytes, dispute: bytes, ruling_hash: bytes, *, upheld: bool) -> None:
        self._act("rule", entry, dispute, upheld, ruling_hash)

    def recorded(self, entry: bytes) -> bool:
        (answer,) = self._read(self._newest(), 1, "recorded", entry)
        return _flag(answer)

    def right(self, right: bytes) -> RegisteredRight | None:
        at = self._newest()
        (state,) = self._read(at, 1, "state", right)
        stored = self._read(at, _RIGHT_WORDS, "right_of", right)
        number = _integer(state)
        if number == 0:
            return None
        if number > len(_STATES):
            raise _untrue()
        terms = RightTerms(
            stored[0],
            _name(stored[1]),
            _address(stored[2]),
            None if stored[3] == _NONE else stored[3],
            stored[4],
            _time(stored[6]),
            _time(stored[7]),
        )
        registrar = _address(stored[5])
        tenure, licences, disputes = (_integer(word) for word in stored[9:12])
        return RegisteredRight(terms, _STATES[number - 1], registrar, tenure, licences, disputes)

    def licence(self, right: bytes, licence: bytes) -> RegisteredLicence | None:
        at = self._newest()
        stored = self._read(at, _LICENCE_WORDS, "licence_of", right, licence)
        (in_force,) = self._read(at, 1, "is_licensed", right, licence)
        if stored[0] == _NONE:
            return None
        terms = LicenceTerms(_address(stored[0]), stored[1], stored[2], _time(stored[3]))
        return RegisteredLicence(terms, _flag(stored[5]), _flag(in_force))

    def disputed(self, dispute: bytes) -> RegisteredDispute | None:
        stored = self._read(self._newest(), _DISPUTE_WORDS, "dispute_of", dispute)
        if stored[0] == _NONE:
            return None
        ruling = None if stored[3] == _NONE else stored[3]
        upheld, objection = _flag(stored[5]), _flag(stored[4])
        return RegisteredDispute(stored[0], stored[1], stored[2], ruling, objection, upheld)

    def _act(self, name: str, *arguments: object) -> None:
        require_contract(self._rpc, self._place, "rights")
        call = {"to": self._place.contract, "data": self._encode(name, *arguments)}
        transact(self._rpc, self._key, self._place.chain_id, call, self._patience_s)

    def _newest(self) -> str:
        """The newest block, for reads that belong together: the chain may grow between them."""
        require_contract(self._rpc, self._place, "rights")
        return hex(self._rpc.quantity("eth_blockNumber"))

    def _read(self, at: str, wanted: int, name: str, *arguments: object) -> Sequence[bytes]:
        call = {"to": self._place.contract, "data": self._encode(name, *arguments)}
        answer = self._rpc.data("eth_call", call, at)
        if len(answer) != 32 * wanted:
            raise _untrue()
        return [answer[start : start + 32] for start in range(0, len(answer), 32)]

    def _encode(self, name: str, *arguments: object) -> str:
        if self._contract is None:
            self._contract = contract_of(load("rights").abi)
        return str(self._contract.encode_abi(name, args=list(arguments)))


def deploy_rights(
    rpc: JsonRpc,
    key: ChainKey,
    registrars: Sequence[str],
    *,
    kinds: Sequence[str] = KINDS,
    patience_s: float,
) -> Deployed:
    """Put the register on the chain, with its registrars and the kinds of right it knows.

    key: the administrator's, whose account is no registrar. registrars: at least two, since one
    certifies what another registered. Raises ChainRefused, ChainUnreachable, TimeoutError.
    """
    if len({one.lower() for one in registrars}) < 2:
        raise ChainRefused("name two registrars: one certifies what the other registered")
    made = deploy(rpc, key, "rights", patience_s=patience_s)
    contract = contract_of(load("rights").abi)
    settings: list[tuple[str, list[object]]] = [
        *(("set_registrar", [checksummed(one), True]) for one in registrars),
        *(("set_kind", [_kind(one), True]) for one in kinds),
    ]
    for name, arguments in settings:
        call = {"to": made.address, "data": str(contract.encode_abi(name, args=arguments))}
        transact(rpc, key, made.chain_id, call, patience_s)
    return made


def _kind(name: str) -> bytes:
    if not name.isascii() or not name.isprintable() or not 0 < len(name) <= _KIND_BYTES:
        raise ChainRefused(f"{name!r} is no kind of right: 1 to {_KIND_BYTES} ASCII characters")
    return name.encode("ascii").ljust(_KIND_BYTES, b"\0")


def _name(word: bytes) -> str:
    """For reading: whatever an administrator has allowed, in one line of ASCII."""
    return word.rstrip(b"\0").decode("ascii", "backslashreplace")


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def _time(word: bytes) -> datetime:
    """The contract takes times that no calendar has; they are far away."""
    try:
        return datetime.fromtimestamp(_integer(word), UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _integer(word: bytes) -> int:
    value = int.from_bytes(word, "big")
    if value >= 2**64:
        raise _untrue()
    return value


def _flag(word: bytes) -> bool:
    value = _integer(word)
    if value > 1:
        raise _untrue()
    return value == 1


def _address(word: bytes) -> str:
    if any(word[:12]):
        raise _untrue()
    return "0x" + word[12:].hex()


def _untrue() -> ChainUnreachable:
    return ChainUnreachable("the chain's node answered eth_call outside the protocol")
