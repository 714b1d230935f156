"""The witness as a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

import structlog

from api.database import bring_up_to_date, open_engine, stored_revision
from api.http.events import Stopping
from api.http.server import Running, bind, serve_on, url_of
from api.operator import WITNESS_DATABASE, WITNESS_KEY, WITNESS_ML_DSA_KEY
from api.settings import SettingsRefused, WitnessSettings, endpoint
from api.wiring.logs import configure_logs
from api.witness import witness_app
from crypto.keys import read_ml_dsa_key, read_signing_key
from crypto.ports import SystemClock
from ledger.verify.note import LOG_TYPES, VerifierKey, cosigner_key

log: Final = structlog.get_logger("witness")


def database_url(settings: WitnessSettings) -> str:
    return settings.database_url or f"sqlite:///{settings.folder / WITNESS_DATABASE}"


def run_witness(
    settings: WitnessSettings, *, announce: Callable[[Mapping[str, Any]], None]
) -> None:
    """Run until SIGTERM or SIGINT. announce: called once, when requests are answered.

    Raises SettingsRefused, KeyFileRefused or DatabaseTooNew, saying what to do, and OSError when
    the address is taken. A witness whose database is gone does not start: it has forgotten what
    it cosigned, and would help to fork a log.
    """
    configure_logs()
    signers = (
        read_signing_key(settings.folder / WITNESS_KEY),
        read_ml_dsa_key(settings.folder / WITNESS_ML_DSA_KEY),
    )
    trusted = [VerifierKey.parse(text) for text in settings.logs]
    for key in trusted:
        if key.key_type not in LOG_TYPES:
            raise SettingsRefused("logs", f"{key.name} is not a log's key")
    engine = open_engine(database_url(settings))
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        if stored_revision(engine, "witness") is None:
            raise SettingsRefused(
                "database_url",
                f"{engine.url.render_as_string()} holds no witness. If its database was lost, "
                f"restore it or retire the key: `{settings.made_by}` makes a new witness",
            )
        bring_up_to_date(engine, "witness")
        listen = endpoint(settings.listen)
        bound = bind(listen.host, listen.port)
        stack.callback(bound.close)
        app = witness_app(
            engine=engine,
            signers=signers,
            name=settings.name,
            trusted_logs=trusted,
            clock=SystemClock(),
        )
        app.state.stopping = Stopping()
        app.state.start_error = None
        url = url_of(bound, tls=False)
        vkeys = [str(cosigner_key(settings.name, signer)) for signer in signers]

        def ready(_running: Running) -> None:
            log.info("witness.ready", url=url, name=settings.name)
            announce({"ready": True, "url": url, "vkeys": vkeys})

        serve_on(bound, app, on_ready=ready)
    log.info("witness.stopped")
