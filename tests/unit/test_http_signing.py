"""Who signed a request: what is accepted, and the nearest forgery of each kind."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from api.http.errors import (
    DigestMismatch,
    KeyUnknown,
    SignatureInvalid,
    SignatureMissing,
    SignatureReplayed,
    SignatureStale,
)
from api.http.ports import NonceStore
from api.http.signing import Caller, HttpRequest, MemoryNonces, Verifier, sign
from crypto.identifiers import PartyId
from crypto.keys import PublicKey, Signer, SigningKey
from crypto.ports import SystemRandomness

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
CLINIC = PartyId("pty_" + "c" * 32)
LABORATORY = PartyId("pty_" + "1" * 32)
CLINIC_KEY = SigningKey.generate()
LABORATORY_KEY = SigningKey.generate()
KEYS = {CLINIC: CLINIC_KEY.public, LABORATORY: LABORATORY_KEY.public}
BODY = b'{"amount_minor":"1250"}'


class StoppedClock:
    def __init__(self, now: datetime = NOON) -> None:
        self.at = now

    def now(self) -> datetime:
        return self.at


def registered_key(party: PartyId, key_id: str) -> PublicKey:
    key = KEYS.get(party)
    if key is None or key.key_id != key_id:
        raise KeyUnknown(f"{party}/{key_id}")
    return key


def a_request(
    method: str = "POST",
    target: str = "/v1/jobs?dry=1",
    body: bytes = BODY,
    **headers: str,
) -> HttpRequest:
    lines = {"host": "hub.example", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if body:
        lines["content-type"] = "application/json"
    return HttpRequest(method, "hub.example", target, tuple(lines.items()), body)


def signed(
    request: HttpRequest,
    *,
    party: PartyId = CLINIC,
    signer: Signer = CLINIC_KEY,
    now: datetime = NOON,
) -> HttpRequest:
    added = sign(request, party=party, signer=signer, now=now, randomness=SystemRandomness())
    return replace(request, headers=(*request.headers, *added.items()))


def a_verifier(
    clock: StoppedClock | None = None, nonces: NonceStore | None = None, **options: tuple[str, ...]
) -> Verifier:
    clock = clock or StoppedClock()
    return Verifier(registered_key, nonces or MemoryNonces(clock), clock, **options)


def with_header(request: HttpRequest, name: str, value: str | None) -> HttpRequest:
    rest = [line for line in request.headers if line[0].lower() != name.lower()]
    return replace(request, headers=(*rest, *([(name, value)] if value is not None else [])))


def header(request: HttpRequest, name: str) -> str:
    return next(value for key, value in request.headers if key.lower() == name.lower())


def test_a_signed_request_names_its_sender() -> None:
    assert a_verifier().verify(signed(a_request())) == Caller(CLINIC, CLINIC_KEY.public.key_id)


def test_a_signed_request_without_a_body_names_its_sender() -> None:
    request = signed(a_request("GET", "/v1/jobs", b""))
    assert a_verifier().verify(request).party == CLINIC


def test_the_signature_base_is_the_one_of_rfc_9421() -> None:
    """Written out by hand, so that the library and its counterpart cannot drift together."""
    body = b'{"a":1}'
    request = signed(a_request("POST", "/v1/jobs?dry=1", body, idempotency_key="k-0000001"))
    parameters = header(request, "Signature-Input").removeprefix("unseen=")
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    base = "\n".join(
        [
            '"@method": POST',
            '"@authority": hub.example',
            '"@path": /v1/jobs',
            '"@query": ?dry=1',
            '"content-type": application/json',
            '"idempotency-key": k-0000001',
            f'"content-digest": sha-256=:{digest}:',
            f'"@signature-params": {parameters}',
        ]
    )
    value = header(request, "Signature").removeprefix("unseen=:").removesuffix(":")
    CLINIC_KEY.public.verify(base64.b64decode(value), base.encode())
    assert parameters.startswith(
        '("@method" "@authority" "@path" "@query" "content-type" "idempotency-key" '
        f'"content-digest");created={int(NOON.timestamp())};keyid="{CLINIC}/'
    )


def alterations() -> Iterator[tuple[str, HttpRequest]]:
    genuine = signed(a_request(idempotency_key="k-0000001"))
    yield "another method", replace(genuine, method="PUT")
    yield "another path", replace(genuine, target="/v1/jobz?dry=1")
    yield "another query", replace(genuine, target="/v1/jobs?dry=0")
    yield "no query", replace(genuine, target="/v1/jobs")
    yield "another encoding of the path", replace(genuine, target="/v1/%6aobs?dry=1")
    yield "another host", replace(genuine, authority="other.example")
    yield "another port", replace(genuine, authority="hub.example:8443")
    yield "another content type", with_header(genuine, "content-type", "text/plain")
    yield "another idempotency key", with_header(genuine, "idempotency-key", "k-0000002")
    yield "no idempotency key", with_header(genuine, "idempotency-key", None)
    yield "an added If-Match", with_header(genuine, "if-match", '"7"')
    yield (
        "a later time",
        with_header(
            genuine,
            "Signature-Input",
            header(genuine, "Signature-Input").replace(
                str(int(NOON.timestamp())), str(int(NOON.timestamp()) + 1)
            ),
        ),
    )
    yield (
        "a second idempotency key",
        replace(genuine, headers=(*genuine.headers, ("idempotency-key", "k-0000002"))),
    )


@pytest.mark.parametrize(
    "request_", [pytest.param(request, id=what) for what, request in alterations()]
)
def test_an_altered_request_is_refused(request_: HttpRequest) -> None:
    with pytest.raises(SignatureInvalid):
        a_verifier().verify(request_)


def test_an_altered_body_is_refused() -> None:
    request = replace(signed(a_request()), body=BODY.replace(b"1250", b"9250"))
    with pytest.raises(DigestMismatch):
        a_verifier().verify(request)


def test_a_body_put_under_a_request_signed_without_one_is_refused() -> None:
    request = replace(signed(a_request("POST", "/v1/jobs", b"")), body=BODY)
    with pytest.raises(SignatureInvalid, match="content-digest"):
        a_verifier().verify(request)


def test_a_body_whose_digest_is_there_but_not_covered_is_refused() -> None:
    """The digest matches the body, but an altered one would as well."""
    bare = signed(a_request("POST", "/v1/jobs", b""))
    digest = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    request = with_header(replace(bare, body=BODY), "Content-Digest", f"sha-256=:{digest}:")
    with pytest.raises(SignatureInvalid, match="content-digest"):
        a_verifier().verify(request)


def test_a_body_taken_away_is_refused() -> None:
    with pytest.raises(DigestMismatch):
        a_verifier().verify(replace(signed(a_request()), body=b""))


def test_a_removed_digest_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        a_verifier().verify(with_header(signed(a_request()), "Content-Digest", None))


def test_an_unsigned_request_is_refused() -> None:
    with pytest.raises(SignatureMissing):
        a_verifier().verify(a_request())


@pytest.mark.parametrize("name", ["Signature", "Signature-Input"])
def test_half_a_signature_is_refused(name: str) -> None:
    with pytest.raises(SignatureInvalid):
        a_verifier().verify(with_header(signed(a_request()), name, None))


@pytest.mark.parametrize("seconds", [-61, 61])
def test_a_request_signed_more_than_a_minute_away_is_stale(seconds: int) -> None:
    request = signed(a_request(), now=NOON + timedelta(seconds=seconds))
    with pytest.raises(SignatureStale, match="it is 2026-11-23T12:00:00Z here"):
        a_verifier().verify(request)


@pytest.mark.parametrize("seconds", [-60, 60])
def test_a_request_signed_a_minute_away_is_accepted(seconds: int) -> None:
    request = signed(a_request(), now=NOON + timedelta(seconds=seconds))
    assert a_verifier().verify(request).party == CLINIC


def test_a_request_presented_twice_is_refused_the_second_time() -> None:
    verifier = a_verifier()
    request = signed(a_request())
    verifier.verify(request)
    with pytest.raises(SignatureReplayed):
        verifier.verify(request)


def test_a_nonce_is_remembered_as_long_as_its_signature_can_be_presented() -> None:
    """Signed by a clock 60 s ahead, and presented again when it is 60 s old: 120 s later."""
    clock = StoppedClock()
    verifier = a_verifier(clock)
    request = signed(a_request(), now=NOON + timedelta(seconds=60))
    verifier.verify(request)
    clock.at = NOON + timedelta(seconds=120)
    with pytest.raises(SignatureReplayed):
        verifier.verify(request)


def test_nonces_are_forgotten_once_their_signatures_are_stale() -> None:
    clock = StoppedClock()
    nonces = MemoryNonces(clock)
    assert nonces.remember("k", "n", NOON)
    clock.at = NOON + timedelta(seconds=1)
    assert nonces.remember("k", "n", NOON)


def test_a_forged_request_does_not_use_up_a_nonce() -> None:
    verifier = a_verifier()
    request = signed(a_request())
    with pytest.raises(DigestMismatch):
        verifier.verify(replace(request, body=b"{}"))
    assert verifier.verify(request).party == CLINIC


def test_two_parties_may_draw_the_same_nonce() -> None:
    clock = StoppedClock()
    nonces = MemoryNonces(clock)
    assert nonces.remember(f"{CLINIC}/1", "n", NOON)
    assert nonces.remember(f"{LABORATORY}/1", "n", NOON)


def test_a_key_that_nobody_registered_is_unknown() -> None:
    with pytest.raises(KeyUnknown):
        a_verifier().verify(signed(a_request(), signer=SigningKey.generate()))


def test_a_party_that_nobody_registered_is_unknown() -> None:
    with pytest.raises(KeyUnknown):
        a_verifier().verify(signed(a_request(), party=PartyId("pty_" + "0" * 32)))


def test_a_party_cannot_sign_as_another_under_its_own_key_id() -> None:
    with pytest.raises(KeyUnknown):
        a_verifier().verify(signed(a_request(), party=CLINIC, signer=LABORATORY_KEY))


def test_a_party_cannot_sign_as_another_under_the_others_key_id() -> None:
    class Impostor:
        public = CLINIC_KEY.public

        def sign(self, message: bytes) -> bytes:
            return LABORATORY_KEY.sign(message)

    with pytest.raises(SignatureInvalid):
        a_verifier().verify(signed(a_request(), signer=Impostor()))


def test_a_resolver_that_finds_the_wrong_key_is_not_believed() -> None:
    """Even if the key verifies the signature: the key id is what the log will say."""
    clock = StoppedClock()
    verifier = Verifier(lambda party, key_id: CLINIC_KEY.public, MemoryNonces(clock), clock)
    with pytest.raises(KeyUnknown):
        verifier.verify(signed(a_request(), signer=LABORATORY_KEY))


def test_a_key_store_that_is_away_is_not_taken_for_a_forgery() -> None:
    class StorageAway(Exception):
        pass

    def away(party: PartyId, key_id: str) -> PublicKey:
        raise StorageAway

    clock = StoppedClock()
    with pytest.raises(StorageAway):
        Verifier(away, MemoryNonces(clock), clock).verify(signed(a_request()))


COMPONENTS = {
    "@method": "POST",
    "@authority": "hub.example",
    "@path": "/v1/jobs",
    "@query": "?dry=1",
    "content-type": "application/json",
    "content-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(BODY).digest()).decode()}:",
}
PARAMETERS = {
    "created": str(int(NOON.timestamp())),
    "keyid": f'"{CLINIC}/{CLINIC_KEY.public.key_id}"',
    "alg": '"ed25519"',
    "nonce": '"AAAAAAAAAAAAAAAAAAAAAA"',
    "tag": '"unseen"',
}


def signed_by_hand(components: dict[str, str], parameters: dict[str, str]) -> HttpRequest:
    """Truly signed with the clinic's key, but over what it is told."""
    covered = " ".join(f'"{name}"' for name in components)
    tail = "".join(f";{name}={value}" for name, value in parameters.items())
    lines = [f'"{name}": {value}' for name, value in components.items()]
    base = "\n".join([*lines, f'"@signature-params": ({covered}){tail}'])
    value = base64.b64encode(CLINIC_KEY.sign(base.encode())).decode()
    request = with_header(a_request(), "Content-Digest", COMPONENTS["content-digest"])
    request = with_header(request, "Signature-Input", f"unseen=({covered}){tail}")
    return with_header(request, "Signature", f"unseen=:{value}:")


