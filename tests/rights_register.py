"""A register of rights with its people, for tests of the contract."""

from __future__ import annotations

import hashlib
from typing import Any

from ledger.contracts import load
from tests.contracts import ADMINISTRATOR, Deployed, Machine, address

START = 1_000_000
YEAR = 31_536_000
REGISTRAR, SECOND = address(0x11), address(0x12)
HOLDER, BUYER, MANAGER, GRANTEE, STRANGER = (address(n) for n in (0xA, 0xB, 0xC, 0xD, 0xE))
NONE = bytes(32)


def kind(name: str) -> bytes:
    return name.encode().ljust(32, b"\0")


HOLDING, PROCESSING = kind("holding"), kind("processing")


def hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class Register:
    """The contract with two registrars and two kinds; `entry()` gives a fresh entry hash."""

    def __init__(self) -> None:
        self.machine = Machine(START)
        self.contract: Deployed = self.machine.deploy(load("rights"))
        for registrar in (REGISTRAR, SECOND):
            self.contract("set_registrar", registrar, True, by=ADMINISTRATOR)
        for name in (HOLDING, PROCESSING):
            self.contract("set_kind", name, True, by=ADMINISTRATOR)
        self.entries = 0

    def entry(self) -> bytes:
        self.entries += 1
        return hashed(f"entry {self.entries}")

    def __call__(self, name: str, *arguments: Any, by: str = REGISTRAR) -> Any:
        return self.contract(name, *arguments, by=by)

    def later(self, seconds: int) -> None:
        self.machine.at(self.machine.now + seconds)

    def publicised(
        self,
        *,
        asset: str = "asset",
        kind: bytes = HOLDING,
        holder: str = HOLDER,
        parent: bytes = NONE,
        years: int = 3,
        notice_s: int = 0,
    ) -> bytes:
        right = self.entry()
        now = self.machine.now
        self(
            *("register", right, hashed(asset), kind, holder, parent, hashed("content")),
            *(now + years * YEAR, now + notice_s),
        )
        return right

    def certified(self, **fields: Any) -> bytes:
        right = self.publicised(**fields)
        self.later(fields.get("notice_s", 0))
        self("certify", self.entry(), right, by=SECOND)
        return right

    def licensed(self, right: bytes, *, by: str = HOLDER, expires_s: int = YEAR) -> bytes:
        licence = self.entry()
        self(
            *("license", licence, right, GRANTEE, hashed("terms"), hashed("scope")),
            self.machine.now + expires_s,
            by=by,
        )
        return licence

    def disputed(self, right: bytes) -> bytes:
        dispute = self.entry()
        self("dispute", dispute, right, hashed("claimant"), hashed("evidence"))
        return dispute

    def ruled(self, dispute: bytes, *, upheld: bool) -> None:
        self("rule", self.entry(), dispute, upheld, hashed("ruling"))

    def transferred(self, right: bytes, holder: str, *, licences: int = 0) -> None:
        self("transfer", self.entry(), right, holder, licences)
