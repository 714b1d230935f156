"""Jobs, negotiations and deals, for those who take part in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from api.http.caller import SignedBy
from api.http.events import (
    After,
    Batch,
    Event,
    EventSourceResponse,
    ServerSentEvent,
    StoppingNow,
    follow,
)
from api.http.signing import Caller
from api.hub.answers import OCTETS, UNSIGNED, ZIP, content, printed, refusals, tagged, unchanged
from api.hub.bodies import (
    JobBody,
    JobNoteBody,
    JobsBody,
    NegotiationBody,
    NegotiationsBody,
    ProgressBody,
)
from api.hub.desk import Desk
from api.hub.parameters import DealText, DigestText, JobText
from crypto.digest import Digest
from crypto.identifiers import DealId, JobId
from exchange.errors import NotYours, UnknownSubject

NOTE: Final = "note"

_EVENTS: Final = """\
Server-sent events named `note`, whose data has `stage`, `party`, `detail` and `at`: what has
happened and what happens, until the job is final and settled; then an event named `end`. Ids are
integers that rise: resume with `Last-Event-ID`.
"""
_STRANGER: Final = NotYours("pty_… has no part in this")
_NO_JOB: Final = UnknownSubject("job_…")


def jobs(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["jobs"], responses=UNSIGNED)

    @router.get(
        "/v1/jobs",
        operation_id="list_jobs",
        summary="Jobs that the caller takes part in",
        response_model=JobsBody,
    )
    def list_jobs(caller: SignedBy) -> Response:
        found = desk.service.jobs(caller.party)
        return printed(JobsBody(items=[JobBody.of(view) for view in found]))

    @router.get(
        "/v1/jobs/{job}",
        operation_id="read_job",
        summary="One job: its state, its stage, where to go on",
        description="A job is submitted as a statement, `job.submitted`; this is what became of "
        "it. Poll with `If-None-Match`, or watch its events.",
        response_model=JobBody,
        responses={**unchanged(), **refusals(_STRANGER, _NO_JOB)},
    )
    def read_job(request: Request, caller: SignedBy, job: JobText) -> Response:
        body = JobBody.of(desk.service.job(caller.party, JobId(job)))
        return tagged(request, body.model_dump_json().encode())

    def watcher(caller: SignedBy, job: JobText) -> Caller:
        desk.service.job(caller.party, JobId(job))  # refuses before the stream begins
        return caller

    watching = Depends(watcher)

    @router.get(
        "/v1/jobs/{job}/events",
        operation_id="watch_job",
        summary="Watch a job",
        description=_EVENTS,
        response_class=EventSourceResponse,
        responses=refusals(_STRANGER, _NO_JOB),
    )
    async def watch_job(
        job: JobText, after: After, stopping: StoppingNow, caller: Caller = watching
    ) -> AsyncIterator[ServerSentEvent]:
        def read(last: int | None) -> Batch:
            found = desk.service.notes(caller.party, JobId(job), after=last or 0)
            return Batch(
                [
                    Event(note.number, NOTE, JobNoteBody.of(note).model_dump_json())
                    for note in found.notes
                ],
                found.over,
            )

        async for event in follow(read, after=after, stopping=stopping):
            yield event

    @router.post(
        "/v1/jobs/{job}/progress",
        operation_id="report_progress",
        summary="Tell those who watch how far a run is",
        description="For the job's holders. Nothing depends on it, and it is evidence of nothing.",
        status_code=204,
        response_class=Response,
        responses=refusals(_STRANGER, _NO_JOB),
    )
    def progress(caller: SignedBy, job: JobText, body: ProgressBody) -> Response:
        desk.service.progress(caller.party, JobId(job), body.stage, body.detail)
        return Response(status_code=204)

    @router.get(
        "/v1/jobs/{job}/parts/{digest}",
        operation_id="fetch_part",
        summary="A sealed part of a released result",
        description="For the job's consumer alone. Only its sealing key opens the part.",
        response_class=Response,
        responses={
            **content(OCTETS, "The sealed part"),
            **refusals(
                NotYours("pty_… is not the receiver of job_…"),
                UnknownSubject("a released part sha256:… of job_…"),
            ),
        },
    )
    def part(caller: SignedBy, job: JobText, digest: DigestText) -> Response:
        data = desk.service.part(caller.party, JobId(job), Digest.parse(digest))
        return Response(data, media_type=OCTETS)

    @router.get(
        "/v1/negotiations",
        operation_id="list_negotiations",
        summary="Negotiations that the caller takes part in",
        response_model=NegotiationsBody,
    )
    def negotiations(caller: SignedBy) -> Response:
        found = desk.service.negotiations(caller.party)
        return printed(NegotiationsBody(items=[NegotiationBody.of(one) for one in found]))

    @router.get(
        "/v1/deals/{deal}/bundle",
        operation_id="export_deal",
        summary="The evidence of a deal",
        description="A zip for `exchange audit deal`, which verifies it offline, as of the newest "
        "head that has its quorum. For the consumer of the deal, the regulator that its agreements "
        "name, the operator, and the regulators whom it named. That the caller was given this "
        "content is said in the ledger.",
        response_class=Response,
        responses={
            **content(ZIP, "The bundle"),
            **refusals(_STRANGER, UnknownSubject("a finalised agreement of dea_…")),
        },
    )
    def bundle(caller: SignedBy, deal: DealText) -> Response:
        data = desk.service.bundle(caller.party, DealId(deal))
        return Response(data, media_type=ZIP)

    return router
