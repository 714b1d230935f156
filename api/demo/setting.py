"""The demonstration's exchange: folders, settings, processes, and each participant's desk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from api.client.errors import NotFoundError
from api.demo.processes import READY_S, STOP_S, Process, start_all
from api.folder import PartyFolder
from api.participant import Wishes, create
from api.settings import NodeSettings
from api.wiring.node import Opened, open_node
from crypto import record
from crypto.identifiers import JobId, NegotiationId, PartyId
from crypto.keys import SigningKey, write_key
from crypto.ports import SystemClock
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.errors import UnknownSubject
from exchange.node import receiving, registering
from exchange.node.adapters.process_engine import free_port
from exchange.node.model import Decision
from exchange.terms.agreement import Proposal, Terms
from exchange.terms.negotiation import State
from ledger.verify.policy import Policy
from registry.party import Role, endorse

ORIGIN: Final = "unseen.demo/log"
CURRENCY: Final = "TEST"
# Name, role, and the invented credit code of whoever controls it: itself, each of them.
CAST: Final = {
    "clinic": ("Clinic", Role.HOLDER, "12110000DEM0CN1C17"),
    "laboratory": ("Laboratory", Role.HOLDER, "91110000DEMNLAB02H"),
    "company": ("Research company", Role.CONSUMER, "91110000DEMNC0MP3Y"),
    "helper": ("Neutral helper", Role.HELPER, "51110000DEMNHELP4C"),
    "regulator": ("Regulator", Role.REGULATOR, "11110000DEMNREG053"),
}


class CommandFailed(Exception):
    """A command of the demonstration's own ended badly; its words are the command's."""


def command(*arguments: str) -> dict[str, Any]:
    """Run `exchange …` and read the JSON it prints. Raises CommandFailed."""
    program = str(Path(sys.executable).parent / "exchange")
    done = subprocess.run([program, *arguments, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise CommandFailed(f"exchange {' '.join(arguments)}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@dataclass
class Participant:
    """One participant's desk, as its own commands open it."""

    name: str
    title: str
    settings_file: Path
    opened: Opened

    @property
    def id(self) -> PartyId:
        return self.opened.identity.party

    def register(self) -> None:
        registering.register(
            self.opened.folder.party, store=self.opened.store, identity=self.opened.identity
        )

    def all_sent(self) -> bool:
        """Whether the hub has taken in everything this party has said."""
        with self.opened.store.reading() as tx:
            return not tx.unsent(1)

    def negotiation_is(self, number: NegotiationId, state: State) -> bool:
        with self.opened.store.reading() as tx:
            found = tx.negotiation(number)
            return found is not None and found.state is state

    def terms_of(self, number: NegotiationId) -> Terms:
        with self.opened.store.reading() as tx:
            found = tx.negotiation(number)
            if found is None:
                raise UnknownSubject(number)
            return record.from_bytes(Proposal, tx.document(found.proposal)).terms

    def agreement_of(self, number: NegotiationId) -> str:
        with self.opened.store.reading() as tx:
            found = tx.negotiation(number)
            held = None
            if found is not None and found.agreement is not None:
                held = tx.agreement(found.agreement)
            if held is None:
                raise UnknownSubject(number)
            return str(held.agreement.id)

    def waits_for_approval(self, number: JobId) -> bool:
        with self.opened.store.reading() as tx:
            job = tx.job(number)
            return job is not None and job.held is not None and job.decision is Decision.PENDING

    def has_answer(self, number: JobId) -> bool:
        try:
            receiving.answer(number, self.opened.store)
        except UnknownSubject:
            return False
        return True

    def available(self) -> int:
        try:
            return self.opened.hub.balance(CURRENCY).available_minor
        except NotFoundError:
            return 0

    def follow(
        self,
        number: JobId,
        tell: Callable[[str, PartyId], None],
        ended: Callable[[], object],
        patience_s: float,
    ) -> None:
        """Tell what happens to a job, as the hub streams it, until it has ended."""
        deadline = time.monotonic() + patience_s
        for event in self.opened.hub.job_events(number):
            note = event.note
            tell(note.stage, note.party)
            if note.stage in ("released", "settled") or time.monotonic() > deadline:
                return
            if ended() and note.stage in ("refused", "failed", "expired", "rejected"):
                return


