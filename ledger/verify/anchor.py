"""The audit of an anchor: does an EVM contract hold heads of this very log, and how safely?

Asks any JSON-RPC that the auditor picks, with the standard library: three methods, and calls of
the anchor contract by the first four bytes of their hashes (a test compares them with the
contract's ABI). Whatever the chain answers is compared with the log's own tree, and the contract
with those that the log itself says it is anchored in (ledger.verify.history).

Source: Ethereum JSON-RPC specification (execution-apis), Solidity contract ABI specification.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from ledger.contracts import load
from ledger.errors import (
    ChainUnreachable,
    ConsistencyRefused,
    FormatRefused,
    LedgerError,
    QuorumMissing,
    SourceUnreachable,
    TileMissing,
)
from ledger.tree import cover, range_hash
from ledger.verify.archive import read_archive
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.deadline import within
from ledger.verify.merkle import HASH_BYTES, MAX_SIZE
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.report import Check, Phrase, Report, phrase, printable, try_to
from ledger.verify.text import encode_base64
from ledger.verify.tiles import TileSource, open_tree

NOT_PROVED = ("not_proved.chain", "not_proved.rpc", "not_proved.truth")

# keccak-256 of the function's signature, first four bytes: Solidity ABI, "Function Selector".
SELECTORS: Final[Mapping[str, str]] = {
    "head(bytes32)": "f339e3b2",
    "root_at(bytes32,uint64)": "c773f71b",
    "successor(bytes32)": "c3eef03c",
    "predecessor(bytes32)": "e7d4948d",
}
BLOCK_TAGS: Final = ("latest", "safe", "finalized")
MAX_ANSWER_BYTES: Final = 1 << 20
TIMEOUT_S: Final = 30.0
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_QUANTITY: Final = re.compile(r"0x(0|[1-9a-f][0-9a-f]{0,63})")
_DATA: Final = re.compile(r"0x(?:[0-9a-f]{2})*")
# What a chain that forgets, or that one person makes, calls itself (web3_clientVersion).
SIMULATED_CLIENTS: Final = (
    "anvil",
    "eth-tester",
    "ethereumtester",
    "ganache",
    "hardhat",
    "simulated",
)


class Rpc(Protocol):
    """Ethereum JSON-RPC."""

    def call(self, method: str, *parameters: object) -> object:
        """The `result` member. Raises ChainUnreachable."""
        ...


class HttpRpc:
    """JSON-RPC over HTTP POST. Follows no redirect and uses no proxy.

    timeout_s: for a whole call.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not url.isascii() or not url.isprintable():
            raise FormatRefused("rpc", "is not an http or https address")
        self._url = url
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def call(self, method: str, *parameters: object) -> object:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        request = urllib.request.Request(  # noqa: S310  the scheme was checked
            self._url, json.dumps(asked).encode(), {"content-type": "application/json"}
        )
        try:
            data = within(self._timeout_s, lambda: self._read(request))
        except (OSError, http.client.HTTPException) as error:
            what = printable(str(error)) or type(error).__name__
            raise ChainUnreachable(f"{method} got no answer: {what}") from error
        if len(data) > MAX_ANSWER_BYTES:
            raise ChainUnreachable(f"{method} was answered with more than {MAX_ANSWER_BYTES} bytes")
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):  # nested too deeply to be read
            raise ChainUnreachable(f"{method} was not answered with JSON") from None
        if not isinstance(answer, dict) or "result" not in answer or answer.get("id") != 1:
            refusal = answer.get("error") if isinstance(answer, dict) else None
            message = refusal.get("message") if isinstance(refusal, dict) else None
            raise ChainUnreachable(f"{method} was refused: {printable(str(message)[:200])}")
        return answer["result"]

    def _read(self, request: urllib.request.Request) -> bytes:
        with self._opener.open(request, timeout=self._timeout_s) as response:
            data: bytes = response.read(MAX_ANSWER_BYTES + 1)
            return data


@dataclass(frozen=True)
class AnchoredHead:
    """size: leaves; 0 where nothing is anchored. block: number of the block that stored it."""

    size: int
    root: bytes
    block: int


