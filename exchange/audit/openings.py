"""Opening what statements committed to, for the one reader whose key the auditor brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crypto import sealing
from crypto.errors import CannotOpen
from crypto.identifiers import PartyId
from crypto.keys import ExchangeKey
from exchange.audit.evidence import Evidence
from exchange.audit.log import Said
from exchange.terms.agreement import Terms
from ledger.verify.report import Phrase, phrase


@dataclass(frozen=True)
class Opener:
    """A reader that agreements may name as their regulator, with its sealing key."""

    party: PartyId
    key: ExchangeKey


class NotOpened(Exception):
    """Why an opening was not opened. failed: whether that is the fault of whoever sealed it."""

    def __init__(self, why: Phrase, *, failed: bool) -> None:
        super().__init__(why.key)
        self.why = why
        self.failed = failed


def open_for(
    said: Said, terms: Sequence[Terms], *, context: bytes, evidence: Evidence, opener: Opener | None
) -> bytes:
    """The opening of a statement that these terms govern. Raises NotOpened.

    It counts as missing or badly sealed only where it was owed to this reader under this very
    key, by the party document that the terms pin.
    """
    pinned = [(t.regulator, t.regulator_document) for t in terms if t.regulator is not None]
    if not pinned:
        raise NotOpened(phrase("opening.no_reader"), failed=False)
    if opener is None:
        raise NotOpened(phrase("opening.no_key"), failed=False)
    documents = [
        known.document
        for reader, document in pinned
        if reader == opener.party
        and document is not None
        and (known := evidence.parties.documents.get(document)) is not None
    ]
    # Agreements may name one reader before and after it changed its keys: the newer one counts.
    newest = max(documents, key=lambda document: document.seq, default=None)
    if newest is None or opener.key.public != newest.sealing:
        raise NotOpened(phrase("opening.other_reader"), failed=False)
    sealed = evidence.openings.get((said.signed.digest, opener.party))
    if sealed is None:
        raise NotOpened(phrase("opening.missing"), failed=True)
    try:
        return sealing.open_sealed(sealed, opener.key, context=context)
    except CannotOpen as error:
        raise NotOpened(phrase("reason", reason=error), failed=True) from None
