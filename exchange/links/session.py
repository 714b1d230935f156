"""A session: the streams of one job, between the parties of one plan.

Nobody's bytes reach an engine before the stream's header named this session, this plan and two of
its parties, and the sender's certificate proved to be the one pinned for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from crypto.digest import Digest, digest
from crypto.identifiers import JobId, PartyId
from exchange.links.errors import Refusal, StreamRefused
from exchange.links.header import StreamHeader

_NAME_LABEL: Final = b"unseen/session/v1\x00"


def session_name(plan: Digest, job: JobId) -> Digest:
    """What the relay knows a session by: tells an onlooker neither the plan nor the job."""
    return digest(_NAME_LABEL + plan.raw + job.encode("ascii"))


class Route(StrEnum):
    """How a stream finds its way; the caller is the party whose engine opens it.

    Whoever dials a node's listener, or says `dial` at the relay, is the TLS client; whoever
    listens, or says `park` at the relay, is the TLS server.
    """

    DIRECT = "direct"  # the caller dials the listening callee
    REVERSE = "reverse"  # the callee parks connections at the listening caller
    RELAY = "relay"  # neither listens: the callee parks at the relay and the caller dials it


def route(*, caller_listens: bool, callee_listens: bool) -> Route:
    if callee_listens:
        return Route.DIRECT
    return Route.REVERSE if caller_listens else Route.RELAY


@dataclass(frozen=True)
class SessionTerms:
    """certificates: per peer, the DER bytes of the certificate pinned by its party document."""

    plan: Digest
    job: JobId
    own: PartyId
    certificates: Mapping[PartyId, bytes]

    @property
    def name(self) -> Digest:
        return session_name(self.plan, self.job)

    def admit(self, header: StreamHeader, certificate: bytes) -> None:
        """Raises StreamRefused unless `header`, said by the holder of `certificate`, fits.

        certificate: DER bytes that the TLS handshake proved. Parties are checked before the plan,
        so that a stranger to the session learns nothing about it.
        """
        if header.job != self.job:
            raise StreamRefused(Refusal.UNKNOWN_SESSION)
        if header.sender not in self.certificates:
            raise StreamRefused(Refusal.NOT_A_PARTY)
        if certificate != self.certificates[header.sender]:
            raise StreamRefused(Refusal.WRONG_CERTIFICATE)
        if header.plan != self.plan:
            raise StreamRefused(Refusal.OTHER_PLAN)
        if header.receiver != self.own:
            raise StreamRefused(Refusal.WRONG_RECEIVER)
