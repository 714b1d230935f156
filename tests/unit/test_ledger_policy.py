"""Policies: what they accept, and every line they refuse."""

from __future__ import annotations

import itertools

import pytest

from crypto.keys import MlDsaKey, SigningKey
from ledger.errors import FormatRefused
from ledger.verify.note import COSIGNATURE, LOG_SIGNATURE, VerifierKey, cosigner_key
from ledger.verify.policy import Policy

LOG = VerifierKey("log.example", LOG_SIGNATURE, SigningKey.generate().public)
NAMES = ("a", "b", "c", "d", "e")
KEYS = {
    name: VerifierKey(f"{name}.example", COSIGNATURE, SigningKey.generate().public)
    for name in NAMES
}
WITNESSES = [f"witness {name} {key}" for name, key in KEYS.items()]


def parse(*lines: str) -> Policy:
    return Policy.parse("".join(line + "\n" for line in lines).encode())


def who_suffices(policy: Policy) -> set[frozenset[str]]:
    """The smallest sets of witnesses that meet the policy."""
    meeting = [
        frozenset(some)
        for count in range(len(NAMES) + 1)
        for some in itertools.combinations(NAMES, count)
        if policy.met_by(some)
    ]
    return {some for some in meeting if not any(other < some for other in meeting)}


def sets(*words: str) -> set[frozenset[str]]:
    return {frozenset(word) for word in words}


def test_one_witness_may_be_the_quorum() -> None:
    assert who_suffices(parse(*WITNESSES, "quorum b")) == sets("b")


def test_a_policy_may_ask_for_nobody() -> None:
    assert who_suffices(parse(f"log {LOG}", "quorum none")) == {frozenset()}


@pytest.mark.parametrize(
    ("threshold", "enough"),
    [
        ("any", sets("a", "b", "c")),
        ("1", sets("a", "b", "c")),
        ("2", sets("ab", "ac", "bc")),
        ("all", sets("abc")),
        ("3", sets("abc")),
    ],
)
def test_a_group_asks_for_any_all_or_a_number(threshold: str, enough: set[frozenset[str]]) -> None:
    assert who_suffices(parse(*WITNESSES, f"group g {threshold} a b c", "quorum g")) == enough


def test_groups_nest() -> None:
    policy = parse(
        *WITNESSES, "group x 2 a b c", "group y any d e", "group xy all x y", "quorum xy"
    )
    pairs = ("abd", "acd", "bcd", "abe", "ace", "bce")
    assert who_suffices(policy) == sets(*pairs)


def test_strangers_and_group_names_never_count_as_cosigners() -> None:
    policy = parse(*WITNESSES, "group g 2 a b c", "quorum g")
    assert not policy.met_by({"a", "stranger", "g"})
    assert not policy.met_by({"g"})


def test_comments_blanks_tabs_and_addresses_are_read() -> None:
    policy = parse("# dated 2026-03-04", "", f"\tlog\t{LOG}  https://log.example/ ", *WITNESSES,
                   "  # quorum e", f"quorum {'a'}")  # fmt: skip
    assert policy.log_keys == (LOG,)
    assert policy.logs[0].url == "https://log.example/"
    assert policy.witnesses[0].url is None
    assert policy.quorum == "a"


def test_names_are_octets_and_need_not_be_text() -> None:
    data = b"witness \xe2\x84\xaa " + str(KEYS["a"]).encode() + b"\nquorum K\n"
    with pytest.raises(FormatRefused, match="names K"):
        Policy.parse(data)
    latin = b"witness \xff " + str(KEYS["a"]).encode() + b"\nquorum \xff\n"
    (witness,) = Policy.parse(latin).witnesses
    assert Policy.parse(latin).met_by({witness.name})


def test_a_key_name_that_is_not_utf8_is_refused_and_does_not_crash_the_reader() -> None:
    with pytest.raises(FormatRefused, match="line 1: verifier key has a name that is not UTF-8"):
        Policy.parse(b"log \x80" + str(LOG).encode() + b"\nquorum none\n")


