"""Roots files: what is read, and which line is refused."""

from __future__ import annotations

import pytest

from crypto.keys import ExchangeKey, SigningKey
from exchange.audit.errors import RootsRefused
from exchange.audit.roots import Roots

KEY = SigningKey.generate().public
OTHER = SigningKey.generate().public


def test_fingerprints_registrars_comments_and_empty_lines_are_read() -> None:
    text = f"# who we know\n\nfingerprint {KEY.fingerprint}\n  registrar   {OTHER}\n"
    assert Roots.parse(text.encode()) == Roots(frozenset({KEY.fingerprint}), (OTHER,))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"fingerprint {KEY.fingerprint}", 1),  # no newline at the end
        (f"\nfingerprint {KEY.fingerprint[:-1]}\n", 2),
        (f"fingerprint {KEY.fingerprint.upper()}\n", 1),
        (f"fingerprint {KEY.fingerprint.replace('-', '')}\n", 1),
        (f"fingerprint {KEY.fingerprint}\nfingerprint {KEY.fingerprint}\n", 2),
        (f"fingerprint {KEY.fingerprint} clinic\n", 1),
        (f"registrar {KEY}\nregistrar {KEY}\n", 2),
        (f"registrar {ExchangeKey.generate().public}\n", 1),
        (f"registrar {str(KEY)[:-1]}\n", 1),
        ("registrar ed25519:\n", 1),
        (f"trust {KEY}\n", 1),
        ("# nobody\n", 1),
        ("", 1),
    ],
    ids=range(13),  # two workers must name the tests alike, and each makes its own keys
)
def test_a_line_that_is_not_a_root_is_named(text: str, line: int) -> None:
    with pytest.raises(RootsRefused) as refused:
        Roots.parse(text.encode())
    assert refused.value.line == line


def test_bytes_that_are_no_text_or_too_many_are_refused() -> None:
    with pytest.raises(RootsRefused, match="line 2: is not UTF-8"):
        Roots.parse(b"# a\n\xff\n")
    with pytest.raises(RootsRefused, match="larger"):
        Roots.parse(b"#" * (1 << 19) + b"\n")
