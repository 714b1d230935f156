"""What travels between a node and the hub: a signed statement and the documents it names.

A document is identified by the digest of its canonical bytes; one that is a DSSE envelope, by the
digest of its payload, so that an agreement keeps its name when the second party signs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from crypto.digest import Digest, digest
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.statement import SignedStatement, read_statement

MAX_DOCUMENTS: Final = 64
MAX_BYTES: Final = 4 << 20
MAX_OPENING_BYTES: Final = 1 << 20  # sealed; a bundle with a larger one is read by no audit


@dataclass(frozen=True)
class Submission:
    """signed: the statement; documents: by digest, only ones that the statement names."""

    signed: SignedStatement
    documents: Mapping[Digest, bytes]

    def document(self, name: Digest) -> bytes:
        """Raises Malformed if the statement's sender left it out."""
        try:
            return self.documents[name]
        except KeyError:
            raise Malformed("documents", f"{name} is named but was not sent") from None


def document_digest(data: bytes) -> Digest:
    """The name of a document: its payload's digest if it is an envelope, else its own."""
    if data.startswith(b'{"payload":'):
        return Envelope.from_bytes(data).payload_digest
    return digest(data)


def read_submission(entry: bytes, documents: Iterable[bytes]) -> Submission:
    """Parse what arrived. Raises Malformed for oversize, strangers among the documents, or bytes
    that are not a statement. Checks no signature."""
    signed = read_statement(entry)
    found: dict[Digest, bytes] = {}
    statement = signed.statement
    named = {*statement.inputs, *statement.outputs}
    if statement.policy_digest is not None:
        named.add(statement.policy_digest)
    total = 0
    for data in documents:
        total += len(data)
        if len(found) == MAX_DOCUMENTS or total > MAX_BYTES:
            raise Malformed("documents", f"more than {MAX_DOCUMENTS}, or {MAX_BYTES} bytes in all")
        name = document_digest(data)
        if name not in named:
            raise Malformed("documents", f"{name} is not named by the statement")
        found[name] = data
    return Submission(signed, found)
