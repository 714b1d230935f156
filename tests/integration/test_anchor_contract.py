"""The anchor contract: who may do what, which heads it takes, what leaves a log's history whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyrevm
import pytest

from ledger.adapters.evm import contract_of, transact
from ledger.contracts import load
from ledger.contracts.compile import FOLDER, SOURCES, compiled
from ledger.tree import Node, consistency_path, cover, range_hash
from ledger.verify.merkle import MAX_SIZE, leaf_hash, node_hash
from tests.chains import ORIGIN, simulated
from tests.contracts import (
    ADMINISTRATOR,
    ZERO,
    Deployed,
    Event,
    Machine,
    Reverted,
    address,
    selector,
)
from tests.trees import nodes_of

LOG = hashlib.sha256(b"exchange.example/log").digest()
OTHER_LOG = hashlib.sha256(b"exchange.example/other").digest()
ANCHORER = address(0xA11CE)
STRANGER = address(0xBAD)
TREE = nodes_of([leaf_hash(str(number).encode()) for number in range(300)])
OTHER = nodes_of([leaf_hash(str(-number).encode()) for number in range(300)])


def root(size: int) -> bytes:
    return range_hash((0, size), TREE)


def proof(old: int, new: int) -> list[bytes]:
    return [range_hash(part, TREE) for part in consistency_path(old, new)]


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def anchor(machine: Machine) -> Deployed:
    """With one anchorer of one log."""
    contract = machine.deploy(load("anchor"))
    contract("begin", LOG)
    assert contract.events == [Event("Begun", {"log_id": LOG})]
    contract("grant", LOG, ANCHORER)
    return contract


def anchored(contract: Deployed, *sizes: int) -> Deployed:
    for old, new in zip([0, *sizes], sizes, strict=False):
        contract("anchor", LOG, new, root(new), proof(old, new), by=ANCHORER)
    return contract


def refused(contract: Deployed, name: str, *arguments: object, by: str, why: str) -> None:
    with pytest.raises(Reverted) as caught:
        contract(name, *arguments, by=by)
    assert str(caught.value) == why


def test_heads_that_extend_each_other_are_stored_by_size(
    machine: Machine, anchor: Deployed
) -> None:
    assert anchor("head", LOG) == (0, bytes(32), 0)
    anchored(anchor, 5)
    assert anchor.events == [
        Event("Anchored", {"log_id": LOG, "size": 5, "root": root(5), "previous_size": 0})
    ]
    machine.at(2_000)
    anchor("anchor", LOG, 8, root(8), proof(5, 8), by=ANCHORER)
    assert anchor.events == [
        Event("Anchored", {"log_id": LOG, "size": 8, "root": root(8), "previous_size": 5})
    ]
    assert anchor("head", LOG) == (8, root(8), machine.block)
    assert anchor("root_at", LOG, 5) == root(5)
    assert anchor("root_at", LOG, 8) == root(8)
    assert anchor("root_at", LOG, 7) == bytes(32)
    assert anchor("head", OTHER_LOG) == (0, bytes(32), 0)


@pytest.mark.parametrize(
    ("size", "head", "hashes", "why"),
    [
        (8, root(8), proof(5, 8), "size must grow"),  # sent twice, or by a second operator
        (8, range_hash((0, 8), OTHER), [], "size must grow"),  # a fork of the same size
        (5, root(5), [], "size must grow"),  # a restored backup
        (0, bytes(32), [], "size must grow"),
        (11, range_hash((0, 11), OTHER), proof(8, 11), "not consistent"),  # rewritten history
        (11, root(11), [], "not consistent"),
        (11, root(11), proof(8, 11)[:-1], "not consistent"),
        (11, root(11), [*proof(8, 11), bytes(32)], "not consistent"),
        (11, root(11), proof(5, 11), "not consistent"),  # proof from an older head
        (17, root(11), proof(8, 11), "not consistent"),
        (11, bytes(32), proof(8, 11), "root is zero"),
        (MAX_SIZE + 1, root(11), proof(8, 11), "size too large"),
    ],
)
def test_a_head_that_does_not_extend_the_last_one_changes_nothing(
    anchor: Deployed, size: int, head: bytes, hashes: Sequence[bytes], why: str
) -> None:
    anchored(anchor, 5, 8)
    before = anchor("head", LOG)
    refused(anchor, "anchor", LOG, size, head, hashes, by=ANCHORER, why=why)
    assert anchor("head", LOG) == before
    anchor("anchor", LOG, 11, root(11), proof(8, 11), by=ANCHORER)


def test_a_proof_does_not_tell_the_exact_size_so_auditors_compare_with_the_signed_head(
    anchor: Deployed,
) -> None:
    """RFC 6962 roots do not contain the size: 8 to 11 and 8 to 12 have proofs of one shape.

    The anchoring key can so state a wrong size for a true root. No history is rewritten by it,
    and whoever compares with the log's signed checkpoint of that size sees it.
    """
    anchored(anchor, 8)
    anchor("anchor", LOG, 12, root(11), proof(8, 11), by=ANCHORER)
    assert anchor("root_at", LOG, 12) != root(12)


def test_the_first_head_comes_without_a_proof(anchor: Deployed) -> None:
    refused(
        anchor,
        *("anchor", LOG, 8, root(8), proof(5, 8)),
        by=ANCHORER,
        why="the first head has no proof",
    )
    refused(anchor, "anchor", LOG, 8, bytes(32), [], by=ANCHORER, why="root is zero")
    refused(anchor, "anchor", LOG, 0, root(8), [], by=ANCHORER, why="size must grow")
    refused(anchor, "anchor", LOG, 2**64 - 1, root(8), [], by=ANCHORER, why="size too large")
    anchored(anchor, 8)


def test_the_largest_tree_is_anchored_and_ends_there(anchor: Deployed) -> None:
    anchor("anchor", LOG, MAX_SIZE, root(8), [], by=ANCHORER)
    refused(*(anchor, "anchor", LOG, MAX_SIZE + 1, root(9), []), by=ANCHORER, why="size too large")


def test_only_an_anchorer_of_the_very_log_anchors(anchor: Deployed) -> None:
    why = "not an anchorer of this log"
    for who, log in [(STRANGER, LOG), (ADMINISTRATOR, LOG), (ANCHORER, OTHER_LOG)]:
        refused(anchor, "anchor", log, 5, root(5), [], by=who, why=why)
    anchor("revoke", LOG, ANCHORER)
    assert anchor.events == [Event("Revoked", {"log_id": LOG, "who": ANCHORER})]
    refused(anchor, "anchor", LOG, 5, root(5), [], by=ANCHORER, why=why)
    anchor("grant", LOG, ANCHORER)
    assert anchor.events == [Event("Granted", {"log_id": LOG, "who": ANCHORER})]
    anchored(anchor, 5)


def test_two_logs_are_anchored_side_by_side(anchor: Deployed) -> None:
    anchored(anchor, 5)
    anchor("begin", OTHER_LOG)
    anchor("grant", OTHER_LOG, STRANGER)
    anchor("anchor", OTHER_LOG, 3, range_hash((0, 3), OTHER), [], by=STRANGER)
    assert anchor("head", LOG)[0] == 5
    assert anchor("head", OTHER_LOG)[0] == 3
    assert anchor("root_at", OTHER_LOG, 5) == bytes(32)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("begin", (OTHER_LOG,)),
        ("grant", (LOG, STRANGER)),
        ("revoke", (LOG, ANCHORER)),
        ("hand_over", (LOG, address(1))),
        ("take_over", (LOG, address(1))),
        ("offer_administration", (STRANGER,)),
    ],
)
def test_the_roles_are_the_administrators_alone(
    anchor: Deployed, name: str, arguments: tuple[object, ...]
) -> None:
    for who in (STRANGER, ANCHORER):
        refused(anchor, name, *arguments, by=who, why="not the administrator")


def test_a_log_is_begun_once_and_before_anybody_may_anchor_it(anchor: Deployed) -> None:
    refused(anchor, "begin", LOG, by=ADMINISTRATOR, why="begun")
    refused(anchor, "grant", OTHER_LOG, ANCHORER, by=ADMINISTRATOR, why="not begun")
    assert (anchor("begun", LOG), anchor("begun", OTHER_LOG)) == (True, False)


def test_a_role_is_granted_and_revoked_once(anchor: Deployed) -> None:
    refused(anchor, "grant", LOG, ANCHORER, by=ADMINISTRATOR, why="is an anchorer")
    refused(anchor, "grant", LOG, ZERO, by=ADMINISTRATOR, why="zero address")
    refused(anchor, "revoke", LOG, STRANGER, by=ADMINISTRATOR, why="not an anchorer")


def test_the_administration_changes_hands_in_two_steps(anchor: Deployed) -> None:
    new, other = address(7), address(8)
    refused(anchor, "accept_administration", by=new, why="not offered to the sender")
    anchor("offer_administration", other)
    anchor("offer_administration", new)  # a second offer replaces the first
    refused(anchor, "accept_administration", by=other, why="not offered to the sender")
    anchor("revoke", LOG, ANCHORER)
    anchor("grant", LOG, ANCHORER)  # an offer alone takes nothing away
    anchor("accept_administration", by=new)
    assert anchor.events == [
        Event("AdministrationAccepted", {"previous": ADMINISTRATOR, "administrator": new})
    ]
    assert (anchor("administrator"), anchor("candidate")) == (new, ZERO)
    refused(anchor, "accept_administration", by=new, why="not offered to the sender")
    refused(anchor, "grant", LOG, STRANGER, by=ADMINISTRATOR, why="not the administrator")
    anchor("revoke", LOG, ANCHORER, by=new)


def test_an_offer_can_be_withdrawn(anchor: Deployed) -> None:
    anchor("offer_administration", STRANGER)
    anchor("offer_administration", ZERO)
    refused(anchor, "accept_administration", by=STRANGER, why="not offered to the sender")


def test_a_log_handed_over_goes_on_in_its_successor_and_only_from_its_last_head(
    machine: Machine, anchor: Deployed
) -> None:
    anchored(anchor, 5, 8)
    successor = machine.deploy(load("anchor"), by=STRANGER)
    anchor("hand_over", LOG, successor.address)
    assert anchor.events == [Event("HandedOver", {"log_id": LOG, "successor": successor.address})]
    assert anchor("successor", LOG) == successor.address
    refused(anchor, "anchor", LOG, 11, root(11), proof(8, 11), by=ANCHORER, why="handed over")
    refused(
        anchor, "hand_over", LOG, successor.address, by=ADMINISTRATOR, why="handed over"
    )  # for good
    assert anchor("head", LOG)[:2] == (8, root(8))  # what was anchored stays readable

    # Whoever may anchor cannot get in first with another history: nobody may before the take-over.
    refused(successor, "grant", LOG, ANCHORER, by=STRANGER, why="not begun")
    forged = range_hash((0, 11), OTHER)
    why = "not an anchorer of this log"
    refused(successor, "anchor", LOG, 11, forged, [], by=ANCHORER, why=why)
    successor("take_over", LOG, anchor.address, by=STRANGER)
    assert successor.events == [
        Event(
            "TakenOver",
            {"log_id": LOG, "predecessor": anchor.address, "size": 8, "root": root(8)},
        )
    ]
    assert successor("predecessor", LOG) == anchor.address
    successor("grant", LOG, ANCHORER, by=STRANGER)
    refused(successor, "anchor", LOG, 11, forged, [], by=ANCHORER, why="not consistent")
    successor("anchor", LOG, 11, root(11), proof(8, 11), by=ANCHORER)
    refused(
        successor, "take_over", LOG, anchor.address, by=STRANGER, why="begun"
    )  # would go back to the older one


def test_a_log_is_taken_over_only_from_a_contract_that_handed_it_to_this_one(
    machine: Machine, anchor: Deployed
) -> None:
    anchored(anchor, 5)
    successor, third = machine.deploy(load("anchor")), machine.deploy(load("anchor"))
    why = "not handed over to this contract"
    refused(successor, "take_over", LOG, anchor.address, by=ADMINISTRATOR, why=why)
    anchor("hand_over", LOG, third.address)
    refused(successor, "take_over", LOG, anchor.address, by=ADMINISTRATOR, why=why)
    refused(third, "take_over", OTHER_LOG, anchor.address, by=ADMINISTRATOR, why=why)
    refused(
        third,
        *("take_over", LOG, third.address),
        by=ADMINISTRATOR,
        why="predecessor is this contract",
    )
    with pytest.raises(Reverted):
        third("take_over", LOG, STRANGER)  # no code there
    third("take_over", LOG, anchor.address)


def test_a_successor_that_began_the_log_anew_can_not_claim_to_continue_it(
    machine: Machine, anchor: Deployed
) -> None:
    anchored(anchor, 5)
    successor = machine.deploy(load("anchor"))
    anchor("hand_over", LOG, successor.address)
    successor("begin", LOG)  # the administrator's own word, which everybody sees
    refused(successor, "take_over", LOG, anchor.address, by=ADMINISTRATOR, why="begun")
    successor("grant", LOG, ANCHORER)
    successor("anchor", LOG, 3, range_hash((0, 3), OTHER), [], by=ANCHORER)
    assert successor("predecessor", LOG) == ZERO  # which an auditor sees


def test_a_log_without_a_head_or_to_an_address_without_code_is_not_handed_over(
    machine: Machine, anchor: Deployed
) -> None:
    successor = machine.deploy(load("anchor"))
    refused(anchor, "hand_over", LOG, successor.address, by=ADMINISTRATOR, why="no head")
    anchored(anchor, 5)
    why = "successor is not another contract"
    for place in (ZERO, STRANGER, anchor.address):
        refused(anchor, "hand_over", LOG, place, by=ADMINISTRATOR, why=why)


def test_a_log_is_not_handed_to_a_contract_that_could_not_take_it_over(
    machine: Machine, anchor: Deployed
) -> None:
    """It would be for good, and the log would go on nowhere with a proof."""
    anchored(anchor, 5)
    begun, stranger = machine.deploy(load("anchor")), machine.deploy(load("rights"))
    begun("begin", LOG)
    refused(
        *(anchor, "hand_over", LOG, begun.address),
        by=ADMINISTRATOR,
        why="successor has begun it",
    )
    begun("grant", LOG, ANCHORER)
    begun("anchor", LOG, 3, root(3), [], by=ANCHORER)
    with pytest.raises(Reverted):
        anchor("hand_over", LOG, stranger.address)  # a contract of another kind
    anchor("hand_over", LOG, machine.deploy(load("anchor")).address)
    refused(
        *(begun, "hand_over", LOG, anchor.address),
        by=ADMINISTRATOR,
        why="successor handed it over",  # and would send auditors round in a circle
    )


@pytest.mark.parametrize(
    ("size", "head"), [(0, root(5)), (5, bytes(32)), (MAX_SIZE + 1, root(5)), (2**64, root(5))]
)
def test_a_predecessor_that_states_no_possible_head_is_not_continued(
    machine: Machine, size: int, head: bytes
) -> None:
    """A contract of somebody else's, which says that it handed the log over to ours."""
    successor = machine.deploy(load("anchor"))
    place = address(0x9E)
    question = selector(successor.functions["head"])
    code = (
        bytes.fromhex("60003560e01c63") + question + bytes.fromhex("14602c5773")
        + bytes.fromhex(successor.address[2:]) + bytes.fromhex("60005260206000f3")
        + bytes.fromhex("5b7f") + size.to_bytes(32, "big") + bytes.fromhex("6000527f")
        + head + bytes.fromhex("60205260606000f3")
    )  # fmt: skip
    machine.evm.insert_account_info(place, pyrevm.AccountInfo(code=code))
    with pytest.raises(Reverted) as caught:
        successor("take_over", LOG, place)
    assert str(caught.value) == ("predecessor has no head" if size < 2**64 else "")
    assert successor("head", LOG) == (0, bytes(32), 0)


