"""Making the folders of those who run the infrastructure: the hub's operator, and a witness.

log.key and others         the ledger's keys; see api.log_keys
witness.key, witness.vkey  the same of a witness; witness-ml-dsa.key and .vkey of its other key
policy                     whose log this is, and which witnesses count (C2SP tlog-policy)
predecessor                the log that this one follows, if it follows one: its last head, and
                           what its key or recovery key signed; see ledger.verify.succession
settings.toml              every setting of the process, explained
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from api.folder import PartyFolder
from api.log_keys import DOCUMENTS, LOG_KEY, LOG_VKEY, RECOVERY_KEY, create_keys
from api.settings import SettingsRefused
from crypto.files import make_folder, replace_file
from crypto.keys import MlDsaKey, Signer, SigningKey, write_key
from ledger.errors import FormatRefused, LedgerError
from ledger.evidence import log_succeeded
from ledger.verify.history import read_log_keys
from ledger.verify.note import (
    COSIGNATURE,
    LOG_SIGNATURE,
    ML_DSA_COSIGNATURE,
    Note,
    VerifierKey,
)
from ledger.verify.policy import Policy
from ledger.verify.succession import Predecessor, authorise, check_succession
from registry.party import Role

SETTINGS: Final = "settings.toml"
POLICY: Final = "policy"
PREDECESSOR: Final = "predecessor"
WITNESS_KEY: Final = "witness.key"
WITNESS_VKEY: Final = "witness.vkey"
WITNESS_ML_DSA_KEY: Final = "witness-ml-dsa.key"
WITNESS_ML_DSA_VKEY: Final = "witness-ml-dsa.vkey"
WITNESS_DATABASE: Final = "witness.db"

_HUB: Final = """\
# Paths start at this file's folder. Every setting can also come from the environment, as
# UNSEEN_HUB_ and its name in capitals.
folder = "."

# host:port of the API. Put a proxy that ends TLS in front, or name PEM files here.
listen = {listen}
# tls_certificate = "chain.pem"
# tls_key = "chain.key"

# How participants write this hub's address, if not as it listens.
{public_url}

# host:port of the relay for nodes that accept no connections.
{relay_listen}

# Absent: hub.db in this folder. Several hub processes may share a PostgreSQL database.
# database_url = "postgresql://unseen@db.example/unseen"

# Whose log this is, and which witnesses make a quorum. Participants and auditors need a copy.
policy_file = "policy"

# A folder in which the whole log is kept as static files (C2SP tlog-tiles), for any web server and
# as a full copy: a log whose database was lost comes back from it, and a hub whose database is
# older than these files refuses to sign. Put it on another disk than the database. To begin it,
# make it with an empty file `checkpoint` inside: an unmounted disk has none.
# tiles_folder = "/srv/unseen-log"

# Party ids of regulators who may read every job and deal.
regulators = []

# How often the log is signed, and how often witnesses are asked at most.
checkpoint_interval_ms = 100
publish_interval_s = 1.0

# Witnesses to ask for cosignatures; add each key to the policy as well.
# [[witnesses]]
# url = "https://witness.example"
# vkeys = ["witness.example+0123abcd+BA…", "witness.example+4567cdef+Bg…"]

# Where witnessed heads are anchored; without it, nowhere. `exchange chain init` makes the key,
# `exchange chain deploy` the contract, and prints what belongs here.
# [anchor]
# rpc_url = "https://chain.example"
# chain_id = 1
# contract = "0x…"
# finality = "finalized"  # or a number of blocks; 1 where a block is final at once
# key_file = "anchor.key"
# every_s = 600.0
# every_entries = 10000
# at_once_s = 60.0  # acts of registration and settlement do not wait for that
# patience_s = 120.0
# max_fee_gwei = 500
# poll_s = 5.0
"""
_WITNESS: Final = """\
# Paths start at this file's folder. Every setting can also come from the environment, as
# UNSEEN_WITNESS_ and its name in capitals.
folder = "."

# What this witness signs under; belongs to its keys for good.
name = {name}

# host:port where logs ask for cosignatures.
listen = {listen}

# Verifier keys of the logs that it serves.
logs = {logs}

