"""Where to connect: `host:port`, and the HTTP proxy in between where a company requires one."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from crypto.errors import Malformed

_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_TEXT: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:]+)):(?P<port>\d{1,5})")


@dataclass(frozen=True, order=True)
class Endpoint:
    """host: a DNS name or an IP address. port: 0 lets the system choose, when listening only."""

    host: str
    port: int

    def __post_init__(self) -> None:
        # Also keeps a host from carrying line breaks into a proxy's CONNECT request.
        if ":" in self.host:
            try:
                ipaddress.IPv6Address(self.host)
            except ValueError:
                raise Malformed("host", "is not an IPv6 address") from None
        elif not _NAME.fullmatch(self.host):
            raise Malformed("host", "is not a host name or an address")
        if not 0 <= self.port <= 65_535:
            raise Malformed("port", "is not between 0 and 65535")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, where: str = "address") -> Endpoint:
        """Read `host:port` or `[IPv6]:port`. Raises Malformed, naming `where`."""
        match = _TEXT.fullmatch(text)
        if not match or match["port"] != str(int(match["port"])) or match["port"] == "0":
            raise Malformed(where, "is not an address such as node.example:7443")
        try:
            return cls(match["six"] or match["name"], int(match["port"]))
        except Malformed as error:
            raise Malformed(where, f"{error.where} {error.problem}") from None


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that opens ways by CONNECT. authorization: header value, or None."""

    endpoint: Endpoint
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, *, where: str = "proxy_url") -> Proxy:
        """Read `http://[user:password@]host:port`. Raises Malformed; never repeats the password."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise Malformed(where, "is not a proxy such as http://proxy.example:3128")
        credentials, _, address = parts.netloc.rpartition("@")
        endpoint = Endpoint.parse(address, where=where)
        if not credentials:
            return cls(endpoint)
        user, _, password = credentials.partition(":")
        pair = f"{unquote(user)}:{unquote(password)}".encode()
        return cls(endpoint, "Basic " + base64.b64encode(pair).decode("ascii"))
