"""Settings of each process: one frozen object, read once at start from a TOML file and the
environment, the environment winning.

A key that is not known stops the program; a missing one is named with the command that makes it.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

SETTINGS_VARIABLE: Final = "UNSEEN_SETTINGS"


class SettingsRefused(Exception):
    """A setting that is missing, unknown or wrong. `key` names it."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


class Settings(BaseModel):
    """What every process's settings have in common. Relative paths start at the file's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: ClassVar[str] = "UNSEEN_"
    made_by: ClassVar[str] = "exchange init"

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """path: the settings file, else the one that UNSEEN_SETTINGS names, else none.

        Raises SettingsRefused, naming the key.
        """
        named = path or (Path(p) if (p := os.environ.get(SETTINGS_VARIABLE)) else None)
        found: dict[str, Any] = {}
        if named is not None:
            try:
                found = tomllib.loads(named.read_text("utf-8"))
            except FileNotFoundError:
                raise SettingsRefused(
                    str(named), f"does not exist; `{cls.made_by}` makes one"
                ) from None
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
                raise SettingsRefused(str(named), f"cannot be read: {error}") from None
            for key, field in cls.model_fields.items():
                if "Path" in str(field.annotation) and key in found:
                    found[key] = named.resolve().parent / str(found[key])
        for name, value in os.environ.items():
            if name.startswith(cls.prefix):
                found[name.removeprefix(cls.prefix).lower()] = value
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"]))
            if first["type"] == "missing":
                raise SettingsRefused(
                    key,
                    f"is missing; set it in the settings file or as {cls.prefix}{key.upper()}. "
                    f"`{cls.made_by}` writes a file with every setting",
                ) from None
            if first["type"] == "extra_forbidden":
                raise SettingsRefused(key, "is not a setting of this program") from None
            raise SettingsRefused(key, str(first["msg"])) from None


class NodeSettings(Settings):
    """folder: the participant's own, with its keys (see api.folder).

    operator:     the operator's party id, as its fingerprint was confirmed
    registrars:   public keys whose signature makes a party document trusted
    policy_file:  the ledger's policy (C2SP tlog-policy): whose log, which witnesses
    ca_file:      PEM authorities for the hub's certificate: a corporate one, or a demo's
    proxy_url:    HTTP proxy for everything this node dials
    link_listen:  host:port where links of peers come in; absent: this node only dials out
    link_address: host:port under which peers reach it; absent: as link_listen
    relay:        host:port of the hub's relay
    """

    prefix: ClassVar[str] = "UNSEEN_NODE_"

    folder: Path
    hub_url: str
    operator: str
    policy_file: Path
    database_url: str | None = None
    registrars: tuple[str, ...] = ()
    ca_file: Path | None = None
    proxy_url: str | None = None
    link_listen: str | None = None
    link_address: str | None = None
    relay: str | None = None
    engine_memory_mb: int = 4096
