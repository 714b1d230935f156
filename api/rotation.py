"""New keys for a participant, between two runs of its node.

    say and send what waits, with the keys that the hub knows
    make the new keys and put them in place              a crash here: `finish_rotation`
    say `party.updated`, signed by the new signing key   a crash here: `announce`
    send it

The node must not run meanwhile: it holds the old keys in memory, and one statement signed with
them after the new ones are announced would stop the party's chain for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from api.settings import NodeSettings
from api.wiring import node as wiring
from api.wiring.node import Opened
from exchange.errors import PlanRefused
from exchange.jobs import JobState
from exchange.node import jobs, outbox, registering
from registry.errors import DocumentRefused
from registry.party import SignedParty

UNDER_WAY: Final = (JobState.REQUESTED, JobState.ADMITTED, JobState.RUNNING)


def rotate(settings: NodeSettings, *, telling: Callable[[str], None]) -> SignedParty:
    """Rotate signing, sealing, agreement and TLS keys, and tell the hub.

    telling: hears the name of each step as it begins: `send`, `make`, `announce`.
    Raises FolderBusy while the node runs; PlanRefused while a job is under way, because its plan
    names the old keys; HubUnreachable, after which the command can be repeated: it goes on where
    it was.
    """
    before = wiring.open_node(settings)
    try:
        with before.folder.alone():
            if not registering.is_announced(before.folder.party, before.store):
                if before.folder.party.document.seq == 0:
                    raise DocumentRefused(
                        "party", "is not registered yet; run `exchange party register` first"
                    )
                return _announce(before, telling)
            _require_idle(before)
            telling("send")
            send_all(before)
            telling("make")
            before.folder.rotate(now=before.identity.clock.now())
    finally:
        before.close()
    after = wiring.open_node(settings)
    try:
        with after.folder.alone():
            return _announce(after, telling)
    finally:
        after.close()


def declare(settings: NodeSettings, controller: str) -> SignedParty:
    """Say who controls this party, in its next document, under the same keys. Announces nothing: a
    registrar may have to sign the document first.

    Raises DocumentRefused if `controller` is no credit code, FolderBusy while the node runs, and
    PlanRefused while a job is under way, because its plan names the document before.
    """
    node = wiring.open_node(settings)
    try:
        with node.folder.alone():
            if not registering.is_announced(node.folder.party, node.store):
                raise DocumentRefused(
                    "party", "is not announced yet; run `exchange party register` first"
                )
            _require_idle(node)
            send_all(node)
            return node.folder.declare(controller, now=node.identity.clock.now())
    finally:
        node.close()


def send_all(node: Opened) -> None:
    """Everything that waits in the outbox. Raises HubUnreachable."""
    while outbox.send(node.store, node.hub, node.identity, jobs.heed_answer):
        pass


def _announce(node: Opened, telling: Callable[[str], None]) -> SignedParty:
    telling("announce")
    registering.announce(node.folder.party, store=node.store, identity=node.identity)
    send_all(node)
    return node.folder.party


def _require_idle(node: Opened) -> None:
    with node.store.reading() as tx:
        under_way = [job for job in tx.jobs() if job.state in UNDER_WAY]
    if under_way:
        first = under_way[0]
        raise PlanRefused(
            "jobs", f"{first.id} is {first.state}; its plan names the old keys, so let it end first"
        )