# Absent: witness.db in this folder. A witness that has lost its database must be retired.
# database_url = "postgresql://witness@db.example/witness"
"""


@dataclass(frozen=True)
class Succeeded:
    """The log that a new one follows.

    last:   its last head, a signed note. policy: its policy file, which must accept that head
    signer: its key, or its recovery key; None where the operator has neither, and then the
            succession is only claimed
    keys:   its newest keys document; needed for the recovery key, which it names
    """

    last: bytes
    policy: bytes
    signer: Signer | None
    keys: bytes | None


@dataclass(frozen=True)
class MadeHub:
    """recovery_key: the file to be taken offline."""

    folder: PartyFolder
    log_key: VerifierKey
    sm2_keys: tuple[VerifierKey, ...]
    recovery_key: Path
    settings: Path
    policy: Path


@dataclass(frozen=True)
class MadeWitness:
    """keys: Ed25519, which every tool reads, and ML-DSA-44."""

    keys: tuple[VerifierKey, VerifierKey]
    settings: Path


def create_hub(
    path: Path,
    name: str,
    origin: str,
    *,
    listen: str,
    public_url: str | None,
    relay_listen: str | None,
    sm2: bool = False,
    succeeds: Succeeded | None = None,
    now: datetime,
) -> MadeHub:
    """An operator's folder. origin: the log's name, such as `exchange.example/log`.

    sm2:      heads are signed with SM2 as well, and a parallel SM3 tree is kept
    succeeds: a log that cannot be continued: the new one says at its beginning that it takes
              that one's place

    Its policy asks for no witness until one is added. Raises SettingsRefused for what cannot be,
    KeyFileRefused where a participant is already.
    """
    trial = _named_key("origin", origin, LOG_SIGNATURE, SigningKey.generate())
    if succeeds is not None:
        _follow(succeeds, trial)  # before anything is written
    _require_free(path, SETTINGS, POLICY, LOG_KEY, LOG_VKEY, RECOVERY_KEY, DOCUMENTS)
    folder = PartyFolder.create(path, name, [Role.OPERATOR], now=now)
    keys = create_keys(path, origin, sm2=sm2).current
    (key,) = keys.verifier_keys
    if succeeds is not None:
        replace_file(path / PREDECESSOR, _follow(succeeds, key).to_bytes())
    replace_file(path / POLICY, f"log {key}\nquorum none\n".encode())
    text = _HUB.format(
        listen=_toml(listen),
        public_url=_optional("public_url", public_url, "https://hub.example"),
        relay_listen=_optional("relay_listen", relay_listen, "0.0.0.0:8401"),
    )
    replace_file(path / SETTINGS, text.encode())
    return MadeHub(folder, key, keys.sm2_keys, path / RECOVERY_KEY, path / SETTINGS, path / POLICY)


def create_witness(path: Path, name: str, logs: Sequence[str], *, listen: str) -> MadeWitness:
    """A witness's folder, with a database in which nothing has been cosigned yet.

    logs: verifier keys. Raises SettingsRefused or KeyFileRefused.
    """
    from api.database import bring_up_to_date, open_engine

    signer, ml_dsa = SigningKey.generate(), MlDsaKey.generate()
    key = _named_key("name", name, COSIGNATURE, signer)
    ml_dsa_key = _named_key("name", name, ML_DSA_COSIGNATURE, ml_dsa)
    for text in logs:
        try:
            VerifierKey.parse(text)
        except FormatRefused as error:
            raise SettingsRefused("logs", str(error)) from None
    files = (WITNESS_KEY, WITNESS_VKEY, WITNESS_ML_DSA_KEY, WITNESS_ML_DSA_VKEY)
    _require_free(path, SETTINGS, WITNESS_DATABASE, *files)
    make_folder(path, 0o700)
    write_key(path / WITNESS_KEY, signer)
    replace_file(path / WITNESS_VKEY, f"{key}\n".encode())
    write_key(path / WITNESS_ML_DSA_KEY, ml_dsa)
    replace_file(path / WITNESS_ML_DSA_VKEY, f"{ml_dsa_key}\n".encode())
    engine = open_engine(f"sqlite:///{path / WITNESS_DATABASE}")
    bring_up_to_date(engine, "witness")
    engine.dispose()
    text = _WITNESS.format(name=_toml(name), listen=_toml(listen), logs=_toml(list(logs)))
    replace_file(path / SETTINGS, text.encode())
    return MadeWitness((key, ml_dsa_key), path / SETTINGS)


def _follow(old: Succeeded, key: VerifierKey) -> Predecessor:
    """What the log of `key` says of the one before it, as its auditors will check it."""
    try:
        last = Note.parse(old.last)
        found = Predecessor(last)
        if old.signer is not None:
            keys = None if old.keys is None else read_log_keys(old.keys)
            found = authorise(last, key, old.signer, keys)
        check_succession(found, Policy.parse(old.policy), key.name, [str(key)])
        log_succeeded(key.name, found)
    except LedgerError as error:
        raise SettingsRefused("succeeds", str(error)) from None
    return found


def _named_key(setting: str, name: str, key_type: int, signer: Signer) -> VerifierKey:
    try:
        return VerifierKey(name, key_type, signer.public)
    except FormatRefused as error:
        raise SettingsRefused(setting, error.problem) from None


def _require_free(path: Path, *files: str) -> None:
    for file in files:
        if (path / file).exists():
            raise SettingsRefused(str(path / file), "exists; name another folder")


def _optional(name: str, value: str | None, example: str) -> str:
    return f"# {name} = {_toml(example)}" if value is None else f"{name} = {_toml(value)}"


def _toml(value: object) -> str:
    """JSON's spelling of texts and arrays of texts is TOML's as well, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