def test_a_chain_that_computes_sha_256_wrongly_gets_no_contract(machine: Machine) -> None:
    """Shown from the other side: code that expects another hash than SHA-256 is refused."""
    contract = load("anchor")
    expected = node_hash(bytes(32), bytes(32)).hex()
    assert contract.bytecode.count(expected) == 1
    other = contract.bytecode.replace(expected, hashlib.sha3_256(b"").hexdigest())
    with pytest.raises(RuntimeError) as caught:
        machine.deploy(replace(contract, bytecode=other))
    assert b"no SHA-256 on this chain".hex() in str(caught.value)


def test_the_longest_proof_fits_into_a_block_many_times() -> None:
    anchor = Machine().deploy(load("anchor"))
    anchor("begin", LOG)
    anchor("grant", LOG, ANCHORER)
    levels = [leaf_hash(b"")]
    for _ in range(63):
        levels.append(node_hash(levels[-1], levels[-1]))
    same = {Node(n.level, n.index): levels[n.level] for n in _nodes(2**61 + 1, 2**62 - 1)}
    sizes = (2**61 + 1, 2**62 - 1)
    hashes = [range_hash(part, same) for part in consistency_path(*sizes)]
    anchor("anchor", LOG, sizes[0], range_hash((0, sizes[0]), same), [], by=ANCHORER)
    anchor("anchor", LOG, sizes[1], range_hash((0, sizes[1]), same), hashes, by=ANCHORER)
    assert len(hashes) > 60
    assert anchor.gas < 300_000


