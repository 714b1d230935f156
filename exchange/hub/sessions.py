"""Which sessions the relay may join: those of jobs that are about to run or running.

The relay knows a session by a name that tells neither plan nor job, so the names of the jobs that
are not settled are kept here. A name that is not known makes one query for what is new; a dial
gets this far only with a registered party's signature.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from crypto.digest import Digest
from crypto.identifiers import JobId, PartyId
from exchange.errors import UnknownSubject
from exchange.hub.ports import HubStore
from exchange.jobs import JobState
from exchange.links.session import session_name


class Sessions:
    """Answers the relay; its methods may be called from any thread."""

    def __init__(self, store: HubStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._jobs: Mapping[Digest, JobId] = {}

    def allowed(self, session: Digest, one: PartyId, other: PartyId) -> bool:
        """Whether this session runs now, or is about to, between two of those who compute:
        the job's parties, and the consumer where it takes part as well."""
        number = self._jobs.get(session) or self._refreshed().get(session)
        if number is None or one == other:
            return False
        with self._store.reading() as tx:
            try:
                job = tx.job(number)
            except UnknownSubject:
                return False
        runs = job.state in (JobState.ADMITTED, JobState.RUNNING)
        return runs and {one, other} <= job.computing

    def _refreshed(self) -> Mapping[Digest, JobId]:
        with self._lock, self._store.reading() as tx:
            found = {session_name(job.plan, job.id): job.id for job in tx.unsettled_jobs()}
            self._jobs = found
            return found
