"""SM2 signatures with SM3 (GB/T 32918.2, curve of GB/T 32918.5), by the system's OpenSSL 3.

`cryptography` has no SM2, and libraries that draw SM2's secret nonce from an ordinary generator
give away the key: one predicted nonce is enough. OpenSSL is patched by the operating system and
draws its own. A signature is written r || s, 32 bytes each, so that it has one spelling.

A key in a file is for development: production keeps SM2 keys in a certified module, behind the
same `Signer`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from crypto.errors import BadSignature, KeyFileRefused, SuiteUnavailable
from crypto.keys import PublicKey, read_secret, write_secret

# Who signs is part of what is signed; GB/T 32918.5 and GM/T 0009 name this one for general use.
DISTINGUISHING_ID: Final = b"1234567812345678"
SIGNATURE_BYTES: Final = 64
# SubjectPublicKeyInfo of an uncompressed point on the SM2 curve, up to the point: ecPublicKey
# (1.2.840.10045.2.1) with the curve 1.2.156.10197.1.301, and a bit string of 65 bytes.
_SPKI: Final = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
_PEM_LIMIT: Final = 4096
_PARAMETERS: Final = {
    "BIO_ctrl_pending": ("z", "p"),
    "BIO_free": ("i", "p"),
    "BIO_new": ("p", "p"),
    "BIO_new_mem_buf": ("p", "si"),
    "BIO_read": ("i", "psi"),
    "BIO_s_mem": ("p", ""),
    "ERR_clear_error": (None, ""),
    "EVP_DigestSign": ("i", "pspsz"),
    "EVP_DigestSignInit": ("i", "ppppp"),
    "EVP_DigestVerify": ("i", "pszsz"),
    "EVP_DigestVerifyInit": ("i", "ppppp"),
    "EVP_MD_CTX_free": (None, "p"),
    "EVP_MD_CTX_new": ("p", ""),
    "EVP_MD_CTX_set_pkey_ctx": (None, "pp"),
    "EVP_PKEY_CTX_free": (None, "p"),
    "EVP_PKEY_CTX_new": ("p", "pp"),
    "EVP_PKEY_CTX_set1_id": ("i", "psi"),
    "EVP_PKEY_Q_keygen": ("p", "pps"),
    "EVP_PKEY_free": (None, "p"),
    "EVP_PKEY_is_a": ("i", "ps"),
    "EVP_sm3": ("p", ""),
    "OpenSSL_version_num": ("l", ""),
    "PEM_read_bio_PrivateKey": ("p", "ppps"),
    "PEM_write_bio_PKCS8PrivateKey": ("i", "ppppipp"),
    "d2i_PUBKEY": ("p", "ppl"),
    "i2d_PUBKEY": ("i", "pp"),
}
_TYPES: Final[dict[str, Any]] = {
    "p": ctypes.c_void_p,
    "s": ctypes.c_char_p,
    "i": ctypes.c_int,
    "l": ctypes.c_long,
    "z": ctypes.c_size_t,
}


class Sm2Key:
    """An SM2 secret key held by OpenSSL. Prints nothing."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        weakref.finalize(self, _library().EVP_PKEY_free, handle).atexit = False
        self._public = PublicKey("sm2", _point(handle))

    def __repr__(self) -> str:
        return f"Sm2Key({self._public.key_id})"

    @classmethod
    def generate(cls) -> Sm2Key:
        """Raises SuiteUnavailable."""
        return cls(_made(_library().EVP_PKEY_Q_keygen(None, None, b"SM2")))

    @property
    def public(self) -> PublicKey:
        return self._public

    def sign(self, message: bytes) -> bytes:
        """r || s over SM3(Z || message), Z from DISTINGUISHING_ID and the public key."""
        library = _library()
        with _context(self._handle) as context:
            _check(library.EVP_DigestSignInit(context, None, library.EVP_sm3(), None, self._handle))
            room = ctypes.create_string_buffer(128)
            length = ctypes.c_size_t(len(room))
            _check(
                library.EVP_DigestSign(context, room, ctypes.byref(length), message, len(message))
            )
        return _from_der(room.raw[: length.value])

    def to_pem(self) -> bytes:
        library = _library()
        with _freed(_made(library.BIO_new(library.BIO_s_mem())), library.BIO_free) as bio:
            _check(
                library.PEM_write_bio_PKCS8PrivateKey(bio, self._handle, None, None, 0, None, None)
            )
            room = ctypes.create_string_buffer(library.BIO_ctrl_pending(bio))
            _check(library.BIO_read(bio, room, len(room)))
        return room.raw

    @classmethod
    def from_pem(cls, pem: bytes) -> Sm2Key:
        """Raises KeyFileRefused unless it is an unencrypted SM2 key; SuiteUnavailable."""
        library = _library()
        with _freed(_made(library.BIO_new_mem_buf(pem, len(pem))), library.BIO_free) as bio:
            # The empty passphrase: without one OpenSSL would ask for it on the terminal.
            handle = library.PEM_read_bio_PrivateKey(bio, None, None, b"")
        library.ERR_clear_error()
        if not handle:
            raise KeyFileRefused("the file is not an unencrypted PKCS #8 PEM key")
        if not library.EVP_PKEY_is_a(handle, b"SM2"):
            library.EVP_PKEY_free(handle)
            raise KeyFileRefused("the file does not hold an SM2 key")
        return cls(handle)


