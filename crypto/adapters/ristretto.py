"""ristretto255 by libsodium, as the package `rbcl` carries it.

libsodium computes these in constant time and lets go of the interpreter lock while it does, so
threads add up. `rbcl` checks neither sizes nor points where it is installed: callers do.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from crypto.errors import Malformed
from crypto.lookup.ports import Element, Scalar

_UNIFORM_BYTES: Final = 64


@dataclass(frozen=True)
class Ristretto255:
    """A `crypto.lookup.ports.Group`."""

    def element(self, uniform: bytes) -> Element:
        _require(uniform)
        return Element(_library().crypto_core_ristretto255_from_hash(uniform))

    def is_element(self, data: bytes) -> bool:
        return len(data) == 32 and bool(
            _library().crypto_core_ristretto255_is_valid_point(bytes(data))
        )

    def times(self, scalar: Scalar, element: Element) -> Element:
        try:
            return Element(_library().crypto_scalarmult_ristretto255(scalar, element))
        except RuntimeError:
            raise Malformed("element", "has no product, or the identity as product") from None

    def generator_times(self, scalar: Scalar) -> Element:
        try:
            return Element(_library().crypto_scalarmult_ristretto255_base(scalar))
        except RuntimeError:
            raise Malformed("scalar", "is 0") from None

    def plus(self, left: Element, right: Element) -> Element:
        return Element(_library().crypto_core_ristretto255_add(left, right))

    def scalar(self, uniform: bytes) -> Scalar:
        _require(uniform)
        return Scalar(_library().crypto_core_ristretto255_scalar_reduce(uniform))

    def scalar_times(self, left: Scalar, right: Scalar) -> Scalar:
        return Scalar(_library().crypto_core_ristretto255_scalar_mul(left, right))

    def scalar_minus(self, left: Scalar, right: Scalar) -> Scalar:
        return Scalar(_library().crypto_core_ristretto255_scalar_sub(left, right))

    def inverse(self, scalar: Scalar) -> Scalar:
        return Scalar(_library().crypto_core_ristretto255_scalar_invert(scalar))


@cache
def _library() -> Any:
    """Each import of `rbcl` writes libsodium to a new temporary file, loads it and leaves the file
    behind; once loaded it is not needed."""
    library = import_module("rbcl")
    Path(sys.modules["rbcl._sodium"].lib_path).unlink(missing_ok=True)
    return library


def _require(uniform: bytes) -> None:
    if len(uniform) != _UNIFORM_BYTES:
        raise Malformed("uniform", f"is not {_UNIFORM_BYTES} bytes")
