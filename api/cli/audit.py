"""`exchange audit`: fetch a deal's evidence, and verify it offline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli.desk import opened
from api.cli.output import Exit, answer, print_json
from api.cli.speech import Commands, common, language, say
from api.cli.tables import lines
from api.folder import PartyFolder
from crypto.errors import KeyFileRefused
from crypto.identifiers import DealId, PartyId
from crypto.keys import read_exchange_key
from exchange.audit.bundle import MAX_BUNDLE_BYTES
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.roots import MAX_ROOTS_BYTES, Roots
from exchange.audit.views import Views
from exchange.query.explanation import Language
from ledger.verify.policy import MAX_POLICY_BYTES, Policy

app = Commands("audit", no_args_is_help=True)


@app.act("bundle", "audit.bundle")
def bundle(
    deal: Annotated[str, typer.Argument(metavar="DEAL")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="audit.out")],
) -> None:
    number = DealId.parse(deal, where="DEAL")
    with opened() as node:
        data = node.hub.bundle(number)
    with out.open("xb") as file:
        file.write(data)
    answer(
        {"deal": number, "file": str(out), "size_bytes": len(data)},
        lines(say("audit.fetched", file=out, size=f"{len(data):,}")),
        as_json=common().as_json,
    )


@app.act("deal", "audit.deal", plain=True)
def deal(
    bundle_file: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="audit.policy")],
    roots: Annotated[Path, typer.Option(metavar="FILE", help="audit.roots")],
    open_with: Annotated[
        Path | None, typer.Option(metavar="FOLDER_OR_KEY", help="audit.open_with")
    ] = None,
    party: Annotated[str | None, typer.Option(metavar="PTY", help="audit.party")] = None,
    prov_json: Annotated[Path | None, typer.Option(metavar="FILE", help="audit.prov_json")] = None,
    prov_n: Annotated[Path | None, typer.Option(metavar="FILE", help="audit.prov_n")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="audit.svg")] = None,
) -> None:
    report = audit_deal(
        _read(bundle_file, MAX_BUNDLE_BYTES),
        Policy.parse(_read(policy, MAX_POLICY_BYTES)),
        Roots.parse(_read(roots, MAX_ROOTS_BYTES)),
        None if open_with is None else opener(open_with, party),
    )
    spoken = Language(language())
    Views(prov_json, prov_n, svg).write(report, spoken)
    if common().as_json:
        print_json(report.to_value(spoken))
    else:
        sys.stdout.write(report.to_text(spoken))
    if report.failed:
        raise typer.Exit(Exit.FAILED)


def opener(path: Path, party: str | None) -> Opener:
    """A participant's folder, or the sealing key of the party that `party` names."""
    if path.is_dir():
        folder = PartyFolder(path)
        return Opener(folder.party.document.party, folder.sealing)
    if party is None:
        raise KeyFileRefused(say("audit.whose_key", file=path))
    return Opener(PartyId.parse(party, where="--party"), read_exchange_key(path))


def _read(path: Path, limit: int) -> bytes:
    """At most one byte more than `limit`: enough for whoever parses it to refuse it."""
    with path.open("rb") as file:
        return file.read(limit + 1)
