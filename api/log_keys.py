"""The keys of the log in the operator's folder, and how they change.

    log.key, log.vkey      what signs heads, and its public half with the log's name
    log-next.key           what will sign alone: while it is here and declared, both sign
    log-sm2.key            signs a further line of each head with SM2, if the operator wants it
    log-sm3.key            signs the heads of the parallel SM3 tree
    log-recovery.key       replaces stolen keys: made here, to be taken offline
    log-keys/<number>.json what the log declares of its keys, in order; see ledger.verify.history
    retired/               keys that were replaced

The newest document decides which keys sign. A command writes keys first, then the document that
lists them, then the policy; each may be repeated after a crash. The hub logs documents at start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from api.settings import HubSettings, SettingsRefused
from crypto.files import copy_file, make_folder, replace_file, sync
from crypto.keys import Signer, SigningKey, read_signing_key, write_key
from ledger.errors import FormatRefused, KeysRefused
from ledger.verify.history import (
    SM3_SUFFIX,
    LogKeys,
    SignedLogKeys,
    read_log_keys,
    require_authority,
    sign_log_keys,
)
from ledger.verify.note import LOG_SIGNATURE, VerifierKey, log_key
from ledger.verify.policy import Policy

if TYPE_CHECKING:
    from crypto.adapters.sm2 import Sm2Key

LOG_KEY: Final = "log.key"
LOG_VKEY: Final = "log.vkey"
NEXT_KEY: Final = "log-next.key"
SM2_KEY: Final = "log-sm2.key"
SM3_KEY: Final = "log-sm3.key"
RECOVERY_KEY: Final = "log-recovery.key"
DOCUMENTS: Final = "log-keys"
RETIRED: Final = "retired"


@dataclass(frozen=True)
class LogKeyring:
    """documents: all, in order. signer: the first key in force. also: what signs beside it.

    sm3: what signs the parallel tree, if there is one
    """

    documents: Sequence[SignedLogKeys]
    signer: SigningKey
    also: Sequence[Signer]
    sm3: Signer | None

    @property
    def current(self) -> LogKeys:
        return self.documents[-1].document

    @property
    def ever(self) -> tuple[VerifierKey, ...]:
        """Every key that was ever in force: heads of that time are signed with no other."""
        keys = [key for signed in self.documents for key in signed.document.verifier_keys]
        return tuple(dict.fromkeys(keys))

    @property
    def ever_sm3(self) -> tuple[VerifierKey, ...]:
        """Every key that was ever to sign heads of the SM3 tree."""
        keys = [key for signed in self.documents for key in signed.document.sm2_keys]
        return tuple(dict.fromkeys(key for key in keys if key.name == self.current.sm3_origin))


def create_keys(folder: Path, origin: str, *, sm2: bool) -> LogKeyring:
    """A new log's keys, and the document that declares them. Raises FormatRefused for a name that
    no log can have, before anything is written; SuiteUnavailable; KeyFileRefused."""
    signer, recovery = SigningKey.generate(), SigningKey.generate()
    vkey = log_key(origin, signer)
    made = _make_sm2() if sm2 else ()
    document = LogKeys(
        v=1,
        origin=origin,
        seq=0,
        previous=None,
        keys=(str(vkey),),
        recovery=recovery.public,
        sm2=_sm2_vkeys(origin, made),
    )
    signed = sign_log_keys(document, signer, recovery)
    require_authority(signed, None)
    make_folder(folder, 0o700)
    write_key(folder / LOG_KEY, signer)
    write_key(folder / RECOVERY_KEY, recovery)
    _write_sm2(folder, made)
    replace_file(folder / LOG_VKEY, f"{vkey}\n".encode())
    _add(folder, signed)
    return LogKeyring([signed], signer, made[:1], made[1] if made else None)


def read_keyring(settings: HubSettings) -> LogKeyring:
    """Raises SettingsRefused, KeyFileRefused, KeysRefused, SuiteUnavailable."""
    folder = settings.folder
    first = read_signing_key(folder / LOG_KEY)
    _require_vkey(folder, first, settings.made_by)
    documents = read_documents(folder, settings.made_by)
    held: list[SigningKey] = [first]
    if (folder / NEXT_KEY).exists():
        held.append(read_signing_key(folder / NEXT_KEY))
    current = documents[-1].document
    signers = []
    for key in current.verifier_keys:
        found = [signer for signer in held if signer.public == key.key]
        if not found:
            raise SettingsRefused(str(folder / LOG_KEY), f"is not the declared key {key}")
        signers += found
    sm2 = {}
    for key in current.sm2_keys:
        from crypto.adapters.sm2 import read_sm2_key

        file = SM2_KEY if key.name == current.origin else SM3_KEY
        sm2[key.name] = read_sm2_key(folder / file)
        if sm2[key.name].public != key.key:
            raise SettingsRefused(str(folder / file), f"is not the declared key {key}")
    line = [sm2[current.origin]] if current.origin in sm2 else []
    return LogKeyring(documents, signers[0], [*signers[1:], *line], sm2.get(current.sm3_origin))


def read_documents(folder: Path, made_by: str) -> list[SignedLogKeys]:
    """All keys documents of a folder, each with the authority to follow the one before.

    Raises SettingsRefused, KeysRefused.
    """
    found: list[SignedLogKeys] = []
    while (path := folder / DOCUMENTS / f"{len(found)}.json").exists():
        signed = read_log_keys(path.read_bytes())
        require_authority(signed, found[-1] if found else None)
        found.append(signed)
    if not found:
        raise SettingsRefused(str(folder / DOCUMENTS), f"is empty; `{made_by}` fills it")
    return found


def begin_rotation(settings: HubSettings) -> VerifierKey:
    """Make the next key of the log, which signs beside the present one once the hub has started
    again. Returns its verifier key, for witnesses and participants to trust as well."""
    ring = read_keyring(settings)
    before = ring.documents[-1]
    if len(before.document.keys) == 1:
        following = _next_key(settings.folder)
        vkey = log_key(before.document.origin, following)
        document = _after(before, keys=(*before.document.keys, str(vkey)))
        _add(settings.folder, _authorised(document, before, ring.signer, following))
    current = read_documents(settings.folder, settings.made_by)[-1].document
    _write_policy(settings.policy_file, current)
    return current.verifier_keys[-1]


def end_rotation(settings: HubSettings) -> VerifierKey:
    """The next key signs alone once the hub has started again. Returns its verifier key.

    Raises KeysRefused if no rotation was begun.
    """
    documents = read_documents(settings.folder, settings.made_by)
    before = documents[-1]
    if len(before.document.keys) == 2:
        following = read_signing_key(settings.folder / NEXT_KEY)
        document = _after(before, keys=before.document.keys[1:])
        _add(settings.folder, _authorised(document, before, following))
    elif not (settings.folder / NEXT_KEY).exists() and _names_current(settings.folder, before):
        raise KeysRefused("no rotation was begun")
    return _settle(settings)


def recover(settings: HubSettings, recovery_key: Path) -> VerifierKey:
    """Replace whatever keys are in force by a new one, on the word of the recovery key alone.

    Raises KeyFileRefused, KeysRefused if it is not the recovery key of this log.
    """
    documents = read_documents(settings.folder, settings.made_by)
    before = documents[-1]
    recovery = read_signing_key(recovery_key)
    if recovery.public != before.document.recovery:
        raise KeysRefused(f"{recovery_key} does not hold the recovery key of this log")
    (settings.folder / NEXT_KEY).unlink(missing_ok=True)  # may be as stolen as the other
    following = _next_key(settings.folder)
    document = _after(before, keys=(str(log_key(before.document.origin, following)),))
    _add(settings.folder, _authorised(document, before, following, recovery))
    return _settle(settings)


def add_sm2(settings: HubSettings) -> tuple[VerifierKey, ...]:
    """From the next start on heads carry an SM2 line too, and a parallel SM3 tree is kept.

    Raises SuiteUnavailable. Keys that are there already are kept.
    """
    ring = read_keyring(settings)
    before = ring.documents[-1]
    if not before.document.sm2:
        made = _make_sm2()
        for file in (SM2_KEY, SM3_KEY):  # of an attempt that declared nothing
            (settings.folder / file).unlink(missing_ok=True)
        _write_sm2(settings.folder, made)
        document = replace(
            _after(before, keys=before.document.keys),
            sm2=_sm2_vkeys(before.document.origin, made),
        )
        _add(settings.folder, _authorised(document, before, ring.signer))
    return read_documents(settings.folder, settings.made_by)[-1].document.sm2_keys


def policy_for(text: str, keys: LogKeys) -> str:
    """A policy file with exactly these keys of the log; everything else stays as it is."""
    wanted = [str(key) for key in keys.verifier_keys]
    lines: list[str] = []
    place, url = 0, ""
    for line in text.splitlines(keepends=True):
        words = line.split()
        if words[:1] == ["log"] and len(words) > 1 and _is_ours(words[1], keys.origin):
            url = url or " ".join(words[2:])
            place = place or len(lines) + 1
            continue
        lines.append(line)
    ours = [f"log {key} {url}".rstrip() + "\n" for key in wanted]
    at = max(place - 1, 0)
    return "".join([*lines[:at], *ours, *lines[at:]])


def _is_ours(vkey: str, origin: str) -> bool:
    try:
        key = VerifierKey.parse(vkey)
    except FormatRefused:
        return False
    return key.name == origin and key.key_type == LOG_SIGNATURE


def _after(before: SignedLogKeys, *, keys: tuple[str, ...]) -> LogKeys:
    document = before.document
    return replace(document, seq=document.seq + 1, previous=before.digest, keys=keys)


def _authorised(document: LogKeys, before: SignedLogKeys, *signers: Signer) -> SignedLogKeys:
    signed = sign_log_keys(document, *signers)
    require_authority(signed, before)
    return signed


def _names_current(folder: Path, signed: SignedLogKeys) -> bool:
    """Whether log.vkey, the last file that a change writes, is of the key that is in force."""
    return (folder / LOG_VKEY).read_text("utf-8").strip() == signed.document.keys[0]


def _next_key(folder: Path) -> SigningKey:
    if not (folder / NEXT_KEY).exists():
        write_key(folder / NEXT_KEY, SigningKey.generate())
    return read_signing_key(folder / NEXT_KEY)


def _settle(settings: HubSettings) -> VerifierKey:
    """The policy and the files as the newest document says; the key before goes to retired/."""
    folder = settings.folder
    current = read_documents(folder, settings.made_by)[-1].document
    _write_policy(settings.policy_file, current)
    (vkey,) = current.verifier_keys
    if (folder / NEXT_KEY).exists():
        if (folder / LOG_KEY).exists():
            (folder / RETIRED).mkdir(mode=0o700, exist_ok=True)
            copy_file(folder / LOG_KEY, folder / RETIRED / f"log-{current.seq}.key")
            for kept in (folder / RETIRED, folder):
                sync(kept)  # before the only other copy is replaced
        (folder / NEXT_KEY).replace(folder / LOG_KEY)
        sync(folder)  # or a power cut might leave log.vkey without its key
    replace_file(folder / LOG_VKEY, f"{vkey}\n".encode())
    return vkey


def _write_policy(path: Path, keys: LogKeys) -> None:
    before = path.read_text("utf-8")
    after = policy_for(before, keys)
    Policy.parse(after.encode())
    if after != before:
        replace_file(path, after.encode())


def _add(folder: Path, signed: SignedLogKeys) -> None:
    (folder / DOCUMENTS).mkdir(mode=0o700, exist_ok=True)
    sync(folder)
    path = folder / DOCUMENTS / f"{signed.document.seq}.json"
    replace_file(path, signed.envelope.to_bytes())


def _require_vkey(folder: Path, signer: SigningKey, made_by: str) -> None:
    path = folder / LOG_VKEY
    try:
        key = VerifierKey.parse(path.read_text("utf-8").strip())
    except FileNotFoundError:
        raise SettingsRefused(
            str(path), f"does not exist; `{made_by}` makes it with the log's key"
        ) from None
    except (FormatRefused, UnicodeDecodeError) as error:
        raise SettingsRefused(str(path), f"cannot be read: {error}") from None
    if key != VerifierKey(key.name, LOG_SIGNATURE, signer.public):
        raise SettingsRefused(str(path), f"is not the public half of {LOG_KEY}")


def _make_sm2() -> tuple[Sm2Key, ...]:
    """Two keys: one key under two names is one key twice to a policy."""
    from crypto.adapters.sm2 import Sm2Key

    return Sm2Key.generate(), Sm2Key.generate()


def _sm2_vkeys(origin: str, made: Sequence[Sm2Key]) -> tuple[str, ...]:
    names = (origin, origin + SM3_SUFFIX)
    return tuple(str(log_key(name, key)) for name, key in zip(names, made, strict=False))


def _write_sm2(folder: Path, made: Sequence[Sm2Key]) -> None:
    from crypto.adapters.sm2 import write_sm2_key

    for file, key in zip((SM2_KEY, SM3_KEY), made, strict=False):
        write_sm2_key(folder / file, key)
