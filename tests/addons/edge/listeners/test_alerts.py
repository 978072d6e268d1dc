"""Whatever goes wrong with a client's TLS, the client hears which alert it is, and its connection ends at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from mitmproxy import tls
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.tls import TlsEstablishedClientHook, TlsFailedClientHook
from mitmproxy.test import taddons
from OpenSSL import SSL

from addons.edge.listeners.client_tls import ClientTls
from addons.edge.refusal import EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.upstream.layer import ServerTls
from tests.addons.edge.driver import Driver, arrived
from tests.addons.edge.hellos import built, hello, records
from tests.addons.tls.ends import HOST, Client, Listening, accepting, served, spoilt


class _Leaf:
    """Gives each client a certificate."""

    def __init__(self, settings: SSL.Context) -> None:
        self._settings = settings
        self.doubt = ""

    def tls_start_client(self, data: tls.TlsData) -> None:
        data.ssl_conn = made = accepting(self._settings)
        made.doubt = self.doubt


class _Proxy(Driver):
    """Our layer, opposite a client."""

    def __init__(self, version: int = 0) -> None:
        self.leaf = _Leaf(served(version))
        tctx = taddons.context(self.leaf)
        self.context = arrived(tctx, port=443)
        outermost = ServerTls(self.context)
        outermost.child_layer = client_tls = ClientTls(self.context, Bounds())
        client_tls.child_layer = self.inside = Listening(self.context)
        self._told = 0
        super().__init__(outermost, tctx)

    def hear(self, data: bytes) -> None:
        """Bytes of the client's."""
        if data:
            self.tell(events.DataReceived(self.context.client, data))

    def say(self) -> bytes:
        """What it has said since it was asked."""
        said = self.sent(self.context.client)[self._told :]
        self._told += len(said)
        return said

    def shake(self, client: Client) -> None:
        """A whole handshake, as far as it goes."""
        for _ in range(4):
            self.hear(client.shake())
            client.hear(self.say())

    @property
    def closed(self) -> bool:
        """Whether the client is closed."""
        return self.context.client in {one.connection for one in self.of(commands.CloseConnection)}