def _nodes(*sizes: int) -> set[Node]:
    parts = [(0, size) for size in sizes] + consistency_path(*sizes)
    return {node for part in parts for node in cover(part)}


def test_the_contract_takes_no_money_and_no_unknown_function(anchor: Deployed) -> None:
    with pytest.raises(Reverted):
        anchor.raw(b"")
    with pytest.raises(Reverted):
        anchor.raw(bytes.fromhex("deadbeef"))
    assert not [e for e in anchor.contract.abi if e.get("stateMutability") == "payable"]


def test_encoded_sizes_beyond_their_type_are_refused(anchor: Deployed) -> None:
    """A size is 64 bits; higher bits must not be cut off silently."""
    who = selector(anchor.functions["is_anchorer"]) + LOG
    anchor.raw(who + bytes(12) + bytes.fromhex(ANCHORER[2:]))
    with pytest.raises(Reverted):
        anchor.raw(who + bytes(11) + b"\1" + bytes.fromhex(ANCHORER[2:]))
    head = selector(anchor.functions["root_at"]) + LOG
    anchor.raw(head + (2**64 - 1).to_bytes(32, "big"))
    with pytest.raises(Reverted):
        anchor.raw(head + (2**64 + 5).to_bytes(32, "big"))


@pytest.mark.slow
def test_an_anchor_of_ten_thousand_events_costs_less_than_ten_gas_an_event(tmp_path: Path) -> None:
    """On a chain, since only that counts storage as a chain does; the figures do not vary."""
    chain = simulated(tmp_path)
    log = hashlib.sha256(ORIGIN.encode()).digest()
    tree = nodes_of([leaf_hash(str(number).encode()) for number in range(40_000)])
    contract = contract_of(load("anchor").abi)
    used, old = [], 0
    for new in (19_999, 29_999, 40_000):
        hashes = [range_hash(part, tree) for part in consistency_path(old, new)]
        head = [log, new, range_hash((0, new), tree), hashes]
        call = {"to": chain.place.contract, "data": str(contract.encode_abi("anchor", args=head))}
        _, receipt = transact(chain.rpc, chain.key, chain.place.chain_id, call, 20)
        used.append((len(hashes), int(receipt["gasUsed"], 16)))
        old = new
    assert used[0][1] < 120_000
    assert [count for count, _ in used[1:]] == [16, 17]
    assert all(gas < 10 * 10_000 for _, gas in used[1:])


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_shipped_contract_names_the_source_it_was_made_of(name: str) -> None:
    document = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    source = (FOLDER / SOURCES[name]).read_bytes()
    assert document["source_sha256"] == hashlib.sha256(source).hexdigest()
    assert (document["compiler"], document["evm_version"]) == ("vyper 0.4.3", "paris")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_shipped_contract_is_what_the_compiler_makes_of_its_source(name: str) -> None:
    assert compiled(name) == (FOLDER / f"{name}.json").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_chain_runs_the_code_that_the_package_states(name: str, machine: Machine) -> None:
    contract = load(name)  # type: ignore[arg-type]  # the names are those of SOURCES
    deployed = machine.deploy(contract)
    code = machine.evm.get_code(deployed.address).hex()  # the machine pads it with zeros
    assert code.removeprefix(contract.runtime[2:]).strip("0") == ""
    assert len(contract.runtime) // 2 < 24_576  # EIP-170


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_instruction_is_newer_than_the_oldest_chain_we_support(name: str) -> None:
    """PUSH0 (Shanghai), TLOAD, TSTORE, MCOPY (Cancun) stop older consortium chains."""
    found = instructions(load(name).runtime)  # type: ignore[arg-type]
    assert not found & {0x5C, 0x5D, 0x5E, 0x5F}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_contract_runs_foreign_code_in_its_place_sends_money_or_disappears(name: str) -> None:
    found = instructions(load(name).runtime)  # type: ignore[arg-type]
    # CREATE, CALL, CALLCODE, DELEGATECALL, CREATE2, SELFDESTRUCT
    assert not found & {0xF0, 0xF1, 0xF2, 0xF4, 0xF5, 0xFF}
    # STATICCALL stays: to precompiles, and of the anchor to its predecessor. It changes nothing.


