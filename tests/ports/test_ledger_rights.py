"""The register of rights through its port, on the simulated chain and on anvil."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count

import httpx2
import pytest

from ledger.adapters.evm import ChainKey, JsonRpc, create_key
from ledger.adapters.evm_rights import EvmRights, deploy_rights
from ledger.adapters.simulated_chain import SimulatedChain
from ledger.errors import ChainRefused, ChainUnreachable, WrongChain
from ledger.ports import (
    LicenceTerms,
    Place,
    RegisteredDispute,
    RegisteredLicence,
    RightsRegistry,
    RightState,
    RightTerms,
)
from tests.chains import anvil, funded

PATIENCE_S = 20.0
BUYER = "0x" + "b0" * 20
GRANTEE = "0x" + "c0" * 20
NUMBERS = count()


def fresh(word: str) -> bytes:
    return sha256(f"{word} {next(NUMBERS)}".encode()).digest()


@dataclass
class Office:
    """A register with two registrars and a holder, each with an account."""

    rpc: JsonRpc
    place: Place
    keys: dict[str, ChainKey]

    def by(self, who: str) -> RightsRegistry:
        return EvmRights(self.rpc, self.place, self.keys[who], patience_s=PATIENCE_S)

    def terms(self, **changed: object) -> RightTerms:
        block = self.rpc.block("latest")
        now = datetime.fromtimestamp(int(block["timestamp"], 16), UTC)
        year = timedelta(days=365)
        terms = RightTerms(
            asset=fresh("asset"),
            kind="holding",
            holder=self.keys["holder"].address,
            parent=None,
            content_hash=fresh("content"),
            valid_until=now + year,
            notice_until=now - year,
        )
        return replace(terms, **changed)  # type: ignore[arg-type]  # fields of the test's choice

    def certified(self, terms: RightTerms) -> bytes:
        right = fresh("entry")
        self.by("registrar").register(right, terms)
        self.by("second").certify(fresh("entry"), right)
        return right


@pytest.fixture(scope="module", params=["simulated", "anvil"])
def office(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("keys")
    names = ("administrator", "registrar", "second", "holder")
    if request.param == "anvil":
        with anvil() as rpc:
            yield opened(rpc, {name: funded(rpc, folder / name) for name in names})
        return
    chain = SimulatedChain()

    def answer(asked: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=chain.answer(asked.read()))

    keys = {name: create_key(folder / name) for name in names}
    for key in keys.values():
        chain.fund(key.address)
    rpc = JsonRpc("http://chain", httpx2.Client(transport=httpx2.MockTransport(answer)))
    yield opened(rpc, keys)


def opened(rpc: JsonRpc, keys: dict[str, ChainKey]) -> Office:
    registrars = [keys["registrar"].address, keys["second"].address]
    made = deploy_rights(rpc, keys["administrator"], registrars, patience_s=PATIENCE_S)
    return Office(rpc, Place(made.chain_id, made.address), keys)


def test_a_right_is_read_as_it_was_registered_and_certified_by_a_second_registrar(
    office: Office,
) -> None:
    terms, right = office.terms(), fresh("entry")
    office.by("registrar").register(right, terms)
    read = office.by("holder").right(right)
    assert read is not None
    assert (read.terms, read.state) == (terms, RightState.PUBLICISED)
    assert read.registrar == office.keys["registrar"].address
    with pytest.raises(ChainRefused, match="registered by the same registrar"):
        office.by("registrar").certify(fresh("entry"), right)
    office.by("second").certify(fresh("entry"), right)
    read = office.by("holder").right(right)
    assert read is not None and read.state is RightState.CERTIFIED


def test_a_derived_right_names_its_parent(office: Office) -> None:
    terms = office.terms()
    parent = office.certified(terms)
    derived = replace(terms, parent=parent, kind="processing", asset=fresh("derived"))
    child = office.certified(derived)
    read = office.by("holder").right(child)
    assert read is not None
    assert read.terms == derived


def test_every_act_shows_in_what_is_read(office: Office) -> None:
    registrar = office.by("registrar")
    terms = office.terms()
    right = office.certified(terms)
    changed, later = fresh("content"), terms.valid_until + timedelta(days=100)
    registrar.change(fresh("entry"), right, changed)
    registrar.renew(fresh("entry"), right, later)
    registrar.transfer(fresh("entry"), right, BUYER, licences=0)
    read = registrar.right(right)
    assert read is not None
    expected = replace(terms, content_hash=changed, valid_until=later, holder=BUYER)
    assert (read.terms, read.tenure) == (expected, 1)
    registrar.cancel(fresh("entry"), right)
    read = registrar.right(right)
    assert read is not None and read.state is RightState.CANCELLED


def test_a_holder_licenses_and_revokes_with_its_own_account(office: Office) -> None:
    holder = office.by("holder")
    terms = office.terms()
    right, licence = office.certified(terms), fresh("agreement")
    granted = LicenceTerms(GRANTEE, fresh("terms"), fresh("scope"), terms.valid_until)
    holder.license(licence, right, granted)
    assert holder.licence(right, licence) == RegisteredLicence(granted, False, True)
    with pytest.raises(ChainRefused, match="another number of licences"):
        office.by("registrar").transfer(fresh("entry"), right, BUYER, licences=0)
    holder.revoke(fresh("entry"), right, licence)
    assert holder.licence(right, licence) == RegisteredLicence(granted, True, False)
    assert holder.licence(right, fresh("other")) is None


def test_a_disputed_right_waits_for_the_ruling(office: Office) -> None:
    registrar = office.by("registrar")
    right, dispute = office.certified(office.terms()), fresh("dispute")
    claimant, evidence, ruling = fresh("claimant"), fresh("evidence"), fresh("ruling")
    registrar.dispute(dispute, right, claimant, evidence)
    assert registrar.disputed(dispute) == RegisteredDispute(
        right, claimant, evidence, None, False, False
    )
    with pytest.raises(ChainRefused, match="right is not in force"):
        registrar.transfer(fresh("entry"), right, BUYER, licences=0)
    registrar.rule(fresh("entry"), dispute, ruling, upheld=True)
    assert registrar.disputed(dispute) == RegisteredDispute(
        right, claimant, evidence, ruling, False, True
    )
    read = registrar.right(right)
    assert read is not None and read.state is RightState.REVOKED


def test_an_act_repeated_after_a_crash_is_recognised(office: Office) -> None:
    registrar, right, entry = office.by("registrar"), office.certified(office.terms()), fresh("e")
    assert registrar.recorded(entry) is False
    registrar.cancel(entry, right)
    assert registrar.recorded(entry) is True
    with pytest.raises(ChainRefused, match="entry recorded already"):
        registrar.cancel(entry, right)


def test_who_may_not_act_is_told_why(office: Office) -> None:
    with pytest.raises(ChainRefused, match="not a registrar"):
        office.by("holder").register(fresh("entry"), office.terms())
    for kind in ("", "持有权", "x" * 33, "with\nnewline"):
        with pytest.raises(ChainRefused, match="is no kind of right"):
            office.by("registrar").register(fresh("entry"), office.terms(kind=kind))
    with pytest.raises(ChainRefused, match="unknown kind"):
        office.by("registrar").register(fresh("entry"), office.terms(kind="owning"))


def test_what_is_not_registered_is_not_there(office: Office) -> None:
    registry = office.by("holder")
    assert registry.right(fresh("?")) is None
    assert registry.disputed(fresh("?")) is None
    assert registry.licence(fresh("?"), fresh("?")) is None


def test_a_right_without_end_is_read_as_far_away(office: Office) -> None:
    right = office.certified(office.terms(valid_until=datetime.max.replace(tzinfo=UTC)))
    read = office.by("holder").right(right)
    assert read is not None
    assert read.terms.valid_until.year == 9999


def test_another_contract_or_chain_is_told_apart(office: Office) -> None:
    key = office.keys["holder"]
    for place in (
        Place(office.place.chain_id + 1, office.place.contract),
        Place(office.place.chain_id, GRANTEE),
    ):
        with pytest.raises(WrongChain):
            EvmRights(office.rpc, place, key, patience_s=PATIENCE_S).right(fresh("?"))


def test_one_registrar_alone_makes_no_office(office: Office) -> None:
    key = office.keys["administrator"]
    for registrars in ([BUYER], [BUYER, BUYER.upper().replace("X", "x")]):
        with pytest.raises(ChainRefused, match="two registrars"):
            deploy_rights(office.rpc, key, registrars, patience_s=PATIENCE_S)


@pytest.mark.parametrize(
    "answer", [b"", b"\0" * 31, b"\xff" * 32, b"\0" * 31 + b"\2", b"\0" * 31 + b"\1" + b"\0" * 32]
)
def test_an_answer_outside_the_protocol_is_no_answer(office: Office, answer: bytes) -> None:
    class Liar(JsonRpc):
        def data(self, method: str, *params: object) -> bytes:
            honest: bytes = office.rpc.data(method, *params)
            return answer if method == "eth_call" else honest

        def ask(self, method: str, *params: object) -> object:
            return office.rpc.ask(method, *params)

    liar = EvmRights(
        Liar("http://liar", httpx2.Client()), office.place, office.keys["holder"], patience_s=1
    )
    with pytest.raises(ChainUnreachable):
        liar.recorded(fresh("?"))