class Chain(StrEnum):
    """Which development chain the demonstration's hub anchors to."""

    SIMULATED = "simulated"
    ANVIL = "anvil"


@dataclass
class Anchored:
    """A development chain that runs, with the anchor contract on it. settings: the hub's."""

    process: Process
    settings: dict[str, Any]


@dataclass
class Exchange:
    """folder: empty at first; everything of the demonstration goes there.

    chain: what the hub anchors to; None: nothing
    """

    folder: Path
    chain: Chain | None = None
    processes: dict[str, Process] = field(default_factory=dict)
    participants: dict[str, Participant] = field(default_factory=dict)
    operator: PartyId | None = None
    registrar: SigningKey = field(default_factory=SigningKey.generate)
    anchored: Anchored | None = None
    _deploying: Future[Anchored] | None = None
    _ports: dict[str, int] = field(default_factory=dict)

    def make_folders(self) -> None:
        """Keys, settings and policy of everybody, by the commands that make them."""
        if self.chain is not None:
            # Meanwhile: its virtual machine takes seconds to load and to deploy the contract.
            self._deploying = Future()
            threading.Thread(
                target=_settle, args=(self._deploying, self._start_chain), daemon=True
            ).start()
        self._ports = {name: free_port() for name in ("hub", "relay", "witness")}
        hub, witness = self.folder / "hub", self.folder / "witness"
        command("hub", "init", str(hub), "--name", "Operator", "--origin", ORIGIN)
        log_key = (hub / "log.vkey").read_text().strip()
        command("witness", "init", str(witness), "--name", "witness.demo", "--log", log_key)
        vkeys = [
            (witness / file).read_text().strip() for file in ("witness.vkey", "witness-ml-dsa.vkey")
        ]
        policy = (
            f"log {log_key}\n"
            f"witness w-ed25519 {vkeys[0]} {self._url('witness')}\n"
            f"witness w-ml-dsa {vkeys[1]} {self._url('witness')}\n"
            "group w all w-ed25519 w-ml-dsa\n"  # one witness, and both of its lines wanted
            "quorum w\n"
        )
        (self.folder / "policy").write_text(policy)
        operator = PartyFolder(hub).party.document
        self.operator = operator.party
        write_key(self.folder / "registrar.key", self.registrar)
        made = {name: self._make_participant(name) for name in CAST}
        _write_settings(
            hub / "settings.toml",
            {
                "folder": ".",
                "listen": f"127.0.0.1:{self._ports['hub']}",
                "relay_listen": f"127.0.0.1:{self._ports['relay']}",
                "policy_file": "../policy",
                "publish_interval_s": 0.5,
                "regulators": [made["regulator"].party.document.party],
                "witnesses": [{"url": self._url("witness"), "vkeys": vkeys}],
            },
        )
        _write_settings(
            witness / "settings.toml",
            {
                "folder": ".",
                "name": "witness.demo",
                "listen": f"127.0.0.1:{self._ports['witness']}",
                "logs": [log_key],
            },
        )
        (self.folder / "roots").write_text(
            "# whom the regulator believes: the operator by fingerprint, the rest by a registrar\n"
            f"fingerprint {operator.identity.fingerprint}\n"
            f"registrar {self.registrar.public}\n"
        )

    def start(self) -> None:
        """Start the witness, the hub and every node, and open each participant's desk."""
        if self._deploying is not None:
            self.anchored = self._deploying.result()
            self.processes["chain"] = self.anchored.process
            with (self.folder / "hub" / "settings.toml").open("a") as file:
                file.write(f"anchor = {_toml(self.anchored.settings)}\n")
        infrastructure = ("witness", "hub")
        self.processes |= start_all({name: self.program(name) for name in infrastructure})
        for name, (title, _, _) in CAST.items():
            settings = self.folder / name / "settings.toml"
            self.participants[name] = Participant(
                name,
                title,
                settings,
                open_node(NodeSettings.load(settings)),
            )
            self._confirm_operator(self.participants[name])
        self.processes |= start_all({name: self.program(name) for name in CAST})

    def stop(self) -> None:
        if self._deploying is not None:
            with suppress(Exception):  # told by `start`, if that was reached
                self.processes["chain"] = self._deploying.result(STOP_S).process
        for participant in self.participants.values():
            participant.opened.close()
        for name in reversed(list(self.processes)):
            self.processes[name].stop()

    def fund(self, name: str, amount_minor: int) -> None:
        command(
            "hub",
            "fund",
            self.participants[name].id,
            str(amount_minor),
            CURRENCY,
            "--key",
            f"demo-{name}",
            "--settings",
            str(self.folder / "hub" / "settings.toml"),
        )

    def port(self, name: str) -> int:
        return self._ports[name]

    def title(self, party: PartyId) -> str:
        if party == self.operator:
            return "Hub (operator)"
        for participant in self.participants.values():
            if participant.id == party:
                return participant.title
        return str(party)

    def name_of(self, name: str) -> str:
        return CAST[name][0] if name in CAST else name.title()

    def policy(self) -> Policy:
        return Policy.parse((self.folder / "policy").read_bytes())

    def roots(self) -> Roots:
        return Roots.parse((self.folder / "roots").read_bytes())

    def opener(self, name: str) -> Opener:
        participant = self.participants[name]
        return Opener(participant.id, participant.opened.folder.sealing)

    def _start_chain(self) -> Anchored:
        """What `exchange chain init`, `dev` and `deploy` do."""
        import httpx2

        from ledger.adapters.evm import JsonRpc, create_key, deploy_anchor

        folder = self.folder / "chain"
        folder.mkdir(mode=0o700)
        key = create_key(folder / "anchor.key")
        dev = ["chain", "dev", "--fund", key.address]
        if self.chain is Chain.ANVIL:
            dev.append("--anvil")
        process = start_all({"chain": (dev, folder / "log")})["chain"]
        try:
            with httpx2.Client(trust_env=False) as client:
                rpc = JsonRpc(process.ready["url"], client)
                made = deploy_anchor(rpc, key, ORIGIN, key.address, patience_s=READY_S)
        except BaseException:
            process.stop()
            raise
        return Anchored(
            process,
            {
                "rpc_url": process.ready["url"],
                "chain_id": made.chain_id,
                "contract": made.address,
                "finality": 1,
                "key_file": "../chain/anchor.key",
                "every_s": 5,
                "poll_s": 0.3,
            },
        )

    def _make_participant(self, name: str) -> PartyFolder:
        """What `exchange init` and `exchange party endorse` do."""
        title, role, controller = CAST[name]
        folder = create(
            self.folder / name,
            Wishes(
                name=title,
                roles=[role],
                hub_url=self._url("hub"),
                operator=str(self.operator),
                policy=self.folder / "policy",
                controller=controller,
                registrars=[str(self.registrar.public)],
                relay=f"127.0.0.1:{self._ports['relay']}",
            ),
            now=SystemClock().now(),
            explain=lambda setting: setting,
        )
        folder.keep(endorse(folder.party, self.registrar))
        return folder

    def _confirm_operator(self, participant: Participant) -> None:
        """What `exchange node trust` does: the operator's fingerprint, compared out of band."""
        operator = PartyFolder(self.folder / "hub").party.document
        with participant.opened.store.transaction() as tx:
            now = participant.opened.identity.clock.now()
            tx.trust(operator.party, operator.identity.fingerprint, now)

    def program(self, name: str) -> tuple[Sequence[str], Path]:
        kind = name if name in ("hub", "witness") else "node"
        settings = self.folder / name / "settings.toml"
        return [kind, "--settings", str(settings)], self.folder / name / "log"

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"


def _settle(future: Future[Anchored], start: Callable[[], Anchored]) -> None:
    try:
        future.set_result(start())
    except BaseException as error:  # raised again where the result is asked for
        future.set_exception(error)


def _write_settings(path: Path, values: dict[str, Any]) -> None:
    lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
    path.write_text("\n".join(lines) + "\n")


def _toml(value: object) -> str:
    """Strings, numbers, lists and tables of them, as TOML writes them."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)
