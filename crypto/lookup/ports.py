"""The prime-order group that a lookup computes in: ristretto255 (RFC 9496)."""

from __future__ import annotations

from typing import NewType, Protocol

Element = NewType("Element", bytes)  # 32 bytes, canonical, never the identity unless said
Scalar = NewType("Scalar", bytes)  # 32 bytes, little-endian, below the group's order


class Group(Protocol):
    """Operations of RFC 9497, section 2.1, in time that does not depend on a scalar.

    What is passed in must have come from this group or from `crypto.lookup.oprf.decode_*`; a
    product that is the identity raises Malformed, which honest values reach with no chance.
    """

    def element(self, uniform: bytes) -> Element:
        """64 uniform bytes to a uniform element: RFC 9496, section 4.3.4."""
        ...

    def is_element(self, data: bytes) -> bool:
        """Whether 32 bytes are the canonical encoding of an element, the identity included."""
        ...

    def times(self, scalar: Scalar, element: Element) -> Element: ...

    def generator_times(self, scalar: Scalar) -> Element: ...

    def plus(self, left: Element, right: Element) -> Element: ...

    def scalar(self, uniform: bytes) -> Scalar:
        """64 bytes, little-endian, modulo the order."""
        ...

    def scalar_times(self, left: Scalar, right: Scalar) -> Scalar: ...

    def scalar_minus(self, left: Scalar, right: Scalar) -> Scalar: ...

    def inverse(self, scalar: Scalar) -> Scalar:
        """Of a scalar that is not 0."""
        ...
