"""A contract in a bare EVM: one machine per test, thousands of calls a second, no node."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyrevm
from eth_abi import decode, encode
from eth_hash.auto import keccak

from ledger.contracts import Contract

ADMINISTRATOR = "0x" + "ad" * 20
ZERO = "0x" + "00" * 20
ERROR_STRING = bytes.fromhex("08c379a0")  # Error(string), as Solidity and Vyper revert


class Reverted(Exception):
    """A refused call. The text is the contract's reason."""


@dataclass(frozen=True)
class Event:
    """name and arguments as the ABI declares them, addresses in lower case."""

    name: str
    arguments: Mapping[str, Any]


def address(number: int) -> str:
    return "0x" + number.to_bytes(20, "big").hex()


def signature(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}({','.join(_type(item) for item in entry['inputs'])})"


def selector(entry: Mapping[str, Any]) -> bytes:
    return keccak(signature(entry).encode())[:4]


class Machine:
    """An EVM with the instruction set that the contracts are compiled for."""

    def __init__(self, now: int = 1_000) -> None:
        self.evm = pyrevm.EVM(spec_id="MERGE", gas_limit=30_000_000)
        self.block = 1
        self.at(now)

    def at(self, now: int) -> None:
        """Go to the next block, with this time in seconds."""
        self.now = now
        self.block += 1
        self.evm.set_block_env(pyrevm.BlockEnv(number=self.block, timestamp=now))

    def deploy(self, contract: Contract, *, by: str = ADMINISTRATOR) -> Deployed:
        place = self.evm.deploy(by, bytes.fromhex(contract.bytecode[2:]))
        self.deploy_gas = self.evm.result.gas_used
        return Deployed(self, contract, place.lower())


class Deployed:
    """gas: of the last call, and too little: the machine takes places that an earlier call read
    for known, which saves up to 2,000 each. A chain says the true figure."""

    def __init__(self, machine: Machine, contract: Contract, place: str) -> None:
        self.machine = machine
        self.contract = contract
        self.address = place
        self.functions = {e["name"]: e for e in contract.abi if e["type"] == "function"}
        self.event_types = {
            keccak(signature(e).encode()): e for e in contract.abi if e["type"] == "event"
        }
        self.events: list[Event] = []
        self.gas = 0

    def __call__(self, name: str, *arguments: Any, by: str = ADMINISTRATOR) -> Any:
        """Send a transaction and return its answer; events and gas are those of this call."""
        entry = self.functions[name]
        types = [_type(item) for item in entry["inputs"]]
        data = selector(entry) + encode(types, arguments)
        answer = self.raw(data, by=by)
        values = decode([_type(item) for item in entry["outputs"]], answer)
        return values[0] if len(values) == 1 else values

    def raw(self, data: bytes, *, by: str = ADMINISTRATOR) -> bytes:
        evm = self.machine.evm
        try:
            answer = evm.message_call(caller=by, to=self.address, calldata=data)
        except RuntimeError as caught:
            raise Reverted(_reason(str(caught))) from None
        self.gas = evm.result.gas_used
        self.events = [self._event(log) for log in evm.result.logs]
        return bytes(answer)

    def _event(self, log: Any) -> Event:
        topics = [bytes.fromhex(str(t).removeprefix("0x")) for t in log.topics]
        entry = self.event_types[topics[0]]
        indexed = [i for i in entry["inputs"] if i["indexed"]]
        plain = [i for i in entry["inputs"] if not i["indexed"]]
        values = {
            i["name"]: decode([_type(i)], topic)[0]
            for i, topic in zip(indexed, topics[1:], strict=True)
        }
        values |= zip(
            [i["name"] for i in plain],
            decode([_type(i) for i in plain], bytes(log.data[1])),
            strict=True,
        )
        return Event(entry["name"], values)


def _type(item: Mapping[str, Any]) -> str:
    if item["type"].startswith("tuple"):
        inside: Sequence[Mapping[str, Any]] = item["components"]
        return f"({','.join(_type(part) for part in inside)}){item['type'][5:]}"
    return str(item["type"])


def _reason(text: str) -> str:
    """The reason out of pyrevm's words; empty where the contract gave none."""
    found = re.search(r"output: 0x([0-9a-f]*)", text)
    if found is None:
        raise AssertionError(f"the machine halted: {text}")
    output = bytes.fromhex(found.group(1))
    if output[:4] != ERROR_STRING:
        return output.hex()
    return str(decode(["string"], output[4:])[0])
