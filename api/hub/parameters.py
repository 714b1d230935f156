"""Identifiers, digests and cursors in addresses.

Their shape is checked by the schema, so that a wrong one is refused by its parameter's name.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Path, Query

from api.http.errors import MalformedParameter
from crypto.errors import Malformed
from crypto.identifiers import ProductId
from crypto.record import decode_base64, encode_base64

PAGE: Final = 20
LONGEST_PAGE: Final = 100

_HEX: Final = "[0-9a-f]{32}"
_TAIL: Final = "019abd41f0007d3c8a1b2c3d4e5f6071"
_DIGEST: Final = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

PartyText = Annotated[str, Path(pattern=f"^pty_{_HEX}$", examples=[f"pty_{_TAIL}"])]
ProductText = Annotated[str, Path(pattern=f"^prd_{_HEX}$", examples=[f"prd_{_TAIL}"])]
JobText = Annotated[str, Path(pattern=f"^job_{_HEX}$", examples=[f"job_{_TAIL}"])]
DealText = Annotated[str, Path(pattern=f"^dea_{_HEX}$", examples=[f"dea_{_TAIL}"])]
DigestText = Annotated[str, Path(pattern="^sha256:[0-9a-f]{64}$", examples=[_DIGEST])]
CurrencyText = Annotated[str, Path(pattern="^[A-Z]{3,4}$", examples=["CNY"])]

Cursor = Annotated[
    str | None,
    Query(alias="after", max_length=80, description="`next_cursor` of the page before."),
]
Limit = Annotated[int, Query(ge=1, le=LONGEST_PAGE, description="Most items on the page.")]


def cursor(after: ProductId | None) -> str | None:
    """Opaque to the reader, so that what we sort by can change."""
    return None if after is None else encode_base64(after.encode())


def product_after(text: str | None) -> ProductId | None:
    """Raises MalformedParameter for a cursor that is not ours."""
    if text is None:
        return None
    try:
        return ProductId.parse(decode_base64(text).decode("ascii"))
    except (Malformed, UnicodeDecodeError):
        raise MalformedParameter("after", "is not a cursor that this hub gave out") from None
