"""TLS over an asyncio connection that may have spoken before, in either role.

asyncio's own `start_tls` loses bytes that arrived ahead of the upgrade and cannot act as the TLS
server of a connection that it dialled; behind a relay both happen. Here the TLS engine works in
memory between the connection and the caller. At most one task may read and one may write.
"""

from __future__ import annotations

import asyncio
import ssl

from crypto.tls import peer_certificate
from exchange.links.adapters.connection import READ_BYTES, cut
from exchange.links.errors import PeerNotPinned, Unreachable
from exchange.links.header import (
    StreamHeader,
    decode_header,
    encode_frame,
    encode_header,
    frame_size,
    header_size,
)


class TlsStream:
    """One connection under TLS; `handshake` comes first."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        arrived: bytes = b"",
    ) -> None:
        """arrived: bytes of the other side's TLS that were read from `reader` already."""
        self._reader = reader
        self._writer = writer
        self._arrived = ssl.MemoryBIO()
        self._arrived.write(arrived)
        self._leaving = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=server_side)
        self._plain = bytearray()

    async def handshake(self, pinned: bytes | None) -> bytes:
        """Shake hands and return the certificate (DER) the other side proved to hold.

        pinned: what it must be, or None where the context already names all that it may be.
        Raises PeerNotPinned for another certificate, Unreachable when the other side hangs up.
        """
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                await self._fill()
            except ssl.SSLCertVerificationError as error:
                self._flush()  # tells the other side why
                raise PeerNotPinned(
                    "the other end showed a certificate that is not pinned"
                ) from error
            except ssl.SSLError as error:
                self._flush()
                raise Unreachable(f"no TLS handshake: {error.reason}") from error
        self._flush()
        await self._writer.drain()
        certificate = peer_certificate(self._tls)
        if pinned is not None and certificate != pinned:
            raise PeerNotPinned("the other end showed a certificate that is not pinned")
        return certificate

    async def read_exactly(self, size: int) -> bytes:
        """Raises Unreachable when the connection or its TLS ends first."""
        while len(self._plain) < size:
            try:
                data = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                self._flush()
                await self._fill()
                continue
            except ssl.SSLError as error:
                raise Unreachable(f"the other end ended TLS: {error.reason}") from error
            if not data:
                raise Unreachable("the other end ended TLS")
            self._plain += data
        found = bytes(self._plain[:size])
        del self._plain[:size]
        return found

    async def write(self, data: bytes) -> None:
        """Returns once the system has taken enough of it: at most one buffer is in flight."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise Unreachable(f"the other end ended TLS: {error.reason}") from error
        self._flush()
        await self._writer.drain()

    async def read_header(self) -> StreamHeader:
        """Raises StreamRefused before reading on when the length is out of bounds."""
        size = header_size(await self.read_exactly(2))
        return decode_header(await self.read_exactly(size))

    async def write_header(self, header: StreamHeader) -> None:
        await self.write(encode_header(header))

    async def read_frame(self) -> bytes:
        """The next engine bytes; empty at the end of the direction."""
        size = frame_size(await self.read_exactly(4))
        return await self.read_exactly(size) if size else b""

    async def write_frame(self, data: bytes) -> None:
        await self.write(encode_frame(data))

    def is_dead(self) -> bool:
        """Whether the connection has visibly ended; False does not promise that it lives."""
        return self._reader.at_eof() or self._writer.transport.is_closing()

    async def close(self) -> None:
        """Let what was written leave, then close."""
        self._writer.close()
        await self._writer.wait_closed()

    def cut(self) -> None:
        cut(self._writer)

    def _flush(self) -> None:
        if self._leaving.pending:
            self._writer.write(self._leaving.read())

    async def _fill(self) -> None:
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise Unreachable("the other end closed the connection")
        self._arrived.write(data)