@dataclass(frozen=True)
class AnchorContract:
    """One deployed anchor contract, read at one block: all answers are of one moment.

    address: 0x and 40 hexadecimal digits. block: a quantity such as 0x1b4.
    """

    rpc: Rpc
    address: str
    block: str

    def head(self, origin: str) -> AnchoredHead:
        """Raises FormatRefused for an answer that is not one, ChainUnreachable."""
        words = self._ask("head(bytes32)", [log_id(origin)], answers=3)
        size = int.from_bytes(words[0], "big")
        if size > MAX_SIZE:
            raise FormatRefused("head", "has a size that no log has")
        return AnchoredHead(size, words[1], int.from_bytes(words[2], "big"))

    def root_at(self, origin: str, size: int) -> bytes | None:
        """The root anchored for a size; None if there is none."""
        asked = [log_id(origin), size.to_bytes(HASH_BYTES, "big")]
        (root,) = self._ask("root_at(bytes32,uint64)", asked, answers=1)
        return root if any(root) else None

    def successor(self, origin: str) -> str | None:
        """The contract that the log was handed over to; None while it is anchored here."""
        return self._address("successor", origin)

    def predecessor(self, origin: str) -> str | None:
        """The contract whose last head of the log this one continues; None if it began here."""
        return self._address("predecessor", origin)

    def _address(self, which: str, origin: str) -> str | None:
        (word,) = self._ask(f"{which}(bytes32)", [log_id(origin)], answers=1)
        if any(word[:12]):
            raise FormatRefused(which, "is not an address")
        return f"0x{word[12:].hex()}" if any(word) else None

    def _ask(self, function: str, arguments: Sequence[bytes], *, answers: int) -> list[bytes]:
        data = "0x" + SELECTORS[function] + b"".join(arguments).hex()
        answer = self.rpc.call("eth_call", {"to": self.address, "data": data}, self.block)
        raw = read_data(answer, where=function)
        if len(raw) != answers * HASH_BYTES:
            raise FormatRefused(
                function,
                f"was answered with {len(raw)} bytes, not {answers * HASH_BYTES}: there is no "
                f"anchor contract at {self.address} of this chain at that block",
            )
        return [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)]


@dataclass(frozen=True)
class Asked:
    """What the auditor expects, and how final a block must be.

    chain_id: EIP-155. contract: the address. finality: `finalized`, `safe`, `latest`, or a number
    of blocks that must lie above.
    """

    chain_id: int
    contract: str
    finality: str


def log_id(origin: str) -> bytes:
    """How the contract names a log."""
    return hashlib.sha256(origin.encode("utf-8")).digest()


def audit_anchor(
    note: bytes, policy: Policy, asked: Asked, rpc: Rpc, source: TileSource | None
) -> Report:
    """Whether what the contract holds are heads of the log that `note` is a checkpoint of.

    source: the log's tiles. Without them only a head of the note's own size can be compared.
    Raises ChainUnreachable, SourceUnreachable and FormatRefused for what cannot be asked at all.
    """
    _require_sensible(asked)
    checks: list[Check] = []
    head = Checkpoint.parse(Note.parse(note).text)
    about: dict[str, object] = {"log": head.origin, "size": head.size, "contract": asked.contract}
    subject = f"head {head.size} of {head.origin}"
    checks.append(try_to("log.head", subject, lambda: _accept(note, policy)))
    found = read_quantity(rpc.call("eth_chainId"), where="eth_chainId")
    about["chain_id"] = found
    wrong_chain = phrase("chain.other", found=found, expected=asked.chain_id)
    same = found == asked.chain_id
    checks.append(Check("chain.id", same, f"chain {found}", None if same else wrong_chain))
    checks.append(_durable(rpc, about))
    if not same:
        return _report(about, checks)
    block, tip = _block(rpc, asked.finality)
    about |= {"block": block, "latest_block": tip, "finality": asked.finality}
    contract = AnchorContract(rpc, asked.contract, hex(block))
    checks += _contract_checks(contract, head, block, tip, source, about)
    checks += _declared(asked, head, source, about, checks)
    return _report(about, checks)


