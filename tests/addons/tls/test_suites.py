"""What is spoken beside TLS 1.3: forward secrecy and an AEAD, unless an operator wants more than that."""

from __future__ import annotations

from contextlib import suppress

import pytest
from mitmproxy import tls
from mitmproxy.net.tls import Method, Version
from mitmproxy.proxy.layers.tls import TlsStartServerHook
from mitmproxy.test import taddons
from OpenSSL import SSL

from addons.forward.contexts import make_context
from addons.tls.protocol import Suites, suites
from addons.tls.suites import towards_clients, towards_servers, unknown
from addons.upstream.tls import UpstreamTls
from hsm.errors import MisconfiguredError
from tests.addons.forward.arrivals import arrival
from tests.addons.tls.ends import certificate, served

_12 = Version.TLS1_2


def _as_openssl_has_it(listed: tuple[str, ...]) -> list[str]:
    """The suites of TLS 1.2 that a connection would offer."""
    made = SSL.Context(SSL.TLS_METHOD)
    made.set_cipher_list(":".join(listed).encode())
    return [one for one in SSL.Connection(made).get_cipher_list() if not one.startswith("TLS_")]


def test_modern_has_forward_secrecy_and_an_aead() -> None:
    """No key exchange with RSA, no CBC, no SHA-1; DHE where the other side has parameters for it."""
    for towards, exchanges in ((towards_clients, {"ECDHE"}), (towards_servers, {"ECDHE", "DHE"})):
        listed = towards("modern", _12)
        offered = _as_openssl_has_it(listed)
        assert {one.partition("-")[0] for one in offered} == exchanges
        assert all("GCM" in one or "CHACHA20" in one for one in offered)


def test_compatible_has_more_and_nothing_that_cannot_work() -> None:
    """Clients and servers that can nothing else are spoken with; no client is offered DHE, for want of parameters."""
    assert {"AES128-SHA", "ECDHE-RSA-AES128-SHA"} <= set(_as_openssl_has_it(towards_servers("compatible", _12)))
    clients = _as_openssl_has_it(towards_clients("compatible", _12))
    assert {"AES128-SHA", "ECDHE-RSA-AES128-SHA"} <= set(clients)
    assert not any(one.startswith("DHE") for one in clients)
    assert clients[0].startswith("ECDHE")


@pytest.mark.parametrize("chosen", ["modern", ("ECDHE-RSA-AES128-SHA",)])
def test_old_versions_have_suites(chosen: Suites) -> None:
    """Who turns on TLS 1.0 or 1.1 by mitmproxy's options gets connections, and not a list that has none for them."""
    for towards in (towards_clients, towards_servers):
        listed = towards(chosen, Version.TLS1)
        assert listed[0] == "@SECLEVEL=0"
        assert "ECDHE-RSA-AES128-SHA" in listed


def _shake(server: SSL.Connection, client: SSL.Connection) -> None:
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                one.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))


def test_clients_get_a_group_that_outlasts_quantum_computers() -> None:
    """A client that offers X25519MLKEM768 gets it: what is recorded now cannot be read later."""
    shown, key = certificate(9)
    ours = make_context(
        "trust", key, Method.TLS_SERVER_METHOD, _12, Version.UNBOUNDED, towards_clients("modern", _12), None, False, ()
    )
    server, client = SSL.Connection(ours), SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    server.use_certificate(shown)
    _shake(server, client)
    assert client.get_group_name() == "X25519MLKEM768"


async def test_servers_are_offered_a_group_that_outlasts_quantum_computers() -> None:
    """The same towards servers, whatever suites are chosen."""
    tctx = taddons.context(UpstreamTls())
    tctx.options.update(ssl_insecure=True)
    asked = arrival(tctx)
    data = tls.TlsData(asked.server, asked)
    await tctx.master.addons.trigger_event(TlsStartServerHook(data))
    assert data.ssl_conn is not None
    server = SSL.Connection(served())
    _shake(server, data.ssl_conn)
    assert data.ssl_conn.get_group_name() == "X25519MLKEM768"
    assert not asked.server.cipher_list


@pytest.mark.parametrize(
    "given", ["old", "", [], ["ALL"], ["TLS_AES_128_GCM_SHA256"], ["AES128-GCM-SHA256", "@SECLEVEL=0"], ["TLS-X"]]
)
def test_what_is_no_choice_is_refused(given: str | list[str]) -> None:
    """The sentence says what could stand there."""
    with pytest.raises(ValueError, match=r"use modern, compatible, or a list|such as ECDHE-RSA-AES128-GCM-SHA256"):
        suites(given)


async def test_a_list_is_what_is_offered() -> None:
    """In its order; a name that OpenSSL does not have is said at the start, and not at each handshake."""
    listed = suites(["ECDHE-RSA-AES256-GCM-SHA384", "AES128-SHA"])
    assert _as_openssl_has_it(towards_servers(listed, _12)) == ["ECDHE-RSA-AES256-GCM-SHA384", "AES128-SHA"]
    assert unknown(listed) == []
    with pytest.raises(MisconfiguredError, match=r"proxy\.suites: OpenSSL has no NO-SUCH-SUITE"):
        UpstreamTls(suites(["AES128-SHA", "NO-SUCH-SUITE"]))
