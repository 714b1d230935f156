"""Settings of each process: one frozen object, read once at start from a TOML file and the
environment, the environment winning.

A key that is not known stops the program; a missing one is named with the command that makes it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from crypto.errors import Malformed
from exchange.links.endpoint import Endpoint
from ledger.errors import FormatRefused
from ledger.verify.note import COSIGNATURE_TYPES, VerifierKey

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
                key = name.removeprefix(cls.prefix).lower()
                found[key] = _listed(name, value) if value.startswith(("[", "{")) else value
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            found_wrong = error.errors(include_url=False, include_input=False)
            # A misspelt key first: what it was meant to be is missing only because of it.
            first = min(found_wrong, key=lambda wrong: wrong["type"] != "extra_forbidden")
            key = ".".join(map(str, first["loc"]))
            if first["type"] == "missing":
                raise SettingsRefused(
                    key,
                    f"is missing; set it in the settings file or as {cls.prefix}{key.upper()}. "
                    f"`{cls.made_by}` writes a file with every setting",
                ) from None
            if first["type"] == "extra_forbidden":
                raise SettingsRefused(key, "is not a setting of this program") from None
            problem = str(first["msg"]).removeprefix("Value error, ")
            raise SettingsRefused(key or "settings", problem) from None


def _listed(variable: str, text: str) -> Any:
    """A variable that holds several values, as a JSON array or object."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsRefused(variable, f"is not JSON: {error}") from None


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
    peer_networks: networks besides the public internet in which peers may be dialled
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
    peer_networks: tuple[NetworkText, ...] = ()
    engine_memory_mb: int = 4096


def endpoint(text: str) -> Endpoint:
    """`host:port` to listen at; port 0 takes a free one. Raises Malformed."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise Malformed("address", "is not an address to listen at, such as 127.0.0.1:8400")
    return Endpoint(host.removeprefix("[").removesuffix("]"), int(port))


def _listen(text: str) -> str:
    endpoint(text)
    return text


def _named(text: str) -> str:
    VerifierKey.parse(text)
    return text


def _checked(check: Callable[[str], str]) -> AfterValidator:
    def refuse(text: str) -> str:
        try:
            return check(text)
        except (Malformed, FormatRefused) as error:
            raise ValueError(str(error)) from None

    return AfterValidator(refuse)


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise Malformed("peer_networks", f"is not a network such as 10.8.0.0/16: {error}") from None
    return text


ListenAddress = Annotated[str, _checked(_listen)]
KeyText = Annotated[str, _checked(_named)]
NetworkText = Annotated[str, _checked(_network)]


class WitnessAddress(BaseModel):
    """url: the witness's submission prefix. vkeys: its verifier keys, as its operator gave them,
    one of each kind and all of one name; those that the policy does not list do not count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    vkeys: Annotated[tuple[KeyText, ...], Field(min_length=1, max_length=2)]

    @model_validator(mode="after")
    def _of_one_witness(self) -> Self:
        keys = [VerifierKey.parse(text) for text in self.vkeys]
        if any(key.key_type not in COSIGNATURE_TYPES for key in keys):
            raise ValueError("vkeys must be of cosigning keys")
        if len({key.name for key in keys}) != 1 or len({key.key_type for key in keys}) != len(keys):
            raise ValueError("vkeys must be of one witness, one of each kind")
        return self


class AnchorSettings(BaseModel):
    """Where the ledger's heads are anchored, and by which rules.

    rpc_url:       JSON-RPC of a node of the chain
    chain_id:      the chain that the node must say it is of
    contract:      address of the anchor contract
    finality:      "finalized" for the chain's own tag, else how many blocks make one final
    key_file:      of the account that sends; relative to the hub's folder
    every_s, every_entries: anchor after so long or so many, whichever comes first, and when a day
                   (UTC) has ended
    at_once_s:     acts of registration and settlement are anchored at once, but no sooner after
                   the head before
    patience_s:    how long a transaction waits before it is sent again for a higher fee, and a
                   head before it is signed under a second number of the account
    max_fee_gwei:  what a unit of gas may cost at most
    poll_s:        how often the chain is asked
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rpc_url: Annotated[str, Field(pattern="^https?://")]
    chain_id: Annotated[int, Field(ge=1, lt=2**63)]
    contract: Annotated[str, Field(pattern="^0x[0-9a-fA-F]{40}$")]
    finality: Literal["finalized"] | Annotated[int, Field(ge=1, le=10_000)]
    key_file: Path = Path("anchor.key")
    every_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    every_entries: Annotated[int, Field(ge=1)] = 10_000
    at_once_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    patience_s: Annotated[float, Field(ge=1, le=86_400)] = 120.0
    max_fee_gwei: Annotated[int, Field(ge=1, le=10**9)] = 500
    poll_s: Annotated[float, Field(ge=0.05, le=3600)] = 5.0


class HubSettings(Settings):
    """folder: the operator's own, with its keys, log.key and log.vkey.

    listen:                 host:port of the API; port 0 takes a free one
    public_url:             how participants write this hub's address; absent: as it listens
    relay_listen:           host:port of the relay for nodes that only dial out; absent: no relay
    tls_certificate:        PEM files of the chain and its key; both or neither. Without them, put
    tls_key:                a proxy that ends TLS in front
    database_url:           absent: hub.db in the folder
    policy_file:            the ledger's policy: which witnesses make a quorum
    witnesses:              whom to ask for cosignatures
    tiles_folder:           where the log is kept as static files too; absent: nowhere
    regulators:             party ids that may read every job and deal
    checkpoint_interval_ms: how long a statement waits for its place at most, about
    publish_interval_s:     how often witnesses are asked at most
    anchor:                 where witnessed heads are anchored; absent: nowhere
    """

    prefix: ClassVar[str] = "UNSEEN_HUB_"
    made_by: ClassVar[str] = "exchange hub init"

    folder: Path
    listen: ListenAddress
    public_url: str | None = None
    relay_listen: ListenAddress | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    database_url: str | None = None
    policy_file: Path
    witnesses: tuple[WitnessAddress, ...] = ()
    tiles_folder: Path | None = None
    regulators: tuple[str, ...] = ()
    checkpoint_interval_ms: Annotated[int, Field(ge=10, le=60_000)] = 100
    publish_interval_s: Annotated[float, Field(gt=0, le=3600)] = 1.0
    anchor: AnchorSettings | None = None
    max_body_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 20

    @property
    def store_url(self) -> str:
        """Of the hub's database."""
        return self.database_url or f"sqlite:///{self.folder / 'hub.db'}"

    @property
    def address(self) -> str:
        """Where programs on this machine or elsewhere reach the hub."""
        return self.public_url or f"{'http' if self.tls_key is None else 'https'}://{self.listen}"

    @model_validator(mode="after")
    def _both_tls_files(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        return self


class WitnessSettings(Settings):
    """folder: with the witness's keys. logs: verifier keys of the logs that it serves; while a log
    changes its key, the old and the new.

    name: what it signs under; belongs to its keys for good.
    database_url: absent: witness.db in the folder
    """

    prefix: ClassVar[str] = "UNSEEN_WITNESS_"
    made_by: ClassVar[str] = "exchange witness init"

    folder: Path
    name: str
    listen: ListenAddress
    logs: tuple[KeyText, ...]
    database_url: str | None = None