def _contract_checks(
    contract: AnchorContract,
    head: Checkpoint,
    block: int,
    tip: int,
    source: TileSource | None,
    about: dict[str, object],
) -> list[Check]:
    subject = f"contract {contract.address}"
    try:
        anchored = contract.head(head.origin)
        own = contract.root_at(head.origin, head.size) if head.size else None
        successor = contract.successor(head.origin)
        predecessor = contract.predecessor(head.origin)
    except FormatRefused as error:
        return [Check("anchor.held", False, subject, phrase("reason", reason=error))]
    if successor is not None:
        about["successor"] = successor
    if anchored.size == 0:
        return [Check("anchor.held", False, subject, phrase("anchor.none", block=block))]
    about["anchored"] = {
        "size": anchored.size,
        "root": encode_base64(anchored.root),
        "block": anchored.block,
    }
    facts = {"size": anchored.size, "anchored": anchored.block, "block": block, "tip": tip}
    checks = [Check("anchor.held", True, subject, phrase("anchor.at", **facts))]
    checks.append(_code(contract))
    if successor is not None:
        note = phrase("anchor.handed_over", successor=successor)
        checks.append(Check("anchor.current", None, subject, note))
    where = f"anchored head {anchored.size}"
    checks.append(_same_history(anchored.size, anchored.root, head, source, where))
    if own is not None and head.size != anchored.size:
        checks.append(_same_history(head.size, own, head, source, f"anchored head {head.size}"))
    if predecessor is not None:
        about["predecessor"] = predecessor
        checks += _taken_over(contract, predecessor, head, source)
    return checks


def _taken_over(
    contract: AnchorContract, predecessor: str, head: Checkpoint, source: TileSource | None
) -> list[Check]:
    """Whether this contract continues where the one before it ended, and that is our history."""
    before = AnchorContract(contract.rpc, predecessor, contract.block)
    subject = f"predecessor {predecessor}"
    try:
        last = before.head(head.origin)  # which can't change any more: it handed the log over
        named = before.successor(head.origin)
        held = contract.root_at(head.origin, last.size)
    except FormatRefused as error:
        return [Check("anchor.continued", False, subject, phrase("reason", reason=error))]
    if named != contract.address.lower() or last.size == 0 or held != last.root:
        note = phrase("anchor.not_continued", size=last.size)
        return [Check("anchor.continued", False, subject, note)]
    continued = Check("anchor.continued", True, subject, phrase("anchor.from", size=last.size))
    where = f"head {last.size} taken over"
    return [continued, _code(before), _same_history(last.size, last.root, head, source, where)]


def _declared(
    asked: Asked,
    head: Checkpoint,
    source: TileSource | None,
    about: dict[str, object],
    found: Sequence[Check],
) -> list[Check]:
    """What the log says of where it is anchored: whoever was given another contract, or one that
    was left since, must learn which one holds the log's heads now.

    found: of the contract itself. The log may name it after this head only if it continues one
    that is named already: else anybody's contract could claim to be ahead.
    """
    here = (asked.chain_id, asked.contract.lower())

    def result(passed: bool | None, note: Phrase, subject: str = "") -> Check:
        return Check("anchor.declared", passed, subject or f"contract {asked.contract}", note)

    if source is None:
        return [result(None, phrase("anchor.no_log"))]
    try:
        said = read_archive(open_tree(source, head)).history.anchors
    except (TileMissing, SourceUnreachable) as error:
        return [result(None, phrase("reason", reason=error))]
    except LedgerError as error:
        return [result(False, phrase("reason", reason=error))]
    about["declared"] = [
        {"entry": one.index, "chain_id": one.chain_id, "contract": one.contract} for one in said
    ]
    if not said:
        return [result(None, phrase("anchor.undeclared", size=head.size))]
    places = [(one.chain_id, one.contract) for one in said]
    last = said[-1]
    now = phrase("anchor.nowhere", index=last.index)
    if last.contract is not None:
        facts = {"index": last.index, "chain": last.chain_id, "contract": last.contract}
        now = phrase("anchor.declared_at", **facts)
    predecessor, successor = (
        (asked.chain_id, about.get(which)) for which in ("predecessor", "successor")
    )
    continues = all(c.passed for c in found if c.id in ("anchor.code", "anchor.continued"))
    if places[-1] == here:
        checks = [result(True, now)]
    elif here in places:
        checks = [result(None, phrase("anchor.left", now=now))]
    elif predecessor in places and continues:
        checks = [result(None, phrase("anchor.not_yet", size=head.size, now=now))]
    else:
        checks = [result(False, phrase("anchor.elsewhere", size=head.size, now=now))]
    if "successor" in about and successor not in places:
        note = phrase("anchor.not_yet", size=head.size, now=now)
        checks.append(result(None, note, f"successor {about['successor']}"))
    return checks


