"""A chain inside one process, for development: *simulated, not durable*.

eth-tester with py-evm executes the contract as a chain would; there is no second node, no fee
market and no reorganisation, and everything is gone when the process ends. It says so of itself
in `web3_clientVersion`. A block is made for each transaction, and is final at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from ledger.adapters.evm import FUNDS_WEI, shallow

CLIENT: Final = "unseen-simulated-chain (not durable; eth-tester and py-evm)"
MAX_REQUEST_BYTES: Final = 1 << 20
# What anchoring, deployment and auditing ask. The rest of eth-tester is not offered: some of it
# signs for whoever asks.
METHODS: Final = frozenset(
    {
        "eth_blockNumber",
        "eth_call",
        "eth_chainId",
        "eth_estimateGas",
        "eth_gasPrice",
        "eth_getBalance",
        "eth_getBlockByHash",
        "eth_getBlockByNumber",
        "eth_getCode",
        "eth_getLogs",
        "eth_getTransactionByHash",
        "eth_getTransactionCount",
        "eth_getTransactionReceipt",
        "eth_maxPriorityFeePerGas",
        "eth_sendRawTransaction",
        "net_version",
        "web3_clientVersion",
    }
)


class SimulatedChain:
    """JSON-RPC over one chain in memory. Not for several threads at once."""

    def __init__(self) -> None:
        with shallow():
            from web3 import EthereumTesterProvider, Web3

            self._provider = EthereumTesterProvider()  # imports the rest of it
        web3 = Web3(self._provider, middleware=[])
        self._ask: Callable[..., Any] = self._provider.request_func(web3, web3.middleware_onion)

    @property
    def chain_id(self) -> int:
        return int(self._ask("eth_chainId", [])["result"])

    def fund(self, address: str) -> None:
        """Give an account money of this chain, which is worth nothing."""
        giver = self._ask("eth_accounts", [])["result"][0]
        given = {"from": giver, "to": address, "value": hex(FUNDS_WEI), "gas": hex(21_000)}
        self._ask("eth_sendTransaction", [given])

    def answer(self, body: bytes) -> bytes:
        """One JSON-RPC request, or a batch of them."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return _written(_error(None, -32700, "the request is not JSON"))
        if isinstance(asked, list):
            return _written([self._one(one) for one in asked])
        return _written(self._one(asked))

    def _one(self, asked: object) -> Mapping[str, Any]:
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return _error(None, -32600, "not a request")
        number, method, params = asked.get("id"), asked["method"], asked.get("params", [])
        if method not in METHODS or not isinstance(params, list):
            return _error(number, -32601, f"{method} is not offered by a simulated chain")
        if method == "web3_clientVersion":
            return _result(number, CLIENT)
        try:
            found = self._ask(method, params)
        except Exception as error:  # eth-tester's own, of many kinds: an answer to whoever asked
            return _error(number, 3 if "revert" in str(error) else -32000, str(error)[:300])
        if "error" in found:
            return _error(number, found["error"]["code"], str(found["error"]["message"]))
        return _result(number, _hexadecimal(found["result"]))


def _result(number: object, value: object) -> Mapping[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": value}


def _error(number: object, code: int, message: str) -> Mapping[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}


def _written(value: object) -> bytes:
    return json.dumps(value).encode()


def _hexadecimal(value: Any) -> Any:
    """As the protocol writes it: eth-tester answers numbers as numbers."""
    if isinstance(value, Mapping):
        return {name: _hexadecimal(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_hexadecimal(one) for one in value]
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)
    return value
