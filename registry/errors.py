"""Every error of this package is a RegistryError.

RegistryError
├── NotTrusted         confirm the fingerprint out of band, or have a registrar sign
├── DocumentRefused    a party document or product that breaks its own rules
├── NotFound           no such party, product or source
├── SourceRefused      the holder's data does not fit the product; the message names the column
└── SourceUnreachable  try later: the file or database cannot be read now
"""

from __future__ import annotations


class RegistryError(Exception):
    """Base of all errors raised by `registry`."""


class NotTrusted(RegistryError):
    """A party document that neither a confirmed fingerprint nor a pinned registrar vouches for."""


class DocumentRefused(RegistryError):
    """A document that breaks its own rules. `where` names the field."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class NotFound(RegistryError):
    """Nothing is registered under this identifier."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not registered")
        self.what = what


class SourceRefused(RegistryError):
    """The holder's data does not fit the product. Tells the owner which column and why."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class SourceUnreachable(RegistryError):
    """The file or database cannot be read now."""
