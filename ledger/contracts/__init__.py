"""The compiled contracts as they are shipped: nobody who deploys or audits one needs a compiler.

Each `<name>.json` is what `python -m ledger.contracts.compile` makes of `<Name>.vy`; a test
compiles again and compares every byte. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

ContractName = Literal["anchor", "rights"]


@dataclass(frozen=True)
class Contract:
    """abi: JSON ABI. bytecode: sent to deploy the contract, without constructor arguments.

    runtime: what the chain then answers as the code at the contract's address, so that an
             auditor can tell this contract from another one with the same functions.
    Both begin with 0x.
    """

    abi: Sequence[Mapping[str, Any]]
    bytecode: str
    runtime: str


def load(name: ContractName) -> Contract:
    document = json.loads(files(__name__).joinpath(f"{name}.json").read_text("utf-8"))
    return Contract(document["abi"], document["bytecode"], document["runtime"])
