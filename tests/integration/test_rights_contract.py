"""The register of rights: its acts, its states, and who is refused what."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from ledger.contracts import load
from tests.contracts import (
    ADMINISTRATOR,
    ZERO,
    Event,
    Reverted,
    address,
    keccak,
    selector,
    signature,
)
from tests.rights_register import (
    BUYER,
    GRANTEE,
    HOLDER,
    HOLDING,
    MANAGER,
    NONE,
    PROCESSING,
    REGISTRAR,
    SECOND,
    START,
    STRANGER,
    YEAR,
    Register,
    hashed,
    kind,
)

UNKNOWN, PUBLICISED, OBJECTED, CERTIFIED, DISPUTED, CANCELLED, REVOKED, EXPIRED, LAPSED = range(9)


@pytest.fixture
def register() -> Register:
    return Register()


def refused(register: Register, why: str, name: str, *arguments: Any, by: str = REGISTRAR) -> None:
    with pytest.raises(Reverted) as caught:
        register(name, *arguments, by=by)
    assert str(caught.value) == why


def token(right: bytes) -> int:
    return int.from_bytes(right, "big")


def state(register: Register, right: bytes) -> int:
    answer: int = register("state", right)
    return answer


# ---- initial registration ----


def test_a_right_is_on_notice_until_another_registrar_certifies_it(register: Register) -> None:
    right = register.publicised(notice_s=10)
    assert register.contract.events == [
        Event(
            "RightRegistered",
            {
                "right_id": right,
                "asset": hashed("asset"),
                "holder": HOLDER,
                "kind": HOLDING,
                "parent": NONE,
                "content_hash": hashed("content"),
                "valid_until": START + 3 * YEAR,
                "notice_until": START + 10,
            },
        )
    ]
    assert state(register, right) == PUBLICISED
    assert register("balanceOf", HOLDER) == 0
    refused(register, "no such token", "ownerOf", token(right))
    entry = register.entry()
    refused(register, "public notice has not ended", "certify", entry, right, by=SECOND)
    register.later(10)
    refused(register, "registered by the same registrar", "certify", entry, right, by=REGISTRAR)
    register("certify", entry, right, by=SECOND)
    assert register.contract.events == [
        Event("RightCertified", {"right_id": right, "entry": entry}),
        Event("Transfer", {"sender": ZERO, "receiver": HOLDER, "token_id": token(right)}),
        Event("Locked", {"token_id": token(right)}),
    ]
    assert state(register, right) == CERTIFIED
    assert register("ownerOf", token(right)) == HOLDER
    assert register("balanceOf", HOLDER) == 1
    refused(register, "not on public notice", "certify", register.entry(), right, by=SECOND)


GOOD = (hashed("a"), HOLDING, HOLDER, NONE, hashed("content"), START + YEAR, START)


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, NONE, "hash is zero"),
        (1, kind("owning"), "unknown kind"),
        (1, NONE, "unknown kind"),
        (2, ZERO, "holder is zero"),
        (3, hashed("no such right"), "parent is not in force"),
        (4, NONE, "hash is zero"),
        (5, START, "valid_until has passed"),
        (6, START + YEAR, "notice outlasts the right"),
    ],
)
def test_a_registration_with_a_wrong_field_is_refused(
    register: Register, at: int, value: Any, why: str
) -> None:
    fields = [*GOOD[:at], value, *GOOD[at + 1 :]]
    entry = register.entry()
    refused(register, why, "register", entry, *fields)
    register("register", entry, *GOOD)  # a refused act has not used its entry up


def test_a_holder_has_one_certificate_per_asset_and_kind(register: Register) -> None:
    register.certified()
    why = "holder has such a right"
    refused(register, why, "register", register.entry(), hashed("asset"), *GOOD[1:])
    register.certified(kind=PROCESSING)
    register.certified(kind=HOLDING, holder=BUYER)  # several parties may hold one kind
    register.certified(asset="another")
    assert register("balanceOf", HOLDER) == 3


def test_the_same_log_entry_makes_one_act(register: Register) -> None:
    right = register.certified()
    dispute = register.disputed(right)
    register.ruled(dispute, upheld=False)
    why = "entry recorded already"
    for used in (right, dispute):
        refused(register, why, "register", used, *GOOD)
        refused(register, why, "certify", used, right)
        refused(register, why, "transfer", used, right, BUYER, 0)
        refused(register, why, "change", used, right, hashed("new"))
        refused(register, why, "cancel", used, right)
        refused(register, why, "renew", used, right, START + 4 * YEAR)
        refused(register, why, "dispute", used, right, hashed("c"), hashed("e"))
        refused(register, why, "rule", used, dispute, True, hashed("r"))
    assert register("recorded", right) is True
    refused(register, "entry is zero", "cancel", NONE, right)


# ---- roles ----

ACTS: list[tuple[str, tuple[Any, ...]]] = [
    ("register", GOOD),
    ("certify", (hashed("r"),)),
    ("transfer", (hashed("r"), BUYER, 0)),
    ("change", (hashed("r"), hashed("new"))),
    ("cancel", (hashed("r"),)),
    ("renew", (hashed("r"), START + 9 * YEAR)),
    ("dispute", (hashed("r"), hashed("c"), hashed("e"))),
    ("rule", (hashed("d"), True, hashed("r"))),
]


@pytest.mark.parametrize(("name", "arguments"), ACTS, ids=[name for name, _ in ACTS])
def test_acts_are_the_registrars_alone(
    register: Register, name: str, arguments: tuple[Any, ...]
) -> None:
    for who in (HOLDER, STRANGER, ADMINISTRATOR):
        refused(register, "not a registrar", name, register.entry(), *arguments, by=who)
    register("set_registrar", REGISTRAR, False, by=ADMINISTRATOR)
    refused(register, "not a registrar", name, register.entry(), *arguments, by=REGISTRAR)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("set_registrar", (STRANGER, True)),
        ("set_kind", (kind("operating"), True)),
        ("set_base_uri", ("https://evil.example/",)),
        ("offer_administration", (STRANGER,)),
    ],
)
def test_roles_and_kinds_are_the_administrators_alone(
    register: Register, name: str, arguments: tuple[Any, ...]
) -> None:
    for who in (REGISTRAR, HOLDER, STRANGER):
        refused(register, "not the administrator", name, *arguments, by=who)
    register(name, *arguments, by=ADMINISTRATOR)


def test_settings_that_change_nothing_or_name_nobody_are_refused(register: Register) -> None:
    for name, arguments, why in [
        ("set_registrar", (REGISTRAR, True), "is so already"),
        ("set_registrar", (STRANGER, False), "is so already"),
        ("set_registrar", (ZERO, True), "registrar is zero"),
        ("set_kind", (HOLDING, True), "is so already"),
        ("set_kind", (NONE, True), "kind is zero"),
    ]:
        refused(register, why, name, *arguments, by=ADMINISTRATOR)


def test_nobody_is_administrator_and_registrar(register: Register) -> None:
    why = "the administrator is no registrar"
    refused(register, why, "set_registrar", ADMINISTRATOR, True, by=ADMINISTRATOR)
    register("offer_administration", REGISTRAR, by=ADMINISTRATOR)
    refused(register, why, "accept_administration", by=REGISTRAR)
    register("set_registrar", REGISTRAR, False, by=ADMINISTRATOR)
    register("accept_administration", by=REGISTRAR)
    refused(register, "not the administrator", "set_kind", kind("x"), True, by=ADMINISTRATOR)
    register("set_registrar", ADMINISTRATOR, True, by=REGISTRAR)


def test_the_administration_changes_hands_in_two_steps(register: Register) -> None:
    refused(register, "not offered to the sender", "accept_administration", by=STRANGER)
    register("offer_administration", HOLDER, by=ADMINISTRATOR)
    register("offer_administration", BUYER, by=ADMINISTRATOR)
    refused(register, "not offered to the sender", "accept_administration", by=HOLDER)
    register("set_kind", kind("x"), True, by=ADMINISTRATOR)
    register("accept_administration", by=BUYER)
    assert register("administrator") == BUYER
    assert register("candidate") == ZERO
    register("offer_administration", HOLDER, by=BUYER)
    register("offer_administration", ZERO, by=BUYER)
    refused(register, "not offered to the sender", "accept_administration", by=HOLDER)


def test_a_kind_no_longer_allowed_leaves_the_rights_that_are(register: Register) -> None:
    right = register.certified()
    register("set_kind", HOLDING, False, by=ADMINISTRATOR)
    refused(register, "unknown kind", "register", register.entry(), *GOOD)
    assert state(register, right) == CERTIFIED
    register.transferred(right, BUYER)


# ---- transfer ----


def test_on_transfer_licences_stay_and_managers_go(register: Register) -> None:
    right = register.certified()
    licence = register.licensed(right)
    register("set_manager", right, MANAGER, True, by=HOLDER)
    entry = register.entry()
    register("transfer", entry, right, BUYER, 1)
    assert register.contract.events == [
        Event(
            "RightTransferred",
            {"right_id": right, "previous": HOLDER, "holder": BUYER, "entry": entry},
        ),
        Event("Transfer", {"sender": HOLDER, "receiver": BUYER, "token_id": token(right)}),
    ]
    assert register("ownerOf", token(right)) == BUYER
    assert (register("balanceOf", HOLDER), register("balanceOf", BUYER)) == (0, 1)
    assert register("is_licensed", right, licence) is True
    assert register("is_manager", right, MANAGER) is False
    for who in (HOLDER, MANAGER):
        with pytest.raises(Reverted, match="may not license this right"):
            register.licensed(right, by=who)
        refused(
            register, "may not license this right", "revoke", hashed("x"), right, licence, by=who
        )
    why = "neither the holder nor a registrar"
    refused(register, why, "set_manager", right, MANAGER, True, by=HOLDER)
    register.transferred(right, HOLDER, licences=1)  # and back: they are not managers again
    assert register("is_manager", right, MANAGER) is False


def test_a_new_holder_cannot_end_the_licences_it_took_over(register: Register) -> None:
    right = register.certified()
    old = register.licensed(right)
    register.transferred(right, BUYER, licences=1)
    new = register.licensed(right, by=BUYER)
    register("revoke", hashed("x"), right, new, by=BUYER)
    refused(register, "granted by an earlier holder", "revoke", hashed("x"), right, old, by=BUYER)
    register("revoke", register.entry(), right, old, by=REGISTRAR)
    assert register("is_licensed", right, old) is False


def test_a_licence_slipped_in_before_a_transfer_stops_it(register: Register) -> None:
    right = register.certified()
    register.licensed(right, expires_s=3 * YEAR)
    refused(
        register,
        "another number of licences",
        *("transfer", register.entry(), right, BUYER, 0),
    )


def test_a_transfer_to_nobody_oneself_or_one_who_has_such_a_right_is_refused(
    register: Register,
) -> None:
    right = register.certified()
    register.certified(holder=BUYER)
    for to, why in [
        (ZERO, "holder is zero"),
        (HOLDER, "is the holder"),
        (BUYER, "holder has such a right"),
    ]:
        refused(register, why, "transfer", register.entry(), right, to, 0)
    register.transferred(right, STRANGER)
    register.certified()  # the earlier holder may register anew


# ---- change, cancel, renew ----


def test_a_change_replaces_the_content_and_nothing_else(register: Register) -> None:
    right = register.certified()
    before = register("right_of", right)
    entry = register.entry()
    refused(register, "content is the same", "change", entry, right, hashed("content"))
    refused(register, "hash is zero", "change", entry, right, NONE)
    register("change", entry, right, hashed("corrected"))
    assert register.contract.events == [
        Event(
            "RightChanged",
            {
                "right_id": right,
                "previous_hash": hashed("content"),
                "content_hash": hashed("corrected"),
                "entry": entry,
            },
        )
    ]
    after = register("right_of", right)
    assert after == (*before[:4], hashed("corrected"), *before[5:])


def test_a_cancelled_right_ends_its_licences_and_what_derives_from_it(register: Register) -> None:
    right = register.certified()
    licence = register.licensed(right)
    child = register.certified(asset="derived", parent=right)
    under_child = register.licensed(child)
    entry = register.entry()
    register("cancel", entry, right)
    assert register.contract.events == [
        Event("Transfer", {"sender": HOLDER, "receiver": ZERO, "token_id": token(right)}),
        Event("RightCancelled", {"right_id": right, "entry": entry}),
    ]
    assert (state(register, right), state(register, child)) == (CANCELLED, LAPSED)
    assert register("is_licensed", right, licence) is False
    assert register("is_licensed", child, under_child) is False
    refused(register, "no such token", "ownerOf", token(right))
    register.certified()  # its place is free


def test_a_registration_on_notice_can_be_withdrawn_and_leaves_no_token(register: Register) -> None:
    right = register.publicised(notice_s=10)
    entry = register.entry()
    register("cancel", entry, right)
    assert register.contract.events == [
        Event("RightCancelled", {"right_id": right, "entry": entry})
    ]
    assert register("balanceOf", HOLDER) == 0
    register.certified()


def test_a_renewal_lengthens_the_term_and_only_before_it_ends(register: Register) -> None:
    right = register.certified(years=1)
    entry = register.entry()
    refused(register, "term does not grow", "renew", entry, right, START + YEAR)
    register("renew", entry, right, START + 2 * YEAR)
    register.later(YEAR)
    assert state(register, right) == CERTIFIED
    register.later(YEAR)
    assert state(register, right) == EXPIRED
    refused(register, "right is not in force", "renew", register.entry(), right, START + 9 * YEAR)
    assert register("ownerOf", token(right)) == HOLDER  # wallets show it; state() says expired
    register.certified(years=1)


def test_a_right_lasts_to_the_second_before_its_end(register: Register) -> None:
    right = register.certified(years=1)
    licence = register.licensed(right, expires_s=YEAR)
    register.later(YEAR - 1)
    assert (state(register, right), register("is_licensed", right, licence)) == (CERTIFIED, True)
    register.later(1)
    assert (state(register, right), register("is_licensed", right, licence)) == (EXPIRED, False)


# ---- derivation ----


def test_a_derived_right_does_not_outlive_what_it_derives_from(register: Register) -> None:
    right = register.certified(years=1)
    fields = (hashed("derived"), PROCESSING, BUYER, right, hashed("c"))
    why = "outlives its parent"
    refused(register, why, "register", register.entry(), *fields, START + YEAR + 1, START)
    child = register.entry()
    register("register", child, *fields, START + YEAR, START)
    register("certify", register.entry(), child, by=SECOND)
    refused(register, why, "renew", register.entry(), child, START + 2 * YEAR)
    register("renew", register.entry(), right, START + 2 * YEAR)
    register("renew", register.entry(), child, START + 2 * YEAR)


def test_a_right_derives_only_from_one_in_force(register: Register) -> None:
    on_notice = register.publicised(asset="1", notice_s=YEAR // 2)
    cancelled = register.certified(asset="2")
    register("cancel", register.entry(), cancelled)
    disputed = register.certified(asset="3")
    register.disputed(disputed)
    expired = register.certified(asset="4", years=1)
    register.later(YEAR)
    for parent in (on_notice, cancelled, disputed, expired):
        fields = (*GOOD[:3], parent, GOOD[4], register.machine.now + 1, 0)
        refused(register, "parent is not in force", "register", register.entry(), *fields)


def test_a_right_on_notice_is_not_certified_once_its_parent_is_disputed_or_gone(
    register: Register,
) -> None:
    parent = register.certified(asset="raw")
    child = register.publicised(parent=parent)
    dispute = register.disputed(parent)
    why = "parent is not in force"
    refused(register, why, "certify", register.entry(), child, by=SECOND)
    register.ruled(dispute, upheld=True)
    assert state(register, child) == LAPSED
    refused(register, "not on public notice", "certify", register.entry(), child, by=SECOND)


def test_a_dispute_about_a_right_holds_up_what_derives_from_it(register: Register) -> None:
    raw = register.certified(asset="raw")
    middle = register.certified(asset="middle", parent=raw)
    end = register.certified(asset="end", parent=middle)
    dispute = register.disputed(raw)
    assert [state(register, r) for r in (raw, middle, end)] == [DISPUTED] * 3
    refused(register, "right is not in force", "transfer", register.entry(), end, BUYER, 0)
    register.ruled(dispute, upheld=False)
    assert [state(register, r) for r in (raw, middle, end)] == [CERTIFIED] * 3


def test_rights_derive_from_each_other_sixteen_times_at_most(register: Register) -> None:
    chain = [register.certified(asset="0")]
    for number in range(1, 17):
        chain.append(register.certified(asset=str(number), parent=chain[-1]))
    fields = (*GOOD[:3], chain[-1], *GOOD[4:])
    refused(register, "derived too often", "register", register.entry(), *fields)
    register("cancel", register.entry(), chain[0])
    assert state(register, chain[-1]) == LAPSED  # the last one sees the first


# ---- objections and disputes ----


@pytest.mark.parametrize("derived", [False, True], ids=["itself", "an ancestor"])
def test_a_disputed_right_is_not_transferred_cancelled_licensed_changed_or_derived_from(
    register: Register, derived: bool
) -> None:
    parent = register.certified(asset="parent")
    right = register.certified(parent=parent)
    licence = register.licensed(right)
    dispute = register.disputed(parent if derived else right)
    assert state(register, right) == DISPUTED
    why = "right is not in force"
    refused(register, why, "transfer", register.entry(), right, BUYER, 1)
    refused(register, why, "cancel", register.entry(), right)
    refused(register, why, "change", register.entry(), right, hashed("new"))
    licensing = (right, GRANTEE, hashed("t"), hashed("s"), START + 10)
    for who in (HOLDER, REGISTRAR):
        refused(register, why, "license", register.entry(), *licensing, by=who)
    fields = (*GOOD[:3], right, *GOOD[4:])
    refused(register, "parent is not in force", "register", register.entry(), *fields)
    assert register("is_licensed", right, licence) is True  # what was granted goes on
    register("revoke", hashed("x"), right, licence, by=HOLDER)  # and may end
    register.ruled(dispute, upheld=False)
    register.transferred(right, BUYER, licences=1)


def test_a_disputed_right_can_be_renewed_so_that_delay_does_not_decide(register: Register) -> None:
    right = register.certified(years=1)
    dispute = register.disputed(right)
    register("renew", register.entry(), right, START + 2 * YEAR)
    register.later(YEAR)
    register.ruled(dispute, upheld=False)
    assert state(register, right) == CERTIFIED


def test_an_upheld_dispute_revokes_the_right_for_good(register: Register) -> None:
    right = register.certified()
    licence = register.licensed(right)
    dispute = register.disputed(right)
    entry = register.entry()
    register("rule", entry, dispute, True, hashed("ruling"))
    assert register.contract.events == [
        Event(
            "DisputeRuled",
            {
                "right_id": right,
                "dispute_id": dispute,
                "upheld": True,
                "ruling_hash": hashed("ruling"),
                "entry": entry,
            },
        ),
        Event("Transfer", {"sender": HOLDER, "receiver": ZERO, "token_id": token(right)}),
        Event("RightRevoked", {"right_id": right, "dispute_id": dispute, "entry": entry}),
    ]
    assert state(register, right) == REVOKED
    assert register("is_licensed", right, licence) is False
    assert register("balanceOf", HOLDER) == 0


def test_every_open_dispute_has_to_be_ruled_before_the_right_goes_on(register: Register) -> None:
    right = register.certified()
    first, second = register.disputed(right), register.disputed(right)
    register.ruled(first, upheld=False)
    assert state(register, right) == DISPUTED
    register.ruled(second, upheld=False)
    assert state(register, right) == CERTIFIED


def test_a_second_upheld_dispute_finds_the_right_revoked_already(register: Register) -> None:
    right = register.certified()
    first, second = register.disputed(right), register.disputed(right)
    register.ruled(first, upheld=True)
    register.ruled(second, upheld=True)
    assert [e.name for e in register.contract.events] == ["DisputeRuled"]
    assert register("balanceOf", HOLDER) == 0


def test_a_claim_is_ruled_once_and_names_who_and_why(register: Register) -> None:
    right = register.certified()
    entry = register.entry()
    refused(register, "hash is zero", "dispute", entry, right, NONE, hashed("e"))
    refused(register, "hash is zero", "dispute", entry, right, hashed("c"), NONE)
    dispute = register.disputed(right)
    refused(register, "hash is zero", "rule", entry, dispute, False, NONE)
    refused(register, "unknown dispute", "rule", entry, hashed("?"), False, hashed("r"))
    register.ruled(dispute, upheld=False)
    refused(register, "ruled already", "rule", entry, dispute, True, hashed("r"))
    assert register("dispute_of", dispute) == (
        *(right, hashed("claimant"), hashed("evidence"), hashed("ruling"), False, False),
    )


def test_an_objection_stops_the_clock_of_the_public_notice(register: Register) -> None:
    right = register.publicised(notice_s=100)
    register.later(60)
    first, second = register.disputed(right), register.disputed(right)
    assert register("dispute_of", first)[4] is True
    assert state(register, right) == OBJECTED
    register.later(1_000)
    refused(register, "not on public notice", "certify", register.entry(), right, by=SECOND)
    refused(register, "right is not in force", "cancel", register.entry(), right)
    register.ruled(first, upheld=False)
    register.later(1_000)
    third = register.disputed(right)  # the window is open while the clock stands
    register.ruled(second, upheld=False)
    register.ruled(third, upheld=False)
    register.later(39)
    refused(register, "public notice has not ended", "certify", register.entry(), right, by=SECOND)
    register.later(1)
    register("certify", register.entry(), right, by=SECOND)


def test_an_objection_counts_only_during_the_notice(register: Register) -> None:
    right = register.publicised(notice_s=10)
    register.later(10)
    refused(
        register,
        "public notice has ended",
        *("dispute", register.entry(), right, hashed("c"), hashed("e")),
    )
    register("certify", register.entry(), right, by=SECOND)
    register.disputed(right)  # from now on it is a dispute


def test_an_upheld_objection_ends_the_registration(register: Register) -> None:
    right = register.publicised(notice_s=10)
    objection = register.disputed(right)
    register.ruled(objection, upheld=True)
    assert [e.name for e in register.contract.events] == ["DisputeRuled", "RightRevoked"]
    assert state(register, right) == REVOKED
    assert register("balanceOf", HOLDER) == 0
    register.publicised()


def test_an_objection_to_a_notice_without_end_can_still_be_dismissed(register: Register) -> None:
    right = register.entry()
    longest = 2**64 - 1
    register("register", right, *GOOD[:5], longest, longest - 1)
    objection = register.disputed(right)
    register.later(1_000)
    register.ruled(objection, upheld=False)  # the notice would end after the largest number
    assert state(register, right) == PUBLICISED


def test_a_disputed_right_that_expired_is_not_registered_anew_before_the_ruling(
    register: Register,
) -> None:
    right = register.certified(years=1)
    dispute = register.disputed(right)
    register.later(YEAR)
    assert state(register, right) == EXPIRED
    why = "the last such right is disputed"
    fields = (hashed("asset"), *GOOD[1:5], START + 9 * YEAR, 0)
    refused(register, why, "register", register.entry(), *fields)
    register.ruled(dispute, upheld=True)
    assert state(register, right) == REVOKED
    register("register", register.entry(), *fields)


@pytest.mark.parametrize("end", ["cancel", "uphold", "expire", "lapse"])
def test_a_right_that_has_ended_takes_no_further_act(register: Register, end: str) -> None:
    parent = register.certified(asset="parent", years=2)
    right = register.certified(parent=parent, years=1)
    licence = register.licensed(right)
    if end == "cancel":
        register("cancel", register.entry(), right)
    elif end == "uphold":
        register.ruled(register.disputed(right), upheld=True)
    elif end == "expire":
        register.later(YEAR)
    else:
        register("cancel", register.entry(), parent)
    before = state(register, right)
    assert before in (CANCELLED, REVOKED, EXPIRED, LAPSED)
    why = "right is not in force"
    now = register.machine.now
    refused(register, why, "transfer", register.entry(), right, BUYER, 1)
    refused(register, why, "change", register.entry(), right, hashed("n"))
    refused(register, why, "cancel", register.entry(), right)
    refused(register, why, "renew", register.entry(), right, now + 9 * YEAR)
    refused(register, why, "dispute", register.entry(), right, hashed("c"), hashed("e"))
    refused(register, why, "set_manager", right, MANAGER, True, by=HOLDER)
    licensing = (right, GRANTEE, hashed("t"), hashed("s"), now + 1)
    refused(register, why, "license", register.entry(), *licensing, by=HOLDER)
    refused(register, "not on public notice", "certify", register.entry(), right, by=SECOND)
    assert register("is_licensed", right, licence) is False
    assert state(register, right) == before


# ---- licences and managers ----


def test_many_grantees_are_licensed_side_by_side(register: Register) -> None:
    right = register.certified()
    licences = [register.licensed(right, expires_s=n * 10) for n in (1, 2, 3)]
    register.later(10)
    assert [register("is_licensed", right, x) for x in licences] == [False, True, True]
    register("revoke", hashed("x"), right, licences[1], by=HOLDER)
    assert [register("is_licensed", right, x) for x in licences] == [False, False, True]
    assert register("licence_of", right, licences[2]) == (
        *(GRANTEE, hashed("terms"), hashed("scope"), START + 30, 0, False),
    )


def test_a_licence_is_granted_by_holder_manager_or_registrar_only(register: Register) -> None:
    right = register.certified()
    register("set_manager", right, MANAGER, True, by=HOLDER)
    for who in (HOLDER, MANAGER, REGISTRAR):
        licence = register.licensed(right, by=who)
        assert register.contract.events[0].arguments["by"] == who
        register("revoke", hashed("x"), right, licence, by=MANAGER)
    for who in (STRANGER, GRANTEE, ADMINISTRATOR):
        with pytest.raises(Reverted, match="may not license this right"):
            register.licensed(right, by=who)
    register("set_manager", right, MANAGER, False, by=HOLDER)
    with pytest.raises(Reverted, match="may not license this right"):
        register.licensed(right, by=MANAGER)


def test_a_manager_appoints_nobody_and_a_stranger_neither(register: Register) -> None:
    right = register.certified()
    register("set_manager", right, MANAGER, True, by=HOLDER)
    why = "neither the holder nor a registrar"
    for who in (MANAGER, STRANGER, ADMINISTRATOR):
        refused(register, why, "set_manager", right, STRANGER, True, by=who)
    refused(register, "is so already", "set_manager", right, MANAGER, True, by=HOLDER)
    refused(register, "is so already", "set_manager", right, STRANGER, False, by=HOLDER)
    refused(register, "manager is zero", "set_manager", right, ZERO, True, by=HOLDER)
    register("set_manager", right, BUYER, True, by=REGISTRAR)


LICENSING = (GRANTEE, hashed("t"), hashed("s"), START + 10)


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, ZERO, "grantee is zero"),
        (1, NONE, "hash is zero"),
        (2, NONE, "hash is zero"),
        (3, START, "expires has passed"),
        (3, START + 3 * YEAR + 1, "outlives the right"),
    ],
)
def test_a_licence_with_a_wrong_field_is_refused(
    register: Register, at: int, value: Any, why: str
) -> None:
    right = register.certified()
    fields = [*LICENSING[:at], value, *LICENSING[at + 1 :]]
    refused(register, why, "license", hashed("l"), right, *fields, by=HOLDER)
    register("license", hashed("l"), right, *LICENSING, by=HOLDER)
    refused(
        register, "entry recorded already", "license", hashed("l"), right, *LICENSING, by=HOLDER
    )
    refused(register, "entry is zero", "license", NONE, right, *LICENSING, by=HOLDER)


def test_nobody_can_occupy_the_id_of_anothers_licence(register: Register) -> None:
    mine, theirs = register.certified(), register.certified(asset="b", holder=STRANGER)
    register("license", hashed("agreement"), theirs, *LICENSING, by=STRANGER)
    register("license", hashed("agreement"), mine, *LICENSING, by=HOLDER)
    register("revoke", hashed("x"), theirs, hashed("agreement"), by=STRANGER)
    assert register("is_licensed", mine, hashed("agreement")) is True
    with pytest.raises(Reverted):
        register("revoke", hashed("x"), mine, hashed("agreement"), by=STRANGER)


def test_a_licence_is_revoked_once_and_must_exist(register: Register) -> None:
    right = register.certified()
    licence = register.licensed(right)
    refused(register, "unknown licence", "revoke", hashed("x"), right, hashed("?"), by=HOLDER)
    refused(register, "entry is zero", "revoke", NONE, right, licence, by=HOLDER)
    register("revoke", hashed("x"), right, licence, by=HOLDER)
    refused(register, "revoked already", "revoke", hashed("x"), right, licence, by=HOLDER)


def test_a_right_on_notice_or_unknown_cannot_be_licensed(register: Register) -> None:
    right = register.publicised(notice_s=10)
    refused(register, "right is not in force", "license", hashed("l"), right, *LICENSING, by=HOLDER)
    refused(
        register,
        "may not license this right",
        *("license", hashed("l"), hashed("?"), *LICENSING),
        by=HOLDER,
    )
    refused(register, "right is not in force", "license", hashed("l"), hashed("?"), *LICENSING)
    assert state(register, hashed("?")) == UNKNOWN
    assert register("is_licensed", right, hashed("l")) is False


# ---- what wallets see ----


def test_the_interfaces_it_answers_for_are_those_it_has(register: Register) -> None:
    names = {
        "ERC-165": ["supportsInterface(bytes4)"],
        "ERC-721": [
            *("balanceOf(address)", "ownerOf(uint256)", "approve(address,uint256)"),
            *("getApproved(uint256)", "setApprovalForAll(address,bool)"),
            *("isApprovedForAll(address,address)", "transferFrom(address,address,uint256)"),
            "safeTransferFrom(address,address,uint256)",
            "safeTransferFrom(address,address,uint256,bytes)",
        ],
        "metadata": ["name()", "symbol()", "tokenURI(uint256)"],
        "ERC-5192": ["locked(uint256)"],
    }
    abi = load("rights").abi
    functions = {signature(e): selector(e) for e in abi if e["type"] == "function"}
    expected = {
        "ERC-165": "01ffc9a7",
        "ERC-721": "80ac58cd",
        "metadata": "5b5e139f",
        "ERC-5192": "b45a3c0e",
    }
    for interface, members in names.items():
        identifier = reduce(
            lambda a, b: bytes(x ^ y for x, y in zip(a, b, strict=True)),
            [functions[member] for member in members],
        )
        assert identifier.hex() == expected[interface]
        assert register("supportsInterface", identifier) is True
    for other in ("ffffffff", "00000000", "780e9d63"):  # the last: enumerable, which it is not
        assert register("supportsInterface", bytes.fromhex(other)) is False


def test_the_events_wallets_follow_have_the_standard_form() -> None:
    events = {e["name"]: e for e in load("rights").abi if e["type"] == "event"}
    assert signature(events["Transfer"]) == "Transfer(address,address,uint256)"
    assert [i["indexed"] for i in events["Transfer"]["inputs"]] == [True] * 3
    assert signature(events["Locked"]) == "Locked(uint256)"
    assert [i["indexed"] for i in events["Locked"]["inputs"]] == [False]


def test_no_holder_moves_a_token_or_lets_another_move_it(register: Register) -> None:
    right = token(register.certified())
    why = "moves by a registered act only"
    for who in (HOLDER, REGISTRAR, ADMINISTRATOR, STRANGER):
        refused(register, why, "approve", STRANGER, right, by=who)
        refused(register, why, "setApprovalForAll", STRANGER, True, by=who)
        refused(register, why, "transferFrom", HOLDER, STRANGER, right, by=who)
        for arguments in ("address,address,uint256", "address,address,uint256,bytes"):
            data = keccak(f"safeTransferFrom({arguments})".encode())[:4]
            data += bytes(12) + bytes.fromhex(HOLDER[2:]) + bytes(12)
            data += bytes.fromhex(STRANGER[2:]) + right.to_bytes(32, "big")
            if arguments.endswith("bytes"):
                data += (128).to_bytes(32, "big") + bytes(32)
            with pytest.raises(Reverted, match=why):
                register.contract.raw(data, by=who)
    assert register("ownerOf", right) == HOLDER
    assert register("getApproved", right) == ZERO
    assert register("isApprovedForAll", HOLDER, STRANGER) is False


def test_wallets_read_a_locked_token_with_an_address_of_its_description(
    register: Register,
) -> None:
    right = token(register.certified())
    assert register("locked", right) is True
    assert register("tokenURI", right) == str(right)
    register("set_base_uri", "https://exchange.example/rights/", by=ADMINISTRATOR)
    assert register("tokenURI", right) == f"https://exchange.example/rights/{right}"
    register("set_base_uri", "x" * 128, by=ADMINISTRATOR)
    assert register("tokenURI", right) == "x" * 128 + str(right)
    assert (register("name"), register("symbol")) == ("Rights in data", "RIGHT")


def test_of_a_token_that_is_not_there_nothing_is_said(register: Register) -> None:
    for name in ("ownerOf", "locked", "tokenURI", "getApproved"):
        for number in (0, 1, token(register.publicised(asset=name))):
            refused(register, "no such token", name, number)
    refused(register, "zero address", "balanceOf", ZERO)
    assert register("balanceOf", address(99)) == 0


def test_no_act_costs_more_than_a_small_part_of_a_block(register: Register) -> None:
    """Generous bounds: docs/contracts.md states the exact figures, taken from a chain."""
    right = register.publicised()
    assert register.contract.gas < 350_000
    register("certify", register.entry(), right, by=SECOND)
    assert register.contract.gas < 150_000
    register.licensed(right)
    assert register.contract.gas < 200_000
    register.transferred(right, BUYER, licences=1)
    assert register.contract.gas < 200_000