def _code(contract: AnchorContract) -> Check:
    """Another contract with the same functions may hold whatever its owner likes."""
    known = load("anchor").runtime
    same = contract.rpc.call("eth_getCode", contract.address, contract.block) == known
    note = None if same else phrase("anchor.other_code")
    return Check("anchor.code", True if same else None, f"contract {contract.address}", note)


def _same_history(
    size: int, root: bytes, head: Checkpoint, source: TileSource | None, subject: str
) -> Check:
    def result(passed: bool | None, note: Phrase | None = None) -> Check:
        return Check("anchor.same_history", passed, subject, note)

    if size > head.size:
        # A log whose chain is ahead of it has lost entries, or shows an old head.
        return result(None, phrase("anchor.ahead", size=size, own=head.size))
    if size == head.size:
        differs = phrase("anchor.differs", root=encode_base64(root), own=encode_base64(head.root))
        return result(True) if root == head.root else result(False, differs)
    if source is None:
        return result(None, phrase("anchor.no_tiles", size=size, own=head.size))
    try:
        tree = open_tree(source, head)
        own = range_hash((0, size), {node: tree.node(node) for node in cover((0, size))})
        if own != root:
            differs = phrase("anchor.differs", root=encode_base64(root), own=encode_base64(own))
            return result(False, differs)
        tree.consistency(size, root)
    except (TileMissing, SourceUnreachable) as error:
        return result(None, phrase("reason", reason=error))
    except (LedgerError, ConsistencyRefused) as error:
        return result(False, phrase("reason", reason=error))
    return result(True)


def _accept(note: bytes, policy: Policy) -> Phrase | None:
    """Anchors are of witnessed heads, but one that is only signed is this log's all the same."""
    try:
        policy.check(note)
    except QuorumMissing as error:
        return phrase("reason", reason=error)
    return None


def _durable(rpc: Rpc, about: dict[str, object]) -> Check:
    """By the chain's own word: a simulation that hides is not found out by asking it."""
    try:
        version = rpc.call("web3_clientVersion")
    except ChainUnreachable:
        version = None
    if not isinstance(version, str) or not version:
        about |= {"client": None, "simulated": None}
        return Check("chain.durable", None, "chain", phrase("chain.unnamed"))
    name = printable(version[:200])
    simulated = any(word in version.lower() for word in SIMULATED_CLIENTS)
    about |= {"client": name, "simulated": simulated}
    key = "chain.simulated" if simulated else "chain.client"
    return Check("chain.durable", None if simulated else True, "chain", phrase(key, name=name))


def _block(rpc: Rpc, finality: str) -> tuple[int, int]:
    """The newest block that is final enough, and the newest of all."""
    tip = _number(rpc, "latest")
    if finality in BLOCK_TAGS:
        return (tip if finality == "latest" else _number(rpc, finality)), tip
    return max(tip - int(finality), 0), tip


def _number(rpc: Rpc, tag: str) -> int:
    block = rpc.call("eth_getBlockByNumber", tag, False)
    if not isinstance(block, dict):
        raise ChainUnreachable(f"the chain has no {tag} block yet")
    return read_quantity(block.get("number"), where=f"number of the {tag} block")


def _require_sensible(asked: Asked) -> None:
    if not _ADDRESS.fullmatch(asked.contract):
        raise FormatRefused("contract", "is not an address: 0x and 40 hexadecimal digits")
    if asked.finality not in BLOCK_TAGS and not re.fullmatch(r"[1-9][0-9]{0,5}", asked.finality):
        raise FormatRefused("finality", f"is not {', '.join(BLOCK_TAGS)} or a number of blocks")


def _report(about: dict[str, object], checks: Sequence[Check]) -> Report:
    key = "title.anchor.simulated" if about.get("simulated") else "title.anchor"
    title = phrase(key, chain=about["chain_id"], contract=about["contract"], log=about["log"])
    return Report(title, about, checks, NOT_PROVED)


def read_quantity(value: object, *, where: str) -> int:
    """A number as JSON-RPC writes it: no leading zero, at most 256 bits."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise FormatRefused(where, "is not a hexadecimal quantity such as 0x1b4")
    return int(value, 16)


def read_data(value: object, *, where: str) -> bytes:
    """Bytes as JSON-RPC writes them."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise FormatRefused(where, "was not answered with bytes such as 0x00ff")
    return bytes.fromhex(value[2:])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