A, B = WITNESSES[:2]
# One witness with two keys, as its one name says.
TWO = [
    f"witness t{n} {cosigner_key('t.example', key)}"
    for n, key in enumerate((SigningKey.generate(), MlDsaKey.generate()))
]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([A], "no quorum line"),
        (["quorum a", A], "line 1: names a"),
        ([A, "quorum a", "quorum a"], "second quorum"),
        ([A, "quorum none", "quorum none"], "second quorum"),
        ([A, "quorum b"], "names b"),
        ([A, f"witness z {KEYS['a']}", "quorum a"], "line 2: names a witness key"),
        ([f"log {LOG}", f"log {LOG}", "quorum none"], "line 2: names a log key"),
        ([A, f"witness a {KEYS['b']}", "quorum a"], "defines a"),
        ([f"witness none {KEYS['a']}", "quorum none"], "defines none"),
        ([A, "group a any a", "quorum a"], "defines a"),
        ([A, "group g any b", "quorum g"], "names b"),
        ([A, "group g any g", "quorum g"], "names g"),
        ([A, "group g any none", "quorum g"], "names none"),
        ([A, B, "group g 2 a a", "quorum g"], "member already"),
        ([A, B, "group g any a", "group h any a b", "quorum h"], "member already"),
        ([A, "group g 0 a", "quorum g"], "all, any, or 1 to 1"),
        ([A, "group g 2 a", "quorum g"], "all, any, or 1 to 1"),
        ([A, "group g 01 a", "quorum g"], "all, any, or 1 to 1"),
        ([A, "group g some a", "quorum g"], "all, any, or 1 to 1"),
        ([A, "group g any", "quorum g"], "not a log, witness, group or quorum"),
        ([A, "quorum a b"], "not a log, witness, group or quorum"),
        ([f"witness a {KEYS['a']} url more", "quorum a"], "not a log, witness, group or quorum"),
        (["threshold 2", "quorum none"], "not a log, witness, group or quorum"),
        ([f"log {KEYS['a']}", "quorum none"], "type 0x04, not a log's"),
        ([f"witness a {LOG}", "quorum a"], "type 0x01, not a witness's"),
        (["log nonsense", "quorum none"], "line 1: verifier key"),
        ([*TWO, A, "group g 2 t0 t1 a", "quorum g"], "counts t.example more than once"),
        (
            [*TWO, A, B, "group g any t0 a", "group h any t1 b", "group i all g h", "quorum i"],
            "more than once",
        ),
        ([*TWO, A, "group g any t0 a", "group h all g t1", "quorum h"], "more than once"),
        ([A, "quorum a\r"], "control character"),
        ([A, "quorum a\x00"], "control character"),
    ],
)
def test_a_policy_that_could_be_misread_is_refused(lines: list[str], problem: str) -> None:
    with pytest.raises(FormatRefused, match=problem):
        parse(*lines)


def test_a_policy_ends_with_a_newline() -> None:
    with pytest.raises(FormatRefused, match="newline"):
        Policy.parse(b"quorum none")


@pytest.mark.parametrize(
    ("tie", "have", "met"),
    [
        ("any", {"t0"}, False),
        ("any", {"t0", "t1"}, False),  # two cosignatures, and one witness
        ("any", {"t0", "a"}, True),
        ("any", {"t1", "a"}, True),
        ("all", {"t0", "a"}, False),
        ("all", {"t0", "t1", "a"}, True),
    ],
)
def test_a_witness_with_two_keys_counts_once(tie: str, have: set[str], met: bool) -> None:
    policy = parse(*TWO, A, B, f"group t {tie} t0 t1", "group g 2 t a b", "quorum g")
    assert policy.met_by(have) is met


def test_a_key_of_a_witness_that_does_not_count_may_be_listed() -> None:
    assert parse(*TWO, "quorum t1").met_by({"t1"})
