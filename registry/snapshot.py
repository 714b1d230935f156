"""The digest of an extract: which rows a job was computed from, provable later by their holder.

The digest is SHA-256 over this serialisation. Integers are little endian, text is UTF-8.

    "unseen/extract/v1" and a zero byte
    header length u32, header: canonical JSON {"columns": [{"name", "type"}, ...], "rows": n},
      columns in order of name, type "number" or "text"
    keys: n lengths u32, then the n keys, in order of their bytes
    each column in header order:
      validity: n bytes, 1 or 0
      number: n values i64          text: n lengths u32, then the n texts

Where validity is 0 the number is 0 and the text empty. Names and lengths come before what they
describe, so two different extracts never serialise to the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto import canonical
from crypto.digest import Digest

_LABEL: Final = b"unseen/extract/v1\x00"


def snapshot_digest(
    keys: Sequence[str],
    numbers: Mapping[str, npt.NDArray[np.int64]],
    texts: Mapping[str, Sequence[str]],
    valid: Mapping[str, npt.NDArray[np.bool_]],
) -> Digest:
    """keys: unique and sorted by their UTF-8 bytes. shape (n,), as every column."""
    names = sorted({*numbers, *texts})
    header = canonical.encode(
        {
            "columns": [{"name": n, "type": "text" if n in texts else "number"} for n in names],
            "rows": len(keys),
        }
    )
    sha = hashlib.sha256(_LABEL + len(header).to_bytes(4, "little") + header)
    _add_texts(sha, keys)
    for name in names:
        sha.update(np.asarray(valid[name], dtype=np.uint8).tobytes())
        if name in texts:
            _add_texts(sha, texts[name])
        else:
            sha.update(np.asarray(numbers[name], dtype="<i8").tobytes())
    return Digest(sha.digest())


def _add_texts(sha: hashlib._Hash, texts: Sequence[str]) -> None:
    encoded = [text.encode() for text in texts]
    sha.update(np.array([len(text) for text in encoded], dtype="<u4").tobytes())
    sha.update(b"".join(encoded))
