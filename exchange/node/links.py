"""What the node needs of its links: a tunnel per peer for the engine, and a count of what left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from crypto.digest import Digest
from crypto.identifiers import JobId, PartyId
from exchange.links.endpoint import Endpoint


@dataclass(frozen=True)
class PeerAddress:
    """A party as the session sees it.

    certificate: DER bytes, as in its signed party document.
    address:     where it can be reached, or None when it only dials out. Every party of a
                 session must hold the same addresses: they decide who dials whom.
    """

    certificate: bytes
    address: Endpoint | None


class StreamState(StrEnum):
    CARRYING = "carrying"
    FINISHED = "finished"  # both directions were ended by their engines
    CUT = "cut"  # an engine, a connection or the session ended first


@dataclass(frozen=True)
class Egress:
    """One engine stream: what this node sent to `receiver` in it, and what came back.

    opened_by:   the party whose engine opened the stream; `number` is its count.
    sent_bytes:  engine bytes handed to the link, without headers and TLS. A stream that was cut
                 may have lost the last of them on the way: the count is never too small.
    sent:        SHA-256 of exactly those bytes, in order; `received` likewise.
    """

    receiver: PartyId
    opened_by: PartyId
    number: int
    sent_bytes: int
    sent: Digest
    received_bytes: int
    received: Digest
    state: StreamState

    @property
    def why(self) -> str:
        return f"engine stream {self.number} opened by {self.opened_by}"


class LinkSession(Protocol):
    """The open links of one job."""

    def tunnel_address(self, peer: PartyId) -> Endpoint:
        """The loopback address where the own engine reaches the engine of `peer`."""
        ...

    def egress(self) -> tuple[Egress, ...]:
        """Every stream carried so far, in the order of their start; also after `close`."""
        ...

    def close(self) -> None:
        """Cut every stream at once and release every socket. Safe to repeat."""
        ...


class Links(Protocol):
    """The node's side of all links."""

    def open_session(
        self,
        *,
        plan_digest: Digest,
        job_id: JobId,
        own: PeerAddress,
        peers: Mapping[PartyId, PeerAddress],
        engine_port: int,
    ) -> LinkSession:
        """Open a tunnel to every peer and take streams from every peer.

        own:         this node as the peers were told: its certificate and its public address.
        engine_port: the loopback port where the own engine listens, or soon will.
        Raises SessionRefused, naming the part: a certificate that is not one or is used twice,
        another certificate than the service's, a job that is already open, no way to a peer.
        """
        ...