def without(mapping: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in mapping.items() if key != name}


def test_a_request_signed_by_hand_is_accepted() -> None:
    assert a_verifier().verify(signed_by_hand(COMPONENTS, PARAMETERS)).party == CLINIC


@pytest.mark.parametrize("component", list(COMPONENTS))
def test_a_true_signature_that_leaves_something_out_is_refused(component: str) -> None:
    with pytest.raises(SignatureInvalid, match=component):
        a_verifier().verify(signed_by_hand(without(COMPONENTS, component), PARAMETERS))


@pytest.mark.parametrize("parameter", list(PARAMETERS))
def test_a_true_signature_without_one_of_the_parameters_is_refused(parameter: str) -> None:
    with pytest.raises(SignatureInvalid, match=parameter):
        a_verifier().verify(signed_by_hand(COMPONENTS, without(PARAMETERS, parameter)))


@pytest.mark.parametrize(
    ("parameter", "value", "reason"),
    [
        ("alg", '"hmac-sha256"', "algorithm"),
        ("tag", '"elsewhere"', "tag"),
        ("expires", "1900000000", "parameter expires"),
        ("created", '"now"', "Integer"),
        ("created", "-1", "Unix time"),
        ("created", "999999999999999", "Unix time"),
        ("keyid", '"clinic"', "keyid"),
        ("keyid", f'"{CLINIC}/0123456789ABCDEF"', "keyid"),
        ("nonce", '"short"', "nonce"),
        ("nonce", '"AAAAAAAAAAAAAAAA!"', "nonce"),
    ],
)
def test_a_true_signature_with_other_parameters_is_refused(
    parameter: str, value: str, reason: str
) -> None:
    with pytest.raises(SignatureInvalid, match=reason):
        a_verifier().verify(signed_by_hand(COMPONENTS, {**PARAMETERS, parameter: value}))