def write_sm2_key(path: Path, key: Sm2Key) -> None:
    """With mode 0600. Refuses to overwrite."""
    write_secret(path, key.to_pem())


def read_sm2_key(path: Path) -> Sm2Key:
    """Raises KeyFileRefused, SuiteUnavailable."""
    try:
        return Sm2Key.from_pem(read_secret(path))
    except KeyFileRefused as error:
        raise KeyFileRefused(f"{path}: {error}") from None


def verify(key: PublicKey, signature: bytes, message: bytes) -> None:
    """Raises BadSignature unless `signature` is r || s of this key over `message`, and
    SuiteUnavailable where nothing can be said of it."""
    library = _library()
    if len(signature) != SIGNATURE_BYTES or key.raw[0] != 4:
        raise BadSignature(f"the signature does not verify under key {key.key_id}")
    spki = _SPKI + key.raw
    data = ctypes.create_string_buffer(spki, len(spki))
    place = ctypes.c_void_p(ctypes.addressof(data))
    handle = library.d2i_PUBKEY(None, ctypes.byref(place), len(spki))
    if not handle:  # not a point of the curve
        library.ERR_clear_error()
        raise BadSignature(f"key {key.key_id} is not a point of the SM2 curve")
    der = _to_der(signature)
    with _freed(handle, library.EVP_PKEY_free), _context(handle) as context:
        _check(library.EVP_DigestVerifyInit(context, None, library.EVP_sm3(), None, handle))
        done = library.EVP_DigestVerify(context, der, len(der), message, len(message))
    library.ERR_clear_error()
    if done != 1:
        raise BadSignature(f"the signature does not verify under key {key.key_id}")


@cache
def _library() -> Any:
    """The system's libcrypto. Raises SuiteUnavailable if it is missing, old or without SM2."""
    library = None
    for name in ("libcrypto.so.3", ctypes.util.find_library("crypto")):
        try:
            library = None if name is None else ctypes.CDLL(name)
        except OSError:
            continue
        if library is not None:
            break
    if library is None:
        raise SuiteUnavailable("sm2", "this machine has no libcrypto; install OpenSSL 3")
    for name, (result, parameters) in _PARAMETERS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise SuiteUnavailable(
                "sm2", f"this machine's libcrypto has no {name}; install OpenSSL 3 with SM2"
            ) from None
        function.restype = None if result is None else _TYPES[result]
        # A pointer to a length or a buffer passes as void*: ctypes converts either.
        function.argtypes = [_TYPES[p] for p in parameters]
    library.EVP_DigestSign.argtypes = [
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)),
        *(ctypes.c_char_p, ctypes.c_size_t),
    ]
    probe = library.EVP_PKEY_Q_keygen(None, None, b"SM2")
    if not probe:
        library.ERR_clear_error()
        raise SuiteUnavailable("sm2", "this machine's libcrypto is built without SM2")
    library.EVP_PKEY_free(probe)
    return library


@contextmanager
def _context(handle: int) -> Iterator[int]:
    """A digest context of one key, with the distinguishing id set."""
    library = _library()
    with (
        _freed(_made(library.EVP_MD_CTX_new()), library.EVP_MD_CTX_free) as context,
        _freed(_made(library.EVP_PKEY_CTX_new(handle, None)), library.EVP_PKEY_CTX_free) as ids,
    ):
        _check(library.EVP_PKEY_CTX_set1_id(ids, DISTINGUISHING_ID, len(DISTINGUISHING_ID)))
        library.EVP_MD_CTX_set_pkey_ctx(context, ids)
        yield context


@contextmanager
def _freed(handle: int, free: Any) -> Iterator[int]:
    try:
        yield handle
    finally:
        free(handle)


def _point(handle: int) -> bytes:
    library = _library()
    room = ctypes.create_string_buffer(256)
    place = ctypes.c_void_p(ctypes.addressof(room))
    length = library.i2d_PUBKEY(handle, ctypes.byref(place))
    spki = room.raw[: max(length, 0)]
    if not spki.startswith(_SPKI) or len(spki) != len(_SPKI) + 65:
        raise SuiteUnavailable("sm2", "this machine's libcrypto writes SM2 keys in another form")
    return spki[len(_SPKI) :]


def _made(handle: int | None) -> int:
    if not handle:
        _library().ERR_clear_error()
        raise SuiteUnavailable("sm2", "libcrypto refused to make an object: out of memory?")
    return handle


def _check(result: int) -> None:
    if result <= 0:
        _library().ERR_clear_error()
        raise SuiteUnavailable("sm2", "libcrypto refused to compute with this key")


def _to_der(signature: bytes) -> bytes:
    body = b"".join(
        bytes([2, len(number)]) + number
        for number in (_der_integer(signature[:32]), _der_integer(signature[32:]))
    )
    return bytes([0x30, len(body)]) + body


def _der_integer(number: bytes) -> bytes:
    short = number.lstrip(b"\0")
    return short if short and short[0] < 0x80 else b"\0" + short


def _from_der(der: bytes) -> bytes:
    """OpenSSL's own output: a sequence of two short integers."""
    middle = 4 + der[3]
    first, second = der[4:middle], der[middle + 2 :]
    return b"".join(part.lstrip(b"\0").rjust(32, b"\0") for part in (first, second))
