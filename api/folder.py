"""A participant's folder: its keys, its party document, and what it was told to trust.

    identity.key    Ed25519, names the party for life; needed only to sign party documents
    signing.key     Ed25519, signs statements, agreements, plans and requests
    sealing.key     X25519, opens results
    agreement.key   X25519, named in the party document for key agreement
    tls.pem         the key and certificate of its links
    party.json      the current party document, signed
    retired/        keys that a rotation replaced; results sealed to them can still be opened
    node.lock       held by the process that runs the node

Every key file has mode 0600 and is made here, never given a default.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from crypto import tls
from crypto.digest import Digest
from crypto.files import copy_file, make_folder, replace_file, sync
from crypto.identifiers import PartyId
from crypto.keys import (
    ExchangeKey,
    SigningKey,
    read_exchange_key,
    read_signing_key,
    write_key,
)
from crypto.tls import TlsIdentity
from registry.errors import DocumentRefused
from registry.party import PartyDocument, Role, SignedParty, party_id, read_party, sign_party

SIGNING: Final = ("identity.key", "signing.key")
EXCHANGE: Final = ("sealing.key", "agreement.key")
ROTATED: Final = ("signing.key", "sealing.key", "agreement.key", "tls.pem")
NEXT: Final = "next"


class FolderBusy(Exception):
    """Another process works with this folder: two nodes would break the party's one chain."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"a node is running in {path}; stop it, and repeat this command")
        self.path = path


@dataclass(frozen=True)
class PartyFolder:
    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        name: str,
        roles: Sequence[Role],
        *,
        now: datetime,
        controller: str | None = None,
    ) -> PartyFolder:
        """Make keys and a first party document. Raises KeyFileRefused if there are some already."""
        make_folder(path, 0o700)
        folder = cls(path)
        for file in SIGNING:
            write_key(path / file, SigningKey.generate())
        party = party_id(folder.identity.public)
        folder._make_exchange_keys(party, now=now)
        folder._write(
            sign_party(
                PartyDocument(
                    v=1,
                    party=party,
                    name=name,
                    roles=tuple(sorted(set(roles))),
                    seq=0,
                    previous=None,
                    identity=folder.identity.public,
                    signing=folder.signing.public,
                    sealing=folder.sealing.public,
                    agreement=folder.agreement.public,
                    tls_certificate=folder.tls.certificate,
                    valid_from=now,
                    controller=controller,
                ),
                folder.identity,
            )
        )
        return folder

    def rotate(self, *, now: datetime) -> SignedParty:
        """New signing, sealing, agreement and TLS keys, and the next party document.

        The keys before are kept in retired/<seq>/. The caller announces the new document with a
        `party.updated` statement, signed by the new signing key. Hold `alone` while calling this.

        A crash leaves the old keys, or new ones that `finish_rotation` puts in place: next/ counts
        only once its party.json is there, and that file leaves it last.
        """
        before = self.party
        retired = self.path / "retired" / str(before.document.seq)
        retired.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in ROTATED:
            copy_file(self.path / file, retired / file)
        for folder in (retired, retired.parent, self.path):
            sync(folder)  # before the only other copy is replaced
        shutil.rmtree(self.path / NEXT, ignore_errors=True)
        fresh = PartyFolder(self.path / NEXT)
        fresh.path.mkdir(mode=0o700)
        write_key(fresh.path / "signing.key", SigningKey.generate())
        fresh._make_exchange_keys(before.document.party, now=now)
        after = sign_party(
            replace(
                before.document,
                seq=before.document.seq + 1,
                previous=before.digest,
                signing=fresh.signing.public,
                sealing=fresh.sealing.public,
                agreement=fresh.agreement.public,
                tls_certificate=fresh.tls.certificate,
                valid_from=now,
            ),
            self.identity,
        )
        fresh._write(after)
        self.finish_rotation()
        return after

    def declare(self, controller: str, *, now: datetime) -> SignedParty:
        """The next party document: the same keys, and who controls the party.

        The caller announces it with a `party.updated` statement. Hold `alone` while calling this.
        Raises DocumentRefused if `controller` is no credit code.
        """
        before = self.party
        after = sign_party(
            replace(
                before.document,
                seq=before.document.seq + 1,
                previous=before.digest,
                valid_from=now,
                controller=controller,
            ),
            self.identity,
        )
        self._write(after)
        return after

    def finish_rotation(self) -> None:
        """Put the keys of a rotation in place that a crash interrupted. Safe to repeat."""
        fresh = self.path / NEXT
        if not (fresh / "party.json").exists():
            return
        for file in ROTATED:
            with suppress(FileNotFoundError):  # in place already
                (fresh / file).replace(self.path / file)
        sync(self.path)  # or a power cut might leave the document without its keys
        (fresh / "party.json").replace(self.path / "party.json")
        sync(self.path)
        fresh.rmdir()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While inside, no other process runs this party's node or changes its keys.

        Raises FolderBusy. The operating system lets go when the process ends, however it ends.
        """
        self.party  # noqa: B018 - raises, saying what to do, where there is no participant
        with (self.path / "node.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise FolderBusy(self.path) from None
            yield

    @property
    def party(self) -> SignedParty:
        """The current party document. Raises DocumentRefused if there is none."""
        try:
            return read_party((self.path / "party.json").read_bytes())
        except FileNotFoundError:
            raise DocumentRefused(
                str(self.path), "holds no party.json; `exchange init` makes a participant"
            ) from None

    def keep(self, party: SignedParty) -> None:
        """Take over the document with a registrar's signature on it."""
        if party.digest != self.party.digest:
            raise DocumentRefused("party.json", "is another document than this folder's")
        self._write(party)

    @property
    def identity(self) -> SigningKey:
        return read_signing_key(self.path / "identity.key")

    @property
    def signing(self) -> SigningKey:
        return read_signing_key(self.path / "signing.key")

    @property
    def sealing(self) -> ExchangeKey:
        return read_exchange_key(self.path / "sealing.key")

    @property
    def sealing_keys(self) -> Mapping[str, ExchangeKey]:
        """Current and retired, by the public key's text: results stay sealed to the old ones."""
        return self._with_retired(self.sealing, "sealing.key")

    @property
    def agreement_keys(self) -> Mapping[str, ExchangeKey]:
        """Current and retired, by the public key's text: plans name the documents of their time."""
        return self._with_retired(self.agreement, "agreement.key")

    @property
    def agreement(self) -> ExchangeKey:
        return read_exchange_key(self.path / "agreement.key")

    @property
    def tls(self) -> TlsIdentity:
        return tls.read_identity(self.path / "tls.pem")

    @property
    def digest(self) -> Digest:
        return self.party.digest

    def _with_retired(self, current: ExchangeKey, name: str) -> Mapping[str, ExchangeKey]:
        retired = sorted((self.path / "retired").glob(f"*/{name}"))
        keys = [current, *map(read_exchange_key, retired)]
        return {str(key.public): key for key in keys}

    def _make_exchange_keys(self, party: PartyId, *, now: datetime) -> None:
        for file in EXCHANGE:
            write_key(self.path / file, ExchangeKey.generate())
        tls.make_identity(self.path / "tls.pem", party, now=now)

    def _write(self, party: SignedParty) -> None:
        """Replace party.json in one step: a crash leaves the old or the new one."""
        replace_file(self.path / "party.json", party.envelope.to_bytes())
        sync(self.path.parent)  # where a rotation has only now made this folder
