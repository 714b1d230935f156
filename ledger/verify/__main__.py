"""`python -m ledger.verify receipt|log|anchor|equivocation`: what a log proves to anybody.

Needs Python and `cryptography`. Trusted keys come from `--policy` alone, a C2SP tlog-policy file.

Exit codes: 0 no check failed; 1 a check failed, or the notes contradict each other; 2 the command
line, or a file, cannot be used; 4 not yet or not reachable: a quorum is missing, or the log or the
chain gave no answer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ledger.verify import log
from ledger.verify.anchor import BLOCK_TAGS, Asked, HttpRpc, audit_anchor
from ledger.verify.equivocation import audit_equivocation
from ledger.verify.note import MAX_NOTE_BYTES
from ledger.verify.policy import MAX_POLICY_BYTES, Policy
from ledger.verify.program import answer, ends, read
from ledger.verify.proof import MAX_PROOF_BYTES
from ledger.verify.receipt import audit_receipt
from ledger.verify.report import Report
from ledger.verify.tile_names import CHECKPOINT
from ledger.verify.words import ENGLISH


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; argparse itself exits with 2."""
    asked = parser().parse_args(arguments)
    return ends(lambda: answer(audit(asked), ENGLISH, as_json=asked.json))


def audit(asked: argparse.Namespace) -> Report:
    """The report that the command line asks for."""
    policy = Policy.parse(read(asked.policy, MAX_POLICY_BYTES))
    match asked.command:
        case "receipt":
            entry = read(asked.entry, 1 << 16)
            return audit_receipt(entry, read(asked.proof, MAX_PROOF_BYTES), policy)
        case "log":
            about, tally = log.audit_log(asked.log, policy)
            return log.report_log(about, tally, log.NOT_PROVED)
        case "anchor":
            source = log.open_source(asked.log)
            what = Asked(asked.chain_id, asked.contract, asked.finality)
            return audit_anchor(source.read(CHECKPOINT), policy, what, HttpRpc(asked.rpc), source)
        case _:
            tiles = None if asked.log is None else log.open_source(asked.log)
            notes = [read(path, MAX_NOTE_BYTES) for path in (asked.first, asked.second)]
            return audit_equivocation(notes[0], notes[1], policy, tiles)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="python -m ledger.verify",
        description="Verify a transparency log's evidence from public keys alone.",
        epilog="exit codes: 0 no check failed, 1 a check failed or the notes contradict each "
        "other, 2 unusable arguments or files, 4 not yet witnessed, or no answer",
    )
    commands = whole.add_subparsers(dest="command", required=True)
    receipt = commands.add_parser("receipt", help="who vouches for one entry")
    receipt.add_argument("entry", type=Path, metavar="ENTRY", help="the entry's exact bytes")
    receipt.add_argument("proof", type=Path, metavar="PROOF", help="its .tlog-proof")
    logs = commands.add_parser("log", help="every tile, entry and chain of a whole log")
    logs.add_argument("log", metavar="LOG", help="folder or address with checkpoint and tile/")
    anchor = commands.add_parser("anchor", help="what an EVM contract holds of a log")
    anchor.add_argument("log", metavar="LOG", help="folder or address with checkpoint and tile/")
    anchor.add_argument("--rpc", required=True, metavar="URL", help="any JSON-RPC of the chain")
    anchor.add_argument("--contract", required=True, metavar="0x…", help="the anchor contract")
    anchor.add_argument("--chain-id", required=True, type=int, metavar="N", help="EIP-155")
    anchor.add_argument(
        "--finality",
        default="finalized",
        metavar="RULE",
        help=f"{', '.join(BLOCK_TAGS)}, or how many blocks must lie above; default finalized",
    )
    equivocation = commands.add_parser("equivocation", help="do two notes contradict each other")
    equivocation.add_argument("first", type=Path, metavar="A")
    equivocation.add_argument("second", type=Path, metavar="B")
    equivocation.add_argument("--log", metavar="LOG", help="tiles of the larger head")
    for command in (receipt, logs, anchor, equivocation):
        command.add_argument("--policy", type=Path, required=True, help="C2SP tlog-policy file")
        command.add_argument("--json", action="store_true", help="one JSON document")
    return whole


if __name__ == "__main__":
    sys.exit(main())