def instructions(runtime: str) -> set[int]:
    """The instructions of a contract, without the table of selectors that Vyper puts behind."""
    start = re.match(r"0x60003560e01c600260..820660011b61(....)01601e39", runtime)
    assert start is not None
    code = bytes.fromhex(runtime[2:])[: int(start.group(1), 16)]
    at, found = 0, set()
    while at < len(code):
        found.add(code[at])
        at += 1 + (code[at] - 0x5F if 0x60 <= code[at] <= 0x7F else 0)
    return found


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_two_functions_share_a_selector(name: str) -> None:
    functions = [e for e in load(name).abi if e["type"] == "function"]  # type: ignore[arg-type]
    assert len({selector(e) for e in functions}) == len(functions)


@pytest.mark.slow
def test_the_wheel_carries_the_contracts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=FOLDER.parents[1], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, source in SOURCES.items():
            for file in (f"{name}.json", source):
                packed = archive.read(f"ledger/contracts/{file}")
                assert packed == (FOLDER / file).read_bytes()


def test_without_the_compiler_the_compile_step_says_what_to_install() -> None:
    script = "import sys; sys.modules['vyper'] = None\nfrom ledger.contracts import compile as c\n"
    done = subprocess.run(
        [sys.executable, "-c", script + "c.main()"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(FOLDER.parents[1])},
    )
    assert done.returncode == 1
    assert "install the extra `test`" in done.stderr