def test_two_signatures_under_our_tag_are_refused() -> None:
    request = signed(a_request())
    doubled = [
        (name, f"{value}, {value.replace('unseen=', 'second=', 1)}")
        if name in ("Signature", "Signature-Input")
        else (name, value)
        for name, value in request.headers
    ]
    with pytest.raises(SignatureInvalid, match="2 signatures"):
        a_verifier().verify(replace(request, headers=tuple(doubled)))


def test_a_proxys_own_signature_does_not_disturb_ours() -> None:
    request = signed(a_request())
    stamped = [
        (name, f"{value}, proxy=:AAAA:")
        if name == "Signature"
        else (name, f'{value}, proxy=("@method");created=1;tag="proxy"')
        if name == "Signature-Input"
        else (name, value)
        for name, value in request.headers
    ]
    assert a_verifier().verify(replace(request, headers=tuple(stamped))).party == CLINIC


def test_a_host_rewritten_by_a_proxy_still_verifies_under_the_servers_public_name() -> None:
    behind_proxy = replace(signed(a_request()), authority="10.0.0.7:8000")
    verifier = a_verifier(authorities=("hub.example",))
    assert verifier.verify(behind_proxy).party == CLINIC


def test_a_server_with_two_names_accepts_either() -> None:
    verifier = a_verifier(authorities=("127.0.0.1:8400", "Hub.Example"))
    assert verifier.verify(signed(a_request())).party == CLINIC


def test_a_request_signed_for_another_hub_is_refused_whatever_host_it_claims() -> None:
    """Whoever runs hub.example must not be able to pass a request on to another hub."""
    with pytest.raises(SignatureInvalid):
        a_verifier(authorities=("other.example",)).verify(signed(a_request()))


@pytest.mark.parametrize("target", ["/v1/a b", "/v1/%zz", "/v1/ü"])
def test_a_target_that_is_not_percent_encoded_is_refused(target: str) -> None:
    with pytest.raises(SignatureInvalid):
        signed(a_request(target=target))
    with pytest.raises(SignatureInvalid):
        a_verifier().verify(replace(signed(a_request()), target=target))


@pytest.mark.parametrize("junk", ["", "unseen", "unseen=()", "unseen=1", "unseen=:%:", "\x00"])
def test_junk_in_the_signature_headers_is_refused(junk: str) -> None:
    for name in ("Signature", "Signature-Input"):
        with pytest.raises(SignatureInvalid):
            a_verifier().verify(with_header(signed(a_request()), name, junk))
