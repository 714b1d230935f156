"""`exchange audit`: fetch evidence, and verify deals, receipts, whole logs, anchors and forks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.desk import opened
from api.cli.output import Exit, answer, print_json, progress
from api.cli.speech import Commands, common, language, name_of, say
from api.cli.tables import lines
from api.folder import PartyFolder
from crypto.digest import digest
from crypto.errors import KeyFileRefused
from crypto.identifiers import DealId, PartyId
from crypto.keys import read_exchange_key
from crypto.ports import SystemClock
from crypto.statement import MAX_ENTRY_BYTES
from exchange.audit.bundle import MAX_BUNDLE_BYTES
from exchange.audit.deal import audit_deal
from exchange.audit.errors import judging
from exchange.audit.follow import USUAL, Limits
from exchange.audit.kept import Kept, keep_documents
from exchange.audit.live import Following, follow, lines_to
from exchange.audit.openings import Opener
from exchange.audit.roots import MAX_ROOTS_BYTES, Roots
from exchange.audit.views import Views
from exchange.audit.voices import VOICES
from exchange.audit.watched import Bundles, FolderBundles
from exchange.audit.whole import audit_whole_log, documents_beside, open_documents
from exchange.errors import HubUnreachable, NotYours, UnknownSubject
from exchange.query.explanation import Language
from ledger import copies
from ledger.errors import LedgerError, SourceUnreachable
from ledger.verify.anchor import Asked, HttpRpc, audit_anchor
from ledger.verify.equivocation import audit_equivocation
from ledger.verify.log import MAX_NAMED, open_source
from ledger.verify.note import MAX_NOTE_BYTES
from ledger.verify.policy import MAX_POLICY_BYTES, Policy
from ledger.verify.proof import MAX_PROOF_BYTES
from ledger.verify.receipt import audit_receipt
from ledger.verify.report import Report, exit_code, phrase, printable
from ledger.verify.tile_names import CHECKPOINT

if TYPE_CHECKING:
    from api.wiring.node import Opened
    from ledger.verify.archive import Archive

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
    bundle, trusted = _read(bundle_file, MAX_BUNDLE_BYTES), _policy(policy)
    known = Roots.parse(_read(roots, MAX_ROOTS_BYTES))
    reader = None if open_with is None else opener(open_with, party)
    spoken = Language(language())
    with judging(str(bundle_file)):
        report = audit_deal(bundle, trusted, known, reader)
        Views(prov_json, prov_n, svg).write(report, spoken)
        _print(report)
    if report.failed:
        raise typer.Exit(Exit.FAILED)


@app.act("log", "audit.log", plain=True)
def log(
    place: Annotated[str, typer.Argument(metavar="LOG")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="audit.policy")],
    roots: Annotated[Path, typer.Option(metavar="FILE", help="audit.roots")],
    documents: Annotated[
        str | None, typer.Option(metavar="FOLDER_OR_URL", help="audit.documents")
    ] = None,
) -> None:
    trusted = Roots.parse(_read(roots, MAX_ROOTS_BYTES))
    if documents is None:
        documents = documents_beside(place)
        if documents is None:
            raise typer.BadParameter(say("audit.no_documents", log=place))
        beside = phrase("documents.beside", folder=documents)
        progress().print(beside.text(VOICES[Language(language())]), markup=False, soft_wrap=True)
    believed = _policy(policy)
    with judging(place):
        report = audit_whole_log(place, believed, trusted, open_documents(documents))
        _print(report)
    if code := exit_code(report):
        raise typer.Exit(code)


@app.act("receipt", "audit.receipt", plain=True)
def receipt(
    entry: Annotated[Path, typer.Argument(metavar="ENTRY")],
    proof: Annotated[Path, typer.Argument(metavar="PROOF")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="audit.policy")],
) -> None:
    logged = _read(entry, MAX_ENTRY_BYTES)
    _say(audit_receipt(logged, _read(proof, MAX_PROOF_BYTES), _policy(policy)))


@app.act("anchor", "audit.anchor", plain=True)
def anchor(
    place: Annotated[str, typer.Argument(metavar="LOG")],
    rpc: Annotated[str, typer.Option(metavar="URL", help="audit.rpc")],
    contract: Annotated[str, typer.Option(metavar="0x…", help="audit.contract")],
    chain_id: Annotated[int, typer.Option(metavar="N", help="audit.chain_id")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="audit.policy")],
    finality: Annotated[str, typer.Option(metavar="RULE", help="audit.finality")] = "finalized",
) -> None:
    source = open_source(place)
    asked = Asked(chain_id, contract, finality)
    note = source.read(CHECKPOINT)
    _say(audit_anchor(note, _policy(policy), asked, HttpRpc(rpc), source))


@app.act("equivocation", "audit.equivocation", plain=True)
def equivocation(
    first: Annotated[Path, typer.Argument(metavar="A")],
    second: Annotated[Path, typer.Argument(metavar="B")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="audit.policy")],
    place: Annotated[str | None, typer.Option("--log", metavar="LOG", help="audit.tiles")] = None,
) -> None:
    source = None if place is None else open_source(place)
    notes = [_read(path, MAX_NOTE_BYTES) for path in (first, second)]
    _say(audit_equivocation(notes[0], notes[1], _policy(policy), source))


@app.act("mirror", "audit.mirror", plain=True)
def mirror(
    place: Annotated[str, typer.Argument(metavar="LOG")],
    folder: Annotated[Path, typer.Argument(metavar="COPY")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="audit.policy")],
    documents: Annotated[
        str | None, typer.Option(metavar="FOLDER_OR_URL", help="audit.documents")
    ] = None,
) -> None:
    done = copies.mirror(folder, open_source(place), _policy(policy))
    size = done.checkpoint.size
    told = [say("audit.mirrored", folder=folder, size=f"{size:,}", new=f"{size - done.old_size:,}")]
    found: dict[str, object] = {
        "folder": str(folder),
        "origin": done.checkpoint.origin,
        "size": size,
        "old_size": done.old_size,
        "files": done.files,
    }
    if documents is not None:
        # The log first: it is the evidence, and whoever serves documents may be away.
        kept = keep_documents(folder, done.checkpoint, open_documents(documents))
        told += _kept_lines(kept)
        found["documents"] = {
            "folder": str(kept.folder),
            "announced": kept.announced,
            "new": kept.new,
            "missing": [
                {"document": str(name), "entry": entry} for name, entry in kept.missing.items()
            ],
        }
    answer(found, "\n".join(told), as_json=common().as_json)


def _kept_lines(kept: Kept) -> Iterator[str]:
    yield say(
        "audit.documents_kept",
        folder=kept.folder,
        count=f"{kept.announced - len(kept.missing):,}",
        announced=f"{kept.announced:,}",
        new=f"{kept.new:,}",
    )
    for name, entry in islice(kept.missing.items(), MAX_NAMED):
        yield say("audit.document_missing", document=name, entry=entry)
    if len(kept.missing) > MAX_NAMED:
        yield say("audit.documents_missing", count=f"{len(kept.missing) - MAX_NAMED:,}")


@app.act("history", "audit.history", plain=True)
def history(
    place: Annotated[str, typer.Argument(metavar="LOG")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="audit.policy")],
    old_policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="audit.old_policy")
    ] = None,
) -> None:
    from ledger.verify.archive import check_pairs, read_archive
    from ledger.verify.tiles import open_tree

    source = open_source(place)
    head = _policy(policy).check(source.read(CHECKPOINT)).checkpoint
    tree = open_tree(source, head)
    archive = read_archive(tree)
    pairs = check_pairs(tree, archive)
    folder.mkdir(parents=True, exist_ok=True)
    policies = []
    for since in archive.history.policies:
        file = folder / f"{since.index}-{since.at:%Y-%m-%d}.policy"
        file.write_bytes(since.text)
        policies.append({"entry": since.index, "from": f"{since.at:%FT%TZ}", "file": str(file)})
    keys = []
    for k in archive.history.keys:
        document = folder / f"{k.index}-{k.at:%Y-%m-%d}.keys"
        document.write_bytes(k.signed.envelope.to_bytes())
        keys.append(
            {
                "entry": k.index,
                "from": f"{k.at:%FT%TZ}",
                "keys": [*k.signed.document.keys],
                "file": str(document),
            }
        )
    follows = _follows(archive, head.origin, None if old_policy is None else _policy(old_policy))
    told = [say("audit.keys_since", entry=k["entry"], at=k["from"]) for k in keys]
    told += [
        say("audit.policy_since", entry=p["entry"], at=p["from"], file=p["file"]) for p in policies
    ]
    anchors = []
    for a in archive.history.anchors:
        at, chain, contract = f"{a.at:%FT%TZ}", a.chain_id, a.contract
        key = "audit.anchor_ended" if contract is None else "audit.anchor_since"
        told.append(say(key, entry=a.index, at=at, chain=chain, contract=contract))
        anchors.append({"entry": a.index, "from": at, "chain_id": chain, "contract": contract})
    told.append(say("audit.pairs", count=pairs))
    for one in follows:
        whose = name_of("succession", one["standing"])
        told.append(
            say("audit.follows", origin=one["origin"], size=one["size"], entry=one["entry"])
            + f"{whose} {one['reason']}".rstrip()
        )
    answer(
        {
            "origin": head.origin,
            "size": head.size,
            "keys": keys,
            "policies": policies,
            "anchors": anchors,
            "pairs": pairs,
            "follows": follows,
        },
        "\n".join(told),
        as_json=common().as_json,
    )
    if any(one["standing"] == "refused" for one in follows):
        raise typer.Exit(Exit.FAILED)


def _follows(archive: Archive, origin: str, old: Policy | None) -> list[dict[str, str]]:
    """Each log that this one says it follows, and by whose word. Without the old log's policy
    a word is not checked, and no word at all is named as such."""
    from ledger.verify.succession import check_succession

    keys = [key for since in archive.history.keys for key in since.signed.document.keys]
    found: list[dict[str, str]] = []
    for index, before in archive.follows:
        reason = ""
        standing = "claimed_unchecked" if before.authority is None else "unchecked"
        if old is not None:
            try:
                standing = check_succession(before, old, origin, keys).value
            except LedgerError as error:
                standing, reason = "refused", str(error)
        found.append(
            {
                "entry": str(index),
                "origin": printable(before.head.origin),
                "size": str(before.head.size),
                "checkpoint": str(digest(before.last.to_bytes())),
                "standing": standing,
                "reason": printable(reason),
            }
        )
    return found


@app.act("follow", "audit.follow")
def follow_log(
    place: Annotated[str, typer.Argument(metavar="LOG")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="audit.policy")],
    roots: Annotated[Path, typer.Option(metavar="FILE", help="audit.roots")],
    documents: Annotated[str, typer.Option(metavar="FOLDER_OR_URL", help="audit.documents")],
    state: Annotated[Path, typer.Option(metavar="FILE", help="audit.state")],
    bundles: Annotated[Path | None, typer.Option(metavar="FOLDER", help="audit.bundles")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="audit.fetch")] = False,
    open_with: Annotated[
        Path | None, typer.Option(metavar="FOLDER_OR_KEY", help="audit.open_with")
    ] = None,
    party: Annotated[str | None, typer.Option(metavar="PTY", help="audit.party")] = None,
    given: Annotated[
        list[Path] | None, typer.Option(metavar="FILE_OR_FOLDER", help="audit.given")
    ] = None,
    interval: Annotated[float, typer.Option(min=0, metavar="S", help="audit.interval")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="audit.once")] = False,
    stale: Annotated[float, typer.Option(min=0, metavar="S", help="audit.stale")] = (
        USUAL.stale.total_seconds()
    ),
    quiet: Annotated[float, typer.Option(min=0, metavar="S", help="audit.quiet")] = (
        USUAL.quiet.total_seconds()
    ),
    patience: Annotated[float, typer.Option(min=0, metavar="S", help="audit.patience")] = (
        USUAL.patience.total_seconds()
    ),
) -> None:
    if fetch and bundles is not None:
        raise typer.BadParameter(say("audit.fetch_or_bundles"))
    with ExitStack() as stack:
        deals: Bundles | None = None if bundles is None else FolderBundles(bundles)
        if fetch:
            deals = _FetchedBundles(stack.enter_context(opened()))
        what = Following(
            open_source(place),
            _policy(policy),
            Roots.parse(_read(roots, MAX_ROOTS_BYTES)),
            open_documents(documents),
            state,
            deals=deals,
            opener=None if open_with is None else opener(open_with, party),
            given=given or (),
            limits=Limits(
                timedelta(seconds=stale), timedelta(seconds=quiet), timedelta(seconds=patience)
            ),
            interval_s=interval,
            once=once,
            as_json=common().as_json,
            language=Language(language()),
        )
        code = follow(
            what,
            clock=SystemClock(),
            sleep=time.sleep,
            write=lines_to(sys.stdout),
            complain=lines_to(sys.stderr),
        )
    if code:
        raise typer.Exit(code)


class _FetchedBundles:
    """What the hub gives to the party whose settings these are: every deal to the regulators of
    the hub and of the agreement, its own to a consumer."""

    def __init__(self, node: Opened) -> None:
        self._node = node

    def read(self, deal: DealId) -> bytes | None:
        try:
            return self._node.hub.bundle(deal)
        except (NotYours, UnknownSubject):
            return None
        except HubUnreachable as error:
            raise SourceUnreachable(str(error)) from error


def _policy(path: Path) -> Policy:
    return Policy.parse(_read(path, MAX_POLICY_BYTES))


def _say(report: Report) -> None:
    """Print a report and end with its exit code, the one that `python -m ledger.verify` has."""
    _print(report)
    if code := exit_code(report):
        raise typer.Exit(code)


def _print(report: Report) -> None:
    voice = VOICES[Language(language())]
    if common().as_json:
        print_json(report.to_value(voice))
    else:
        sys.stdout.write(report.to_text(voice))


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
