"""Compile the contracts: `python -m ledger.contracts.compile` rewrites the package data.

Needs the Vyper compiler, which only the extra `test` installs. The same source always gives the
same bytes: no path, time or metadata goes in.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
SOURCES: Final = {"anchor": "Anchor.vy", "rights": "Rights.vy"}
COMPILER: Final = "0.4.3"
# The newest instruction set that consortium chains can be expected to have: no PUSH0, no MCOPY.
EVM_VERSION: Final = "paris"


def compiled(name: str) -> str:
    """The text of `<name>.json`. Raises SystemExit if the right compiler is not installed."""
    try:
        import vyper  # type: ignore[import-untyped]  # the compiler ships no types
        from vyper.compiler import compile_code  # type: ignore[import-untyped]  # as above
        from vyper.compiler.settings import (  # type: ignore[import-untyped]  # as above
            OptimizationLevel,
            Settings,
        )
    except ImportError:
        raise SystemExit(
            f"compiling contracts needs Vyper {COMPILER}: install the extra `test`. "
            "Deploying and auditing them does not."
        ) from None
    if vyper.__version__ != COMPILER:
        raise SystemExit(f"needs Vyper {COMPILER}, and {vyper.__version__} is installed")
    source = (FOLDER / SOURCES[name]).read_bytes()
    output = compile_code(
        source.decode("utf-8"),
        contract_path=SOURCES[name],
        settings=Settings(evm_version=EVM_VERSION, optimize=OptimizationLevel.GAS),
        output_formats=["abi", "bytecode", "bytecode_runtime"],
        no_bytecode_metadata=True,
    )
    document = {
        "abi": output["abi"],
        "bytecode": output["bytecode"],
        "runtime": output["bytecode_runtime"],
        "compiler": f"vyper {COMPILER}",
        "evm_version": EVM_VERSION,
        "source_sha256": hashlib.sha256(source).hexdigest(),
    }
    return json.dumps(document, indent=1) + "\n"


def main() -> int:
    for name in SOURCES:
        path = FOLDER / f"{name}.json"
        path.write_text(compiled(name), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
