"""The hub's OpenAPI document, without a database or a socket.

python -m api.hub.openapi            writes docs/openapi.json anew
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from api.hub.app import new_hub_app
from api.hub.desk import Booking
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemClock, SystemRandomness
from exchange.hub.model import Operator
from exchange.hub.ports import HubTransaction
from exchange.hub.service import HubService

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "openapi.json"


class _Nothing:
    """Storage that nobody asks: only the shape of the application is wanted."""

    @contextmanager
    def transaction(self) -> Iterator[HubTransaction]:
        raise RuntimeError("the document is made without storage")
        yield

    reading = transaction

    def remember(self, keyid: str, nonce: str, expires: object) -> bool:
        raise RuntimeError("the document is made without storage")


@contextmanager
def _no_booking() -> Iterator[Booking]:
    raise RuntimeError("the document is made without storage")
    yield


def document() -> dict[str, Any]:
    nothing = _Nothing()
    operator = Operator(
        PartyId("pty_" + "0" * 32), SigningKey.generate(), SystemClock(), SystemRandomness()
    )
    app = new_hub_app(
        HubService(nothing, operator),
        nonces=nothing,
        booking=_no_booking,
        authorities=(),
        checks={},
    )
    return app.openapi()


def text() -> str:
    return json.dumps(document(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(text(), "utf-8")
