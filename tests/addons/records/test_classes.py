"""Which class a failure is, of errors that the libraries really raise."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from addons.edge.refusal import CLASSES, ERRORS
from addons.records import classes
from addons.records.facts import ErrorClass
from addons.tls.pieces import PiecewiseConnection
from addons.tls.refusal import alert
from hsm.errors import (
    DeadlineError,
    HsmitmError,
    MemberLostError,
    OverloadedError,
    RefusedError,
    TryLaterError,
    UnavailableError,
)

Adjust = Callable[[SSL.Context], object]


def _nothing(_: SSL.Context) -> None:
    """As OpenSSL has it."""


def _certified() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + dt.timedelta(days=3))
    return builder.sign(key, hashes.SHA256()), key


CERTIFICATE, KEY = _certified()


def handshake(client: Adjust, server: Adjust) -> tuple[PiecewiseConnection, PiecewiseConnection]:
    """Both ends after a handshake that may have failed."""
    accepting, connecting = SSL.Context(SSL.TLS_SERVER_METHOD), SSL.Context(SSL.TLS_CLIENT_METHOD)
    accepting.use_certificate(CERTIFICATE)
    accepting.use_privatekey(KEY)
    client(connecting)
    server(accepting)
    ends = PiecewiseConnection(connecting), PiecewiseConnection(accepting)
    ends[0].set_connect_state()
    ends[1].set_accept_state()
    for _ in range(6):
        for one, other in (ends, ends[::-1]):
            for step in (one.do_handshake, lambda one=one: one.recv(9), lambda: other.bio_write(one.bio_read(99))):  # noqa: B023
                with contextlib.suppress(SSL.Error):
                    step()
    return ends


def _groups(names: bytes) -> Adjust:
    return lambda context: SSL._lib.SSL_CTX_set1_curves_list(context._context, names)  # type: ignore[attr-defined]


def _old(context: SSL.Context) -> None:
    context.set_max_proto_version(SSL.TLS1_1_VERSION)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")


def _without_forward_secrecy(context: SSL.Context) -> None:
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AES128-SHA")


def _careful(context: SSL.Context) -> None:
    context.set_verify(SSL.VERIFY_PEER)


def _demanding(context: SSL.Context) -> None:
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)


def _at_least_1_2(context: SSL.Context) -> None:
    context.set_min_proto_version(SSL.TLS1_2_VERSION)


@pytest.mark.parametrize(
    ("client", "server", "at_client", "at_server", "said"),
    [
        (_old, _at_least_1_2, "no-common-version", "no-common-version", "protocol_version"),
        (_without_forward_secrecy, _nothing, "no-common-cipher", "no-common-cipher", "handshake_failure"),
        (_groups(b"secp521r1"), _groups(b"X25519"), "no-common-group", "no-common-cipher", "handshake_failure"),
        (_careful, _nothing, "client-distrusts-ca", "connect-failed", "unknown_ca"),
        (_nothing, _demanding, "client-closed", "server-wants-client-certificate", "certificate_required"),
    ],
)
def test_a_handshake_that_failed(
    client: Adjust, server: Adjust, at_client: ErrorClass, at_server: ErrorClass, said: str
) -> None:
    """With a client the server's end says why, with a server the client's end does; one of them names the alert."""
    ours, theirs = handshake(client, server)
    assert classes.of_client(theirs.broken) == at_client, theirs.broken
    assert classes.of_server(ours.broken) == at_server, ours.broken
    assert {classes.alert(ours.broken), classes.alert(theirs.broken)} == {said, ""}


def test_no_suite_for_want_of_a_group() -> None:
    """In TLS 1.2 OpenSSL says that there is no suite; what the client has offered tells the difference."""
    assert classes.of_client("no shared cipher", groups=(26,)) == "no-common-group"
    assert classes.of_client("no shared cipher", groups=(26, 29)) == "no-common-cipher"
    assert classes.of_client("no shared cipher") == "no-common-cipher"


def _alerts() -> Iterator[tuple[int, str]]:
    accepting = SSL.Context(SSL.TLS_SERVER_METHOD)
    accepting.use_certificate(CERTIFICATE)
    accepting.use_privatekey(KEY)
    for number in range(1, 256):
        end, client = PiecewiseConnection(accepting), SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
        end.set_accept_state()
        client.set_connect_state()
        for step in (client.do_handshake, lambda: end.bio_write(client.bio_read(9999)), end.do_handshake):  # noqa: B023
            with contextlib.suppress(SSL.WantReadError):
                step()
        end.bio_write(alert(number))
        try:
            end.do_handshake()
        except SSL.WantReadError:
            continue
        except SSL.Error:
            pass
        yield number, end.broken


def test_every_alert_of_a_client_has_a_class() -> None:
    """Those that nobody knows, too; and the number that RFC 8446 has for a name is the one that OpenSSL has."""
    seen = dict(_alerts())
    assert len(seen) > 20
    for number, why in seen.items():
        assert why, number
        assert classes.of_client(why) in get_args(ErrorClass)
        name = classes.alert_in(alert(number))
        if why != classes.UNNAMED and not name.startswith("alert_"):
            assert classes.alert(why) == name, (number, why)
    assert {number for number, why in seen.items() if classes.of_client(why) == "client-distrusts-ca"} == {
        42, 43, 44, 45, 46, 48, 49, 113,
    }  # fmt: skip
    assert classes.of_client(seen[121], ech=True) == "ech-required"


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (alert(48), "unknown_ca"),
        (b"\x16\x03\x03\0\1x" + alert(40), "handshake_failure"),
        (alert(200), "alert_200"),
        (b"\x17\x03\x03\0\2ab", ""),
        (b"\x15\x03\x03\0\x1a" + bytes(26), ""),
        (b"", ""),
    ],
)
def test_an_alert_is_read_on_the_wire_where_it_can_be(record: bytes, name: str) -> None:
    """A plain one; one that is encrypted tells nobody what it is."""
    assert classes.alert_in(record) == name


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OverloadedError("busy"), "hsm-busy"),
        (UnavailableError("away"), "hsm-unavailable"),
        (TryLaterError("soon"), "hsm-unavailable"),
        (DeadlineError("late"), "hsm-unavailable"),
        (MemberLostError("gone"), "internal"),
        (RefusedError("never"), "internal"),
        (ValueError("no name"), "malformed-hello"),
    ],
)
def test_the_hsm_fails_in_a_few_ways(error: HsmitmError | ValueError, kind: ErrorClass) -> None:
    """Whether to wait, to look at the HSM, or to ask who wrote this."""
    assert classes.of_hsm(error) == kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (9, "server-expired"), (10, "server-expired"), (18, "server-self-signed"), (19, "server-untrusted"),
        (20, "server-incomplete-chain"), (21, "server-incomplete-chain"), (23, "server-revoked"), (62, "server-name"),
        (64, "server-name"), (66, "server-weak-key"), (68, "server-weak-key"), (47, "server-untrusted"),
    ],
)  # fmt: skip
def test_a_servers_chain_fails_in_a_few_ways(code: int, kind: ErrorClass) -> None:
    """By what OpenSSL says of it (openssl/x509_vfy.h)."""
    assert classes.of_verification(code) == kind


def test_each_refusal_at_the_edge_has_a_class() -> None:
    """One that is added there is told of in the decryption log, too."""
    assert set(ERRORS) == set(CLASSES)
    assert {kind for kind, _ in ERRORS.values()} <= set(get_args(ErrorClass))
