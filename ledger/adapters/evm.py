"""Anchor contracts on an EVM chain, over JSON-RPC: AnchorBackend, keys, and deployment.

Source: Ethereum JSON-RPC (execution-apis), EIP-155, EIP-1559 and EIP-2718 for transactions, the
contract ABI in `ledger.contracts`. web3.py encodes calls and signs; answers are read here, and
strictly: whoever runs the node may be mistaken or lie, and of another type than the protocol's
an answer is none. web3 is imported when it is first needed; it takes a second.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import httpx2

from crypto.errors import KeyFileRefused
from crypto.keys import write_secret
from ledger.contracts import ContractName, load
from ledger.errors import ChainRefused, ChainUnreachable, WrongChain
from ledger.ports import AnchoredEvent, Block, ChainHead, ChainReceipt, Fee, Place
from ledger.verify.anchor import SIMULATED_CLIENTS
from ledger.verify.deadline import within
from ledger.verify.merkle import MAX_SIZE

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount
    from web3.contract import Contract

TIMEOUT_S: Final = 10.0  # for a whole call
MAX_UNDER_WAY: Final = 8  # calls of one JsonRpc, those included that were given up
MAX_ANSWER_BYTES: Final = 1 << 24
# An anchor with the longest possible proof needs less than 300,000 (docs/contracts.md).
MAX_ANCHOR_GAS: Final = 500_000
GAS_MARGIN_PERCENT: Final = 25  # above the estimate, which holds for the state it was made on
FUNDS_WEI: Final = 1_000 * 10**18  # of a development chain, for an account that it is asked to fund
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
# Of chain ids, numbers, gas and wei, nothing honest is larger than a database's integer.
_QUANTITY: Final = re.compile(r"0x(0|[1-7][0-9a-f]{0,15}|[89a-f][0-9a-f]{0,14})")
_DATA: Final = re.compile(r"0x([0-9a-fA-F]{2})*")
_KEY: Final = re.compile(r"0x[0-9a-f]{64}\n")
_NOBODY: Final = "0x" + "0" * 40


_IMPORTING: Final = threading.Lock()


@contextmanager
def shallow() -> Iterator[None]:
    """Around every import of web3 and its kin: they let Python call 100,000 deep (py_ecc, py-evm).

    At that limit JSON from a stranger, nested deeply enough, overflows the stack and ends the
    process, where a RecursionError should refuse it.
    """
    with _IMPORTING:
        limit = sys.getrecursionlimit()
        try:
            yield
        finally:
            sys.setrecursionlimit(limit)


def log_id(origin: str) -> bytes:
    """What the contract calls a log: SHA-256 of its origin."""
    return sha256(origin.encode("utf-8")).digest()


class RpcError(ChainUnreachable):
    """The node's own refusal. code, message: as it worded them."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"the chain's node refuses {method}: {message}")
        self.code = code
        self.reason = message


