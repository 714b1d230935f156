"""Every error of this package is a CryptoError; each leaf is something a caller does differently.

CryptoError
├── Malformed          fix the bytes: the message names the field
├── BadSignature       stop: somebody altered or forged this
├── UnknownKey         ask for the party document that carries this key
├── CannotOpen         the ciphertext was not sealed to this key, or was altered
├── SuiteUnavailable   install what the message names; nothing is known of the signature
├── KeyFileRefused     make or protect the key file as the message says
├── KeyRefused         a join key this side cannot canonicalise
└── EngineFailed       the engine ended without a result; the job fails, nothing is released
"""

from __future__ import annotations

from enum import Enum


class CryptoError(Exception):
    """Base of all errors raised by `crypto`."""


class Malformed(CryptoError):
    """Bytes or a value that do not follow their format. `where` is the field's path."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where or 'document'}: {problem}")
        self.where = where
        self.problem = problem

    def inside(self, where: str) -> Malformed:
        """The same problem, as it is told of the whole that holds this value at `where`."""
        inner = self.where
        return Malformed(
            f"{where}.{inner}" if inner and not inner.startswith("[") else where + inner,
            self.problem,
        )


class BadSignature(CryptoError):
    """A signature that does not verify under the key it names."""


class UnknownKey(CryptoError):
    """No trusted key has this identifier."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no trusted key has the identifier {key_id}")
        self.key_id = key_id


class CannotOpen(CryptoError):
    """A sealed message that this key does not open."""


class SuiteUnavailable(CryptoError):
    """This machine cannot compute with keys of a suite."""

    def __init__(self, suite: str, problem: str) -> None:
        super().__init__(f"keys of the suite {suite} cannot be used here: {problem}")
        self.suite = suite


class KeyFileRefused(CryptoError):
    """A key file that is missing, malformed or readable by others."""


class KeyRefused(CryptoError):
    """A join key column that cannot be brought to canonical bytes."""


class EngineFault(Enum):
    """Why an engine run ended without a result."""

    INPUT = "input"  # this side's own rows or task; nothing was sent
    PEER = "peer"  # the other party could not be reached, or went away
    MISMATCH = "mismatch"  # the two parties were not given the same task
    LAYOUT = "layout"  # this build of the engine does not store shares as expected
    DEADLINE = "deadline"
    MEMORY = "memory"
    KILLED = "killed"  # on purpose: a cancelled job, a revoked agreement, a node shutting down
    CRASHED = "crashed"


class EngineFailed(CryptoError):
    """A native engine ended without a result. `fault` says why; the words carry no data."""

    def __init__(self, fault: EngineFault, problem: str) -> None:
        super().__init__(f"engine run failed ({fault.value}): {problem}")
        self.fault = fault
        self.problem = problem