_VERSIONS, _GROUPS, _SCHEMES = (43, b"\2\3\4"), (10, b"\0\2\0\x17"), (13, b"\0\2\4\3")
_POINT = ec.derive_private_key(1, ec.SECP256R1()).public_key()
_KEY = (51, b"\0\x45\0\x17\0\x41" + _POINT.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
_NO_POINT = (51, b"\0\x45\0\x17\0\x41\4" + bytes(64))
_SUITE_12, _SUITE_13 = b"\xc0\x2b", b"\x13\1"
HELLOS = {
    "no version of ours": (built(_SUITE_12, _GROUPS, version=b"\3\1"), 70),
    "no version at all": (built(_SUITE_13, (43, b"\2\x7f\x1c")), 70),
    "no cipher suite of ours": (built(b"\0\x2f", _GROUPS, _SCHEMES), 40),
    "no group of ours": (built(_SUITE_13, _VERSIONS, (10, b"\0\2\x7f\0"), _SCHEMES, (51, b"\0\6\x7f\0\0\2ab")), 40),
    "no signature scheme of ours": (built(_SUITE_12, _GROUPS, (13, b"\0\2\2\1")), 40),
    "TLS 1.3 without schemes": (built(_SUITE_13, _VERSIONS, _GROUPS, _KEY), 109),
    "a point that is not on its curve": (built(_SUITE_13, _VERSIONS, _GROUPS, _SCHEMES, _NO_POINT), 47),
    "compression without none": (built(_SUITE_12, _GROUPS, _SCHEMES, compression=b"\1\1"), 47),
    "an extension twice": (built(_SUITE_12, _GROUPS, _GROUPS, _SCHEMES), 47),
    "an empty list of ALPN": (built(_SUITE_12, _GROUPS, (16, b"\0\0")), 50),
    "an ALPN extension without a list": (built(_SUITE_12, _GROUPS, (16, b"")), 50),
    "an empty name of ALPN": (built(_SUITE_12, _GROUPS, (16, b"\0\4\2h2\0")), 50),
    "an empty list of groups": (built(_SUITE_12, (10, b"\0\0"), _SCHEMES), 50),
    "a name that is cut short": (built(_SUITE_12, (0, b"\0\x10\0\0\x20a")), 50),
    "suites of an odd length": (built(b"\xc0\x2b\0", _GROUPS), 50),
    "a body that is cut short": (records(b"\1\0\0\x26\3\3" + bytes(36), 16384), 50),
    "another message": (records(b"\2" + hello()[6:], 16384), 10),
    "an alert": (b"\x15\3\3\0\2\2\x28", 10),
    "data": (b"\x17\3\3\0\5hello", 10),
    "a change of ciphers": (b"\x14\3\3\0\1\1", 10),
    "an empty record": (b"\x16\3\1\0\0", 10),
    "a record that is too long": (b"\x16\3\1\x7f\xff\1", 22),
}


@pytest.mark.parametrize("what", HELLOS)
async def test_a_hello_that_leads_nowhere_gets_its_alert(what: str) -> None:
    """RFC 8446 section 6.2, RFC 5246 section 7.2.2: a fatal alert, of the right name, and the end."""
    said, alert = HELLOS[what]
    proxy = _Proxy()
    proxy.hear(said)
    assert proxy.say() == bytes((21, 3, proxy.sent(proxy.context.client)[2], 0, 2, 2, alert))
    assert proxy.closed
    assert len(proxy.of(TlsFailedClientHook)) == 1


@pytest.mark.parametrize("version", [b"\3\4", b"\3\xff", b"\4\0", b"\xff\xff"])
async def test_a_records_version_is_no_matter(version: bytes) -> None:
    """RFC 8446 section 5.1: it is ignored for all purposes, here and in the library behind."""
    proxy, client = _Proxy(), Client()
    first = client.shake()
    proxy.hear(first[:1] + version + first[3:])
    client.hear(proxy.say())
    proxy.shake(client)
    assert len(proxy.of(TlsEstablishedClientHook)) == 1


WITHIN = {
    "TLS 1.2: a key exchange that is spoilt": (SSL.TLS1_2_VERSION, spoilt, "BAD_RECORD_MAC"),
    "TLS 1.2: data too early": (SSL.TLS1_2_VERSION, lambda _: b"\x17\3\3\0\5hello", "UNEXPECTED_MESSAGE"),
    "TLS 1.2: a record that is too long": (SSL.TLS1_2_VERSION, lambda _: b"\x16\3\3\x7f\xff", "RECORD_OVERFLOW"),
    "TLS 1.3: a Finished that is spoilt": (SSL.TLS1_3_VERSION, spoilt, "BAD_RECORD_MAC"),
    "TLS 1.3: data in the clear": (SSL.TLS1_3_VERSION, lambda _: b"\x16\3\3\0\4\x14\0\0\0", "UNEXPECTED_MESSAGE"),
    "TLS 1.3: a record that is too long": (SSL.TLS1_3_VERSION, lambda _: b"\x17\3\3\x7f\xff", "RECORD_OVERFLOW"),
}


@pytest.mark.parametrize("what", WITHIN)
async def test_a_handshake_that_breaks_ends_with_an_alert(what: str) -> None:
    """What is wrong in a client's second flight is said to it, under the keys that there are."""
    version, twist, alert = WITHIN[what]
    proxy, client = _Proxy(version), Client()
    proxy.hear(client.shake())
    client.hear(proxy.say())
    proxy.hear(twist(client.shake()))
    client.hear(proxy.say())
    client.shake()
    client.read()
    assert alert in client.complaint
    assert proxy.closed
    (failed,) = proxy.of(TlsFailedClientHook)
    assert "trust" not in (failed.data.conn.error or "")


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("twist", [spoilt, lambda _: b"\x17\3\3\x7f\xff", lambda _: b"\x63\3\3\0\1x"])
async def test_a_record_that_is_wrong_ends_the_connection(version: int, twist: Callable[[bytes], bytes]) -> None:
    """What came before it is used, the client hears an alert, what is within hears of the end, and the log has it: the
    connection does not stay until it has been idle for minutes."""
    proxy, client = _Proxy(version), Client()
    proxy.shake(client)
    proxy.hear(client.write(b"right") + twist(client.write(b"wrong")))
    assert proxy.inside.heard == b"right"
    assert proxy.inside.closed == [proxy.context.client]
    client.hear(proxy.say())
    client.read()
    assert "ALERT" in client.complaint
    assert proxy.closed
    assert [one.data.kind for one in proxy.of(EdgeRefusedHook)] == ["broken-tls"]
    proxy.hear(b"\x17\3\3\0\4more")
    proxy.tell(events.ConnectionClosed(proxy.context.client))
    assert len(proxy.inside.closed) == 1


async def test_an_end_that_is_meant_is_told_from_a_cut() -> None:
    """Who closes a connection says so (close_notify, RFC 8446 section 6.1): clients take a bare end for an attack."""
    proxy, client = _Proxy(), Client()
    proxy.shake(client)
    proxy.inside.ends = True
    proxy.hear(client.write(b"x"))
    client.hear(proxy.say())
    assert client.tls.read() == b""  # with less than close_notify more would be waited for


async def test_a_doubt_that_comes_true_is_what_the_log_says() -> None:
    """A client that cannot verify the CA's signatures refuses its leaf as one that it does not trust: the class and the
    sentence are those of what was known before."""
    proxy, client = _Proxy(), Client(trusts=False)
    proxy.leaf.doubt = "the client verifies no ECDSA"
    proxy.shake(client)
    (failed,) = proxy.of(TlsFailedClientHook)
    assert failed.data.conn.error == "the client verifies no ECDSA"
    assert [(one.data.kind, one.data.detail) for one in proxy.of(EdgeRefusedHook)] == [
        ("no-common-signature", "the client verifies no ECDSA")
    ]


@pytest.mark.parametrize(
    ("client", "words"),
    [
        (Client(trusts=False), f"The client does not trust the proxy's certificate for {HOST}"),
        (Client(highest="TLSv1_2", ciphers="AES128-SHA"), "nothing in common"),
    ],
)
async def test_the_log_blames_trust_for_what_is_about_trust(client: Client, words: str) -> None:
    """A client that distrusts the CA is said to; one that has no cipher suite in common with us is not."""
    proxy = _Proxy()
    proxy.shake(client)
    (failed,) = proxy.of(TlsFailedClientHook)
    assert words in (failed.data.conn.error or "")
