"""What nodes say to each other and to the relay: formats, admission, routes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crypto import canonical, record
from crypto import envelope as dsse
from crypto.digest import digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId
from crypto.keys import SigningKey
from exchange.links.dial import (
    MAX_LINE_BYTES,
    DialRole,
    RelayDial,
    dial_answer,
    read_dial,
    require_dialled,
    sign_dial,
)
from exchange.links.endpoint import Endpoint, Proxy
from exchange.links.errors import DialRefusal, DialRefused, Refusal, StreamRefused
from exchange.links.header import (
    ACCEPTED,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    StreamHeader,
    StreamRole,
    answer_of,
    decode_header,
    encode_frame,
    encode_header,
    frame_size,
    header_size,
    require_accepted,
)
from exchange.links.session import Route, SessionTerms, route, session_name

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
A, B, C = (PartyId("pty_" + 32 * digit) for digit in "abc")
JOB, OTHER_JOB = JobId("job_" + 32 * "1"), JobId("job_" + 32 * "2")
PLAN, OTHER_PLAN = digest(b"plan"), digest(b"another plan")
HEADER = StreamHeader(1, StreamRole.OPEN, PLAN, JOB, A, B, 3)
TERMS = SessionTerms(PLAN, JOB, B, {A: b"certificate of A", C: b"certificate of C"})


def a_dial(**changes: object) -> RelayDial:
    made = RelayDial(1, session_name(PLAN, JOB), A, B, DialRole.DIAL, NOW, b"n" * 16)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_header_is_read_back_as_it_was_written() -> None:
    written = encode_header(HEADER)
    assert header_size(written[:2]) == len(written) - 2
    assert decode_header(written[2:]) == HEADER


@pytest.mark.parametrize("size", [0, MAX_HEADER_BYTES + 1, 65_535])
def test_a_header_too_long_or_empty_is_refused_by_its_length_alone(size: int) -> None:
    with pytest.raises(StreamRefused) as refused:
        header_size(size.to_bytes(2, "big"))
    assert refused.value.reason is Refusal.MALFORMED


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"{}",
        record.to_bytes(HEADER) + b" ",
        record.to_bytes(HEADER).replace(b'"v":1', b'"v":2'),
        record.to_bytes(HEADER).replace(b'"number":3', b'"number":-3'),
        record.to_bytes(HEADER).replace(b'"open"', b'"shut"'),
        record.to_bytes(HEADER).replace(b'"v":1', b'"v":1,"x":1'),
    ],
)
def test_a_header_in_any_other_form_is_refused(body: bytes) -> None:
    with pytest.raises(StreamRefused) as refused:
        decode_header(body)
    assert refused.value.reason is Refusal.MALFORMED


@pytest.mark.parametrize("reason", list(Refusal))
def test_every_refusal_reaches_the_other_side_with_its_reason(reason: Refusal) -> None:
    with pytest.raises(StreamRefused) as refused:
        require_accepted(answer_of(reason))
    assert refused.value.reason is reason


def test_only_one_byte_means_accepted() -> None:
    require_accepted(ACCEPTED)
    for answer in (b"", b"\xff"):
        with pytest.raises(StreamRefused):
            require_accepted(answer)


def test_a_frame_longer_than_allowed_is_refused_by_its_length_alone() -> None:
    assert frame_size(encode_frame(b"x" * MAX_FRAME_BYTES)[:4]) == MAX_FRAME_BYTES
    assert frame_size(encode_frame(b"")) == 0
    with pytest.raises(StreamRefused):
        frame_size((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


def test_a_fitting_header_is_admitted() -> None:
    TERMS.admit(HEADER, b"certificate of A")


@pytest.mark.parametrize(
    ("header", "certificate", "reason"),
    [
        (replace(HEADER, job=OTHER_JOB), b"certificate of A", Refusal.UNKNOWN_SESSION),
        (replace(HEADER, sender=B), b"certificate of A", Refusal.NOT_A_PARTY),
        (HEADER, b"certificate of C", Refusal.WRONG_CERTIFICATE),
        (replace(HEADER, sender=C), b"certificate of A", Refusal.WRONG_CERTIFICATE),
        (replace(HEADER, plan=OTHER_PLAN), b"certificate of A", Refusal.OTHER_PLAN),
        (replace(HEADER, receiver=C), b"certificate of A", Refusal.WRONG_RECEIVER),
    ],
)
def test_a_header_that_does_not_fit_is_refused_with_its_reason(
    header: StreamHeader, certificate: bytes, reason: Refusal
) -> None:
    with pytest.raises(StreamRefused) as refused:
        TERMS.admit(header, certificate)
    assert refused.value.reason is reason


def test_someone_outside_the_session_does_not_learn_whether_the_plan_was_right() -> None:
    for plan in (PLAN, OTHER_PLAN):
        with pytest.raises(StreamRefused) as refused:
            TERMS.admit(replace(HEADER, plan=plan), b"certificate of D")
        assert refused.value.reason is Refusal.WRONG_CERTIFICATE


def test_a_session_is_named_by_its_plan_and_its_job() -> None:
    assert session_name(PLAN, JOB) == TERMS.name
    assert len({session_name(p, j) for p in (PLAN, OTHER_PLAN) for j in (JOB, OTHER_JOB)}) == 4


@pytest.mark.parametrize(
    ("caller_listens", "callee_listens", "way"),
    [
        (True, True, Route.DIRECT),
        (False, True, Route.DIRECT),
        (True, False, Route.REVERSE),
        (False, False, Route.RELAY),
    ],
)
def test_whoever_can_be_dialled_is_dialled_and_the_relay_is_the_last_resort(
    caller_listens: bool, callee_listens: bool, way: Route
) -> None:
    assert route(caller_listens=caller_listens, callee_listens=callee_listens) is way


def test_a_dial_is_read_back_and_verifies_under_its_key_only() -> None:
    key = SigningKey.generate()
    signed = read_dial(sign_dial(a_dial(), key))
    assert signed.dial == a_dial()
    signed.require_signature(key.public)
    with pytest.raises(DialRefused) as refused:
        signed.require_signature(SigningKey.generate().public)
    assert refused.value.reason is DialRefusal.BAD_SIGNATURE


def test_a_signature_over_the_same_bytes_as_another_kind_of_document_is_no_dial() -> None:
    key = SigningKey.generate()
    line = dsse.sign("application/json", record.to_bytes(a_dial()), key).to_bytes() + b"\n"
    with pytest.raises(DialRefused):
        read_dial(line).require_signature(key.public)


def test_a_dial_changed_after_signing_does_not_verify() -> None:
    key = SigningKey.generate()
    signed = read_dial(sign_dial(a_dial(), key))
    forged = replace(signed.envelope, payload=record.to_bytes(a_dial(role=DialRole.PARK)))
    with pytest.raises(DialRefused):
        read_dial(forged.to_bytes() + b"\n").require_signature(key.public)


@pytest.mark.parametrize("seconds", [-61, 61])
def test_a_dial_from_another_time_is_stale(seconds: int) -> None:
    signed = read_dial(sign_dial(a_dial(time=NOW), SigningKey.generate()))
    signed.require_fresh(NOW + timedelta(seconds=seconds - seconds // abs(seconds)))
    with pytest.raises(DialRefused) as refused:
        signed.require_fresh(NOW + timedelta(seconds=seconds))
    assert refused.value.reason is DialRefusal.STALE


@pytest.mark.parametrize("line", [b"\n", b"GET / HTTP/1.1\r\n", b"{}\n", b"x" * MAX_LINE_BYTES])
def test_a_line_that_is_no_dial_is_refused(line: bytes) -> None:
    with pytest.raises(DialRefused) as refused:
        read_dial(line)
    assert refused.value.reason is DialRefusal.MALFORMED


def test_a_dial_with_a_short_nonce_or_to_oneself_cannot_be_said() -> None:
    with pytest.raises(Malformed, match="nonce"):
        a_dial(nonce=b"n" * 15)
    with pytest.raises(Malformed, match="peer"):
        a_dial(peer=A)


@pytest.mark.parametrize("reason", list(DialRefusal))
def test_every_refusal_of_the_relay_is_read_with_its_reason(reason: DialRefusal) -> None:
    with pytest.raises(DialRefused) as refused:
        require_dialled(dial_answer(reason))
    assert refused.value.reason is reason


def test_any_other_answer_of_the_relay_is_a_refusal() -> None:
    require_dialled(dial_answer(None))
    for answer in (b"", b"ok", b"OK\n", b"refused\n", b"refused gladly\n", b"ok absent\n", b"\xff"):
        with pytest.raises(DialRefused):
            require_dialled(answer)


@pytest.mark.parametrize("text", ["node.example:7443", "192.0.2.7:1", "[2001:db8::7]:65535"])
def test_an_address_is_read_back_as_it_was_written(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node.example",
        "node.example:0",
        "node.example:07443",
        "node.example:65536",
        ":7443",
        "2001:db8::7:7443",
        "[node]:7443",
        "node example:1",
        "node\r\nX-Evil: 1:80",
        "http://node:80",
        "node:80/",
    ],
)
def test_an_address_in_any_other_form_is_refused_by_name(text: str) -> None:
    with pytest.raises(Malformed, match="relay"):
        Endpoint.parse(text, where="relay")


def test_a_host_cannot_smuggle_lines_into_a_request() -> None:
    with pytest.raises(Malformed):
        Endpoint("node\r\nX-Evil: 1", 80)


def test_a_proxy_keeps_its_password_out_of_what_is_printed() -> None:
    proxy = Proxy.parse("http://anna:s%40crt@proxy.example:3128")
    assert proxy.endpoint == Endpoint("proxy.example", 3128)
    assert proxy.authorization == "Basic YW5uYTpzQGNydA=="
    assert "YW5u" not in repr(proxy) and "s@crt" not in repr(proxy)
    assert Proxy.parse("http://proxy.example:3128").authorization is None


@pytest.mark.parametrize(
    "url",
    ["proxy:3128", "https://proxy:3128", "http://proxy", "http://u:secret@:1", "http://p:1/x"],
)
def test_a_proxy_url_in_any_other_form_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Malformed, match="proxy_url") as refused:
        Proxy.parse(url)
    assert "secret" not in str(refused.value)


def test_headers_are_canonical_json_that_any_language_can_read() -> None:
    value = canonical.decode(record.to_bytes(HEADER))
    assert isinstance(value, dict)
    assert sorted(value) == ["job", "number", "plan", "receiver", "role", "sender", "v"]
