"""`python -m exchange.audit deal|log|follow … --policy P --roots R`: verify a deal, a whole log, or
a log as it grows.

Exit codes: 0 no check failed; 1 a check failed, or an alert was raised; 2 the command line, or a
file, cannot be used; 4 the log or the documents gave no answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from crypto.identifiers import PartyId
from crypto.keys import read_exchange_key
from crypto.ports import SystemClock
from exchange.audit.bundle import MAX_BUNDLE_BYTES
from exchange.audit.deal import audit_deal
from exchange.audit.errors import AuditError, judging
from exchange.audit.follow import USUAL, Limits
from exchange.audit.live import Following, follow, lines_to
from exchange.audit.openings import Opener
from exchange.audit.roots import MAX_ROOTS_BYTES, Roots
from exchange.audit.views import Views
from exchange.audit.voices import VOICES
from exchange.audit.watched import FolderBundles
from exchange.audit.whole import audit_whole_log, documents_beside, open_documents
from exchange.query.explanation import Language
from ledger.verify.log import open_source
from ledger.verify.policy import MAX_POLICY_BYTES, Policy
from ledger.verify.program import UNUSABLE, answer, ends, read, refuse
from ledger.verify.report import phrase


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; argparse itself exits with 2."""
    asked = _parser().parse_args(arguments)
    if asked.command != "log" and (asked.open_with is None) != (asked.party is None):
        return refuse("--open-with and --party go together", UNUSABLE)
    acts = {"deal": _deal, "log": _log, "follow": _follow}
    return ends(lambda: acts[asked.command](asked), AuditError)


def _deal(asked: argparse.Namespace) -> int:
    language = Language(asked.language)
    bundle, trusted, opener = read(asked.bundle, MAX_BUNDLE_BYTES), _trusted(asked), _opener(asked)
    with judging(str(asked.bundle)):
        report = audit_deal(bundle, *trusted, opener)
        Views(asked.prov_json, asked.prov_n, asked.svg).write(report, language)
        return answer(report, VOICES[language], as_json=asked.json)


def _log(asked: argparse.Namespace) -> int:
    voice = VOICES[Language(asked.language)]
    place = asked.documents
    if place is None:
        place = documents_beside(asked.log)
        if place is None:
            return refuse(f"{asked.log} has no folder `documents`: name --documents", UNUSABLE)
        sys.stderr.write(phrase("documents.beside", folder=place).text(voice) + "\n")
    trusted = _trusted(asked)
    with judging(asked.log):
        report = audit_whole_log(asked.log, *trusted, open_documents(place))
        return answer(report, voice, as_json=asked.json)


def _follow(asked: argparse.Namespace) -> int:
    what = Following(
        open_source(asked.log),
        *_trusted(asked),
        open_documents(asked.documents),
        asked.state,
        deals=None if asked.bundles is None else FolderBundles(asked.bundles),
        opener=_opener(asked),
        given=asked.given,
        limits=Limits(
            timedelta(seconds=asked.stale),
            timedelta(seconds=asked.quiet),
            timedelta(seconds=asked.patience),
        ),
        interval_s=asked.interval,
        once=asked.once,
        as_json=asked.json,
        language=Language(asked.language),
    )
    return follow(
        what,
        clock=SystemClock(),
        sleep=time.sleep,
        write=lines_to(sys.stdout),
        complain=lines_to(sys.stderr),
    )


def _trusted(asked: argparse.Namespace) -> tuple[Policy, Roots]:
    policy = Policy.parse(read(asked.policy, MAX_POLICY_BYTES))
    return policy, Roots.parse(read(asked.roots, MAX_ROOTS_BYTES))


def _opener(asked: argparse.Namespace) -> Opener | None:
    if asked.open_with is None:
        return None
    return Opener(PartyId.parse(asked.party, where="--party"), read_exchange_key(asked.open_with))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m exchange.audit",
        description="Verify evidence offline, from public keys alone.",
        epilog="exit codes: 0 no check failed, 1 a check failed, 2 unusable arguments or files, "
        "4 no answer from the log or the documents",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    deal = commands.add_parser("deal", help="audit one deal from its bundle")
    deal.add_argument("bundle", type=Path, metavar="BUNDLE")
    deal.add_argument("--prov-json", type=Path, metavar="FILE", help="the deal as W3C PROV-JSON")
    deal.add_argument("--prov-n", type=Path, metavar="FILE", help="the deal as W3C PROV-N")
    deal.add_argument("--svg", type=Path, metavar="FILE", help="its graph as a picture")
    log = commands.add_parser("log", help="audit a whole log: every entry, chain and public act")
    log.add_argument("log", metavar="LOG", help="folder or address with checkpoint and tile/")
    log.add_argument(
        "--documents",
        metavar="FOLDER_OR_URL",
        help="party documents by digest: files named by 64 hex digits, or a hub's /v1/documents; "
        "unless stated, those that a full copy has",
    )
    live = commands.add_parser("follow", help="follow a log as it grows, and say what is wrong")
    live.add_argument("log", metavar="LOG", help="folder or address with checkpoint and tile/")
    live.add_argument("--documents", required=True, metavar="FOLDER_OR_URL", help="as for `log`")
    live.add_argument("--state", type=Path, required=True, metavar="FILE", help="kept for restarts")
    live.add_argument("--bundles", type=Path, metavar="FOLDER", help="deals: <deal>.zip")
    live.add_argument(
        "--given",
        type=Path,
        action="append",
        default=[],
        metavar="FILE_OR_FOLDER",
        help="entries that must be in the log",
    )
    live.add_argument("--interval", type=float, default=10, metavar="S", help="between two looks")
    live.add_argument("--once", action="store_true", help="one look, as for cron")
    for name, limit, help_ in (
        ("--stale", USUAL.stale, "how long a head may lack its quorum"),
        ("--quiet", USUAL.quiet, "how long the log may not grow"),
        ("--patience", USUAL.patience, "how long what is due may be on its way"),
    ):
        seconds = limit.total_seconds()
        live.add_argument(name, type=float, default=seconds, metavar="S", help=help_)
    for command in (deal, live):
        command.add_argument("--open-with", type=Path, metavar="KEYFILE", help="a sealing key")
        command.add_argument("--party", metavar="PTY", help="whose key that is")
    for command in (deal, log, live):
        command.add_argument("--policy", type=Path, required=True, help="C2SP tlog-policy file")
        command.add_argument("--roots", type=Path, required=True, help="fingerprints, registrars")
        command.add_argument("--json", action="store_true", help="one JSON document")
        languages = [language.value for language in Language]
        command.add_argument("--language", choices=languages, default="en")
    return parser


if __name__ == "__main__":
    sys.exit(main())
