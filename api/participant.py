"""Making a participant: keys, folder, policy and a settings file that explains itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from api.folder import PartyFolder
from api.settings import NodeSettings, SettingsRefused
from crypto.errors import Malformed
from crypto.files import replace_file
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from exchange.links.endpoint import Endpoint, Proxy
from ledger.errors import LedgerError
from ledger.verify.policy import Policy
from registry.credit_code import require_credit_code
from registry.party import Role

SETTINGS_FILE: Final = "settings.toml"
POLICY_FILE: Final = "policy"


@dataclass(frozen=True)
class Wishes:
    """What `exchange init` is told. Addresses are `host:port`; see NodeSettings."""

    name: str
    roles: Sequence[Role]
    hub_url: str
    operator: str
    policy: Path
    controller: str | None = None
    registrars: Sequence[str] = ()
    relay: str | None = None
    link_listen: str | None = None
    link_address: str | None = None
    ca_file: Path | None = None
    proxy_url: str | None = None


def create(
    path: Path, wishes: Wishes, *, now: datetime, explain: Callable[[str], str]
) -> PartyFolder:
    """A new participant's folder. Everything is checked before the first key is made.

    explain: the comment above a setting, by its name.
    Raises SettingsRefused, naming the setting, or KeyFileRefused where a participant is already.
    """
    settings = path / SETTINGS_FILE
    for file in (settings, path / POLICY_FILE, path / "identity.key"):
        if file.exists():
            raise SettingsRefused(
                str(file), "exists; a participant's folder is made once, so name another"
            )
    policy = _checked_policy(wishes.policy)
    _check(wishes)
    folder = PartyFolder.create(
        path, wishes.name, wishes.roles, now=now, controller=wishes.controller
    )
    replace_file(path / POLICY_FILE, policy)
    replace_file(settings, _settings_text(_values(wishes), explain).encode())
    return folder


def _check(wishes: Wishes) -> None:
    if not wishes.hub_url.startswith(("https://", "http://")):
        raise SettingsRefused("hub_url", "must start with https:// (or http:// for a trial)")
    if not 1 <= len(wishes.name) <= 80 or not wishes.name.isprintable():
        raise SettingsRefused("name", "must be 1 to 80 printable characters")
    if wishes.ca_file is not None and not wishes.ca_file.is_file():
        raise SettingsRefused("ca_file", f"{wishes.ca_file} is not a file")
    try:
        PartyId.parse(wishes.operator, where="operator")
        if wishes.controller is not None:
            require_credit_code(wishes.controller, where="controller")
        for text in wishes.registrars:
            PublicKey.parse(text, where="registrars")
        for name in ("relay", "link_listen", "link_address"):
            if (text := getattr(wishes, name)) is not None:
                Endpoint.parse(text, where=name)
        if wishes.proxy_url is not None:
            Proxy.parse(wishes.proxy_url)
    except Malformed as error:
        raise SettingsRefused(error.where, error.problem) from error


def _checked_policy(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        Policy.parse(data)
    except OSError as error:
        raise SettingsRefused("policy_file", f"{path} cannot be read: {error.strerror}") from None
    except LedgerError as error:
        raise SettingsRefused("policy_file", f"{path} is not a policy: {error}") from error
    return data


def _values(wishes: Wishes) -> Mapping[str, Any]:
    return {
        "folder": ".",
        "hub_url": wishes.hub_url,
        "operator": wishes.operator,
        "policy_file": POLICY_FILE,
        "registrars": list(wishes.registrars) or None,
        "ca_file": None if wishes.ca_file is None else str(wishes.ca_file.resolve()),
        "proxy_url": wishes.proxy_url,
        "link_listen": wishes.link_listen,
        "link_address": wishes.link_address,
        "relay": wishes.relay,
    }


def _settings_text(values: Mapping[str, Any], explain: Callable[[str], str]) -> str:
    """Every setting, with what it means; those without a value are commented out."""
    parts = []
    for name, field in NodeSettings.model_fields.items():
        comment = "".join(f"# {line}\n" for line in explain(name).split("\n"))
        value = values.get(name)
        if value is not None:
            parts.append(f"{comment}{name} = {_toml(value)}\n")
        else:
            example = field.default if field.default else ""
            parts.append(f"{comment}# {name} = {_toml(example)}\n")
    return "\n".join(parts)


def _toml(value: object) -> str:
    """A TOML string, integer or array of strings; JSON's spelling of those is TOML's as well."""
    if value == ():
        return "[]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