class JsonRpc:
    """Calls to one node. url: http or https. client: whoever makes it decides about proxies and
    certificates, and closes it."""

    def __init__(self, url: str, client: httpx2.Client) -> None:
        self._url = url
        self._client = client
        self._numbers = itertools.count(1)  # requests may be sent from several threads
        self._under_way = threading.Semaphore(MAX_UNDER_WAY)

    def ask(self, method: str, *params: object) -> Any:
        """The result, of whatever type. Raises ChainUnreachable, RpcError."""
        number = next(self._numbers)
        call = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        try:
            answer = json.loads(self._post(json.dumps(call).encode()))
        except (ValueError, RecursionError) as error:  # the latter: nested too deeply to be read
            raise ChainUnreachable("the chain's node answered what is not JSON") from error
        if not isinstance(answer, dict) or answer.get("id") != number:
            self.lied(method)
        refusal = answer.get("error")
        if refusal is not None:
            if not isinstance(refusal, dict):
                self.lied(method)
            code, message = refusal.get("code"), refusal.get("message")
            if not isinstance(code, int) or not isinstance(message, str):
                self.lied(method)
            raise RpcError(method, code, message[:300])
        if "result" not in answer:
            self.lied(method)
        return answer["result"]

    def quantity(self, method: str, *params: object) -> int:
        return _quantity(self.ask(method, *params), method)

    def data(self, method: str, *params: object) -> bytes:
        return _data(self.ask(method, *params), method)

    def block(self, name: str) -> Mapping[str, Any]:
        """A block without its transactions. name: a tag, or a number in hexadecimal."""
        found = self.ask("eth_getBlockByNumber", name, False)
        if not isinstance(found, dict):
            raise ChainUnreachable(f"the chain's node has no block {name}")
        return found

    def lied(self, method: str) -> NoReturn:
        raise _untrue(method)

    def _post(self, body: bytes) -> bytes:
        # What was given up may go on for long, so that there can't be any number of it.
        if not self._under_way.acquire(timeout=TIMEOUT_S):
            raise ChainUnreachable("the chain's node has not ended its answers to earlier calls")
        try:
            return within(TIMEOUT_S, lambda: self._exchange(body))
        except TimeoutError as error:
            raise ChainUnreachable(f"the chain's node: {error}") from error

    def _exchange(self, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        deadline = time.monotonic() + TIMEOUT_S
        try:
            with self._client.stream(
                "POST", self._url, content=body, headers=headers, timeout=TIMEOUT_S
            ) as response:
                answer = bytearray()
                for chunk in response.iter_bytes():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        raise ChainUnreachable("the chain's node answered without end")
                # Some nodes send errors of the protocol with status 400 or 500.
                if response.status_code >= 300 and not answer.startswith(b"{"):
                    raise ChainUnreachable(
                        f"the chain's node answered with status {response.status_code}"
                    )
                return bytes(answer)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ChainUnreachable(f"the chain's node did not answer: {error}") from error
        finally:
            self._under_way.release()


class ChainKey:
    """An account's secp256k1 key, which signs transactions. Prints its address only."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return f"ChainKey({self.address})"

    @cached_property
    def account(self) -> LocalAccount:
        with shallow():
            from eth_account import Account

        found: LocalAccount = Account.from_key(self._secret)
        return found

    @property
    def address(self) -> str:
        return str(self.account.address).lower()


def create_key(path: Path) -> ChainKey:
    """A new key in a file of mode 0600: 0x, 64 hexadecimal digits, a newline, as every EVM
    program reads it. Raises ChainRefused where a file is already."""
    secret = b"\0" * 32
    while not any(secret) or secret >= _ORDER:
        secret = secrets.token_bytes(32)
    try:
        write_secret(path, b"0x" + secret.hex().encode("ascii") + b"\n")
    except KeyFileRefused as error:
        raise ChainRefused(str(error)) from None
    return ChainKey(secret)


def read_key(path: Path) -> ChainKey:
    """Raises ChainRefused, saying what is wrong with the file and nothing of what is in it."""
    try:
        mode, text = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ChainRefused(f"{path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise ChainRefused(f"{path} can be read by others; run chmod 600 on it")
    if not _KEY.fullmatch(text.decode("ascii", "replace")):
        raise ChainRefused(f"{path} does not hold 0x, 64 hexadecimal digits and a newline")
    secret = bytes.fromhex(text[2:66].decode("ascii"))
    if not any(secret) or secret >= _ORDER:
        raise ChainRefused(f"{path} holds a number that is no key")
    return ChainKey(secret)


# Of the curve secp256k1 (SEC 2, section 2.4.1); a key is a number from 1 to below it.
_ORDER: Final = bytes.fromhex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")

Finality = int | Literal["finalized"]
"""The chain's `finalized` tag; or so many blocks, its own included: 1 where a block is final at
once, as in PBFT."""


class EvmAnchor:
    """AnchorBackend on one contract. Asks nothing until it is used."""

    def __init__(
        self, rpc: JsonRpc, place: Place, origin: str, key: ChainKey, finality: Finality
    ) -> None:
        self._rpc = rpc
        self._place = place
        self._log = log_id(origin)
        self._key = key
        self._finality = finality
        self._contract: Contract | None = None

    @property
    def place(self) -> Place:
        return self._place

    def head(self) -> ChainHead:
        require_contract(self._rpc, self._place, "anchor")  # on every round
        newest = self._rpc.block("latest")
        # All of it as of one block: between two calls the chain may grow or change its mind.
        at = hex(_quantity(newest.get("number"), "eth_getBlockByNumber"))
        size, root, block = self._view("head", at)
        successor = "0x" + bytes(self._view("successor", at)[0][-20:]).hex()
        return ChainHead(
            size,
            root,
            block,
            None if successor == _NOBODY else successor,
            self._rpc.quantity("eth_getTransactionCount", self._key.address, at),
            usual_fee(self._rpc, newest),
            is_simulated(self._rpc),
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
        data = self._encode("anchor", self._log, size, root, list(proof))
        call = {"from": self._key.address, "to": self._place.contract, "data": data}
        signed = sign(
            self._rpc, self._key, self._place.chain_id, nonce, fee, call, max_gas=MAX_ANCHOR_GAS
        )
        keep(bytes(signed.hash))
        send(self._rpc, bytes(signed.raw_transaction))

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        return receipt(self._rpc, transaction)

    def finality(self) -> int:
        if self._finality == "finalized":
            found = self._rpc.block("finalized")
            return _quantity(found.get("number"), "eth_getBlockByNumber")
        return self._rpc.quantity("eth_blockNumber") - self._finality + 1

    def events(self, first_block: int, last_block: int) -> Sequence[AnchoredEvent]:
        topic = "0x" + self._web3().events.Anchored().topic.removeprefix("0x")
        found = self._rpc.ask(
            "eth_getLogs",
            {
                "address": self._place.contract,
                "fromBlock": hex(first_block),
                "toBlock": hex(last_block),
                "topics": [topic, "0x" + self._log.hex()],
            },
        )
        if not isinstance(found, list):
            self._rpc.lied("eth_getLogs")
        return [self._event(one, topic) for one in found]

    def _event(self, found: object, topic: str) -> AnchoredEvent:
        """Read by hand: the two indexed words, and the two in the data."""
        method = "eth_getLogs"
        if not isinstance(found, dict) or not isinstance(found.get("topics"), list):
            self._rpc.lied(method)
        topics = [_hash(one, method) for one in found["topics"]]
        data = _data(found.get("data"), method)
        address = str(found.get("address")).lower()
        expected = [bytes.fromhex(topic[2:]), self._log]
        if address != self._place.contract or topics[:2] != expected or len(topics) != 3:
            self._rpc.lied(method)
        if len(data) != 64:
            self._rpc.lied(method)
        return AnchoredEvent(
            _number(topics[2], method),
            data[:32],
            _number(data[32:], method),
            _hash(found.get("transactionHash"), method),
            _block(found, method),
        )

    def _view(self, name: str, at: str) -> tuple[Any, ...]:
        call = {"to": self._place.contract, "data": self._encode(name, self._log)}
        words = self._rpc.data("eth_call", call, at)
        wanted = {"head": 3, "successor": 1}[name]
        if len(words) != 32 * wanted:
            self._rpc.lied("eth_call")
        parts = [words[start : start + 32] for start in range(0, len(words), 32)]
        if name == "successor":
            return (parts[0],)
        return _number(parts[0], "eth_call"), parts[1], _number(parts[2], "eth_call")

    def _encode(self, name: str, *arguments: object) -> str:
        return str(self._web3().encode_abi(name, args=list(arguments)))

    def _web3(self) -> Contract:
        if self._contract is None:
            self._contract = contract_of(load("anchor").abi)
        return self._contract


def require_contract(rpc: JsonRpc, place: Place, name: ContractName) -> None:
    """Raises WrongChain: behind one address there may be another node tomorrow."""
    chain = rpc.quantity("eth_chainId")
    if chain != place.chain_id:
        raise WrongChain(f"the node is of chain {chain}, and the settings name {place.chain_id}")
    code = rpc.data("eth_getCode", place.contract, "latest")
    if not code:
        raise WrongChain(
            f"there is no contract at {place.contract} of chain {chain}; "
            "`exchange chain deploy` makes one"
        )
    if code != bytes.fromhex(load(name).runtime[2:]):
        raise WrongChain(
            f"the contract at {place.contract} is not the {name} contract of this release"
        )


@dataclass(frozen=True)
class Deployed:
    """address: of the contract. chain_id: of the chain. block: that holds the deployment.

    simulated: the node says of itself that its chain is for development
    """

    address: str
    chain_id: int
    block: int
    gas_used: int
    simulated: bool


def deploy_anchor(
    rpc: JsonRpc, key: ChainKey, origin: str, anchorer: str | None, *, patience_s: float
) -> Deployed:
    """Put the anchor contract on the chain, begin the log of that origin there, and let `anchorer`
    anchor it.

    key:      the administrator's, who alone grants and revokes later; it pays for all of it
    anchorer: None for a log that this contract is to take over: then nothing is begun or granted
    Raises ChainRefused, ChainUnreachable, TimeoutError once it has waited `patience_s` seconds.
    """
    if anchorer is not None:
        anchorer = read_address(anchorer)
    made = deploy(rpc, key, "anchor", patience_s=patience_s)
    if anchorer is None:
        return made
    contract, log = contract_of(load("anchor").abi), log_id(origin)
    # The checksum spelling of EIP-55 is web3's own demand, and no part of the call.
    for name, arguments in (("begin", [log]), ("grant", [log, checksummed(anchorer)])):
        data = str(contract.encode_abi(name, args=arguments))
        transact(rpc, key, made.chain_id, {"to": made.address, "data": data}, patience_s)
    return made


def deploy(rpc: JsonRpc, key: ChainKey, name: ContractName, *, patience_s: float) -> Deployed:
    """Put a contract on the chain, whose administrator is then that key's account.

    Raises ChainRefused, ChainUnreachable, TimeoutError once it has waited `patience_s` seconds.
    """
    chain_id = rpc.quantity("eth_chainId")
    nonce, made = transact(rpc, key, chain_id, {"data": load(name).bytecode}, patience_s)
    # What the node states would be believed for good: a log could be handed over to it.
    address = created_by(key, nonce)
    method = "eth_getTransactionReceipt"
    if str(made.get("contractAddress")).lower() != address:
        rpc.lied(method)
    return Deployed(
        address,
        chain_id,
        _quantity(made.get("blockNumber"), method),
        _quantity(made.get("gasUsed"), method),
        is_simulated(rpc),
    )


def created_by(key: ChainKey, nonce: int) -> str:
    """The address of the contract that the account's transaction of this number makes."""
    with shallow():
        from web3.utils.address import get_create_address

    return str(get_create_address(checksummed(key.address), nonce)).lower()  # type: ignore[arg-type]  # a text


def is_simulated(rpc: JsonRpc) -> bool:
    """Whether the node's name is one of a chain that forgets, or that one person makes."""
    name = str(rpc.ask("web3_clientVersion")).lower()
    return any(word in name for word in SIMULATED_CLIENTS)


def contract_of(abi: Sequence[Mapping[str, Any]]) -> Contract:
    """What encodes calls to a contract; it knows no node and no address."""
    with shallow():
        from web3 import Web3

    made: Any = Web3().eth.contract(abi=[dict(one) for one in abi])
    return made  # type: ignore[no-any-return]  # a class that web3 makes at run time


def sign(
    rpc: JsonRpc,
    key: ChainKey,
    chain_id: int,
    nonce: int,
    fee: Fee,
    call: Mapping[str, str],
    *,
    max_gas: int | None = None,
) -> Any:
    """A signed transaction. Raises ChainRefused if the chain says that it would revert, or needs
    more than `max_gas`."""
    try:
        # Of the newest block: in the next one, what this replaces would already stand.
        gas = rpc.quantity("eth_estimateGas", {"from": key.address, **call}, "latest")
    except RpcError as error:
        raise ChainRefused(f"the chain would not take it: {error.reason}") from error
    gas += gas * GAS_MARGIN_PERCENT // 100
    if max_gas is not None and gas > max_gas:
        raise ChainRefused(f"the node asks for {gas} gas, and it never needs more than {max_gas}")
    fields: dict[str, Any] = {
        "chainId": chain_id,
        "nonce": nonce,
        "gas": gas,
        "value": 0,
        "data": call["data"],
    }
    if "to" in call:
        fields["to"] = checksummed(call["to"])
    if fee.tip_wei is None:
        fields["gasPrice"] = fee.max_wei
    else:
        fields |= {"type": 2, "maxFeePerGas": fee.max_wei, "maxPriorityFeePerGas": fee.tip_wei}
    return key.account.sign_transaction(fields)


def send(rpc: JsonRpc, raw: bytes) -> None:
    """Raises ChainRefused with the node's reason, unless it has the transaction already."""
    try:
        rpc.data("eth_sendRawTransaction", "0x" + raw.hex())
    except RpcError as error:
        known = error.reason.lower()
        if "already known" in known or "already imported" in known:
            return
        raise ChainRefused(f"the chain's node does not take it: {error.reason}") from error


def receipt(rpc: JsonRpc, transaction: bytes) -> ChainReceipt | None:
    method, name = "eth_getTransactionReceipt", "0x" + transaction.hex()
    found = rpc.ask(method, name)
    if found is None:
        waiting = rpc.ask("eth_getTransactionByHash", name)
        if waiting is not None and not isinstance(waiting, dict):
            rpc.lied("eth_getTransactionByHash")
        return None if waiting is None else ChainReceipt(None)
    if not isinstance(found, dict) or _hash(found.get("transactionHash"), method) != transaction:
        rpc.lied(method)
    status = _quantity(found.get("status"), method)
    gas = _quantity(found.get("gasUsed"), method)
    return ChainReceipt(_block(found, method), status != 1, gas)


def usual_fee(rpc: JsonRpc, newest: Mapping[str, Any]) -> Fee:
    """Twice the base fee, which then may double before the transaction is mined, and a tip."""
    base = newest.get("baseFeePerGas")
    if base is None:
        return Fee(rpc.quantity("eth_gasPrice"), None)
    try:
        tip = rpc.quantity("eth_maxPriorityFeePerGas")
    except RpcError:  # a chain whose validators ask for none need not know the method
        tip = 0
    return Fee(2 * _quantity(base, "eth_getBlockByNumber") + tip, tip)


def transact(
    rpc: JsonRpc, key: ChainKey, chain_id: int, call: Mapping[str, str], patience_s: float
) -> tuple[int, Mapping[str, Any]]:
    """Send one transaction and wait for its receipt, which is of success. Also its number."""
    nonce = rpc.quantity("eth_getTransactionCount", key.address, "pending")
    fee = usual_fee(rpc, rpc.block("latest"))
    signed = sign(rpc, key, chain_id, nonce, fee, call)
    send(rpc, bytes(signed.raw_transaction))
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        found = rpc.ask("eth_getTransactionReceipt", "0x" + bytes(signed.hash).hex())
        if isinstance(found, dict):
            if _quantity(found.get("status"), "eth_getTransactionReceipt") != 1:
                raise ChainRefused("the transaction was mined and reverted")
            return nonce, found
        time.sleep(0.05)
    raise TimeoutError(f"the transaction was not mined in {patience_s:.0f} s")


def read_address(text: str) -> str:
    """As this program writes addresses, in lower case. Raises ChainRefused."""
    if not _ADDRESS.fullmatch(text):
        raise ChainRefused(f"{text} is not an address: 0x and 40 hexadecimal digits")
    return text.lower()


def checksummed(address: str) -> str:
    with shallow():
        from web3 import Web3

    return str(Web3.to_checksum_address(address))


def _quantity(value: object, method: str) -> int:
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise _untrue(method)
    return int(value, 16)


def _data(value: object, method: str) -> bytes:
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise _untrue(method)
    return bytes.fromhex(value[2:])


def _number(word: bytes, method: str) -> int:
    """A uint64 of the contract; no tree has 2**63 leaves (C2SP tlog-cosignature)."""
    value = int.from_bytes(word)
    if value > MAX_SIZE:
        raise _untrue(method)
    return value


def _hash(value: object, method: str) -> bytes:
    found = _data(value, method)
    if len(found) != 32:
        raise _untrue(method)
    return found


def _block(found: Mapping[str, Any], method: str) -> Block:
    number = _quantity(found.get("blockNumber"), method)
    return Block(number, _hash(found.get("blockHash"), method))


def _untrue(method: str) -> ChainUnreachable:
    return ChainUnreachable(f"the chain's node answered {method} outside the protocol")
