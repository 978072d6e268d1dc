"""ClientHellos, read as mitmproxy's own reader reads them, and refused where their lengths lie."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy.tls import ClientHello
from OpenSSL import SSL

from addons.tls.read_hello import ReadHello, TwiceError
from tests.addons.edge.hellos import built, padded

_RECORD_AND_MESSAGE = 9


def _of_openssl(name: bytes = b"shop.test", alpn: tuple[bytes, ...] = (b"h2", b"http/1.1")) -> bytes:
    """The body of what a client with OpenSSL begins with."""
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    client.set_connect_state()
    client.set_tlsext_host_name(name)
    client.set_alpn_protos(list(alpn))
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(65536)[_RECORD_AND_MESSAGE:]


def _body(*extensions: tuple[int, bytes], suites: bytes = b"\x13\1", compression: bytes = b"\1\0") -> bytes:
    return built(suites, *extensions, compression=compression)[_RECORD_AND_MESSAGE:]


def _name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    listed = b"".join(bytes((kind,)) + len(one).to_bytes(2) + one for one in names)
    return 0, len(listed).to_bytes(2) + listed


def _told(hello: ClientHello) -> tuple[object, ...]:
    return (
        hello.sni, hello.alpn_protocols, hello.cipher_suites, hello.extensions,
        hello.raw_bytes(), hello.raw_bytes(wrap_in_record=False), repr(hello),
    )  # fmt: skip


_WHOLE = {
    "OpenSSL's": _of_openssl(),
    "the largest": padded(60000)[4:],
    "no extensions": _body()[:-2],
    "an empty list of extensions": _body(),
    "no name": _body((10, b"\0\2\0\x1d")),
    "a name": _body(_name(b"a.test")),
    "an underscore": _body(_name(b"_a.test")),
    "a dot behind": _body(_name(b"a.test.")),
    "an address": _body(_name(b"192.0.2.1")),
    "no host": _body(_name(b"a b")),
    "two names": _body(_name(b"a.test", b"b.test")),
    "a name of another kind": _body(_name(b"a.test", kind=1)),
    "a name that is too long": _body(_name(b"a." * 128 + b"test")),
    "bytes": _body(_name(b"\xff\xfe")),
    "international": _body(_name("bücher.test".encode("idna"))),
    "no protocols": _body((16, b"\0\0")),
}


@pytest.mark.parametrize("body", _WHOLE.values(), ids=_WHOLE)
def test_a_hello_is_read_as_mitmproxy_reads_it(body: bytes) -> None:
    """Scripts see what they always saw."""
    assert _told(ReadHello(body)) == _told(ClientHello(body))
    assert isinstance(ReadHello(body), ClientHello)


def test_the_tree_is_there_for_who_looks_for_it() -> None:
    """mitmproxy's own objects are made when a script asks for them."""
    tree = ReadHello(_WHOLE["OpenSSL's"])._client_hello
    assert tree.cipher_suites.cipher_suites == ReadHello(_WHOLE["OpenSSL's"]).cipher_suites  # type: ignore[attr-defined]


@given(st.data())
@example(None)
def test_whatever_is_read_is_what_mitmproxy_reads(data: st.DataObject | None) -> None:
    """A hello that was changed anywhere is refused, or read to the same end."""
    body = bytearray(_WHOLE["OpenSSL's"])
    for _ in range(data.draw(st.integers(0, 4)) if data else 0):
        assert data
        at = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[at] = data.draw(st.integers(0, 255))
        else:
            del body[at:]
            body += data.draw(st.binary(max_size=8))
            break
    try:
        read = ReadHello(bytes(body))
    except ValueError:
        return
    assert _told(read) == _told(ClientHello(bytes(body)))


@pytest.mark.parametrize(
    "body",
    [
        b"", bytes(34), _WHOLE["OpenSSL's"][:-1], _WHOLE["OpenSSL's"] + b"\0", _body(_name()),
        _body((0, b"\0\x10\0\0\x20a")), _body((0, b"\0\x03\0\0\0a")), _body((0, b"")), _body((16, b"\0\4\2h2")),
        _body((16, b"\0\2\2h2")), _body(suites=b"\x13\1\x13"),
    ],
)  # fmt: skip
def test_lengths_that_do_not_fit_are_refused(body: bytes) -> None:
    """Who says one length and sends another is not read on."""
    with pytest.raises(ValueError, match=r"cut short|more than its length says|half a cipher suite"):
        ReadHello(body)


@pytest.mark.parametrize("kind", [0, 16, 0x7777])
def test_an_extension_that_comes_twice_is_refused(kind: int) -> None:
    """A client cannot show us one name, and its server another."""
    with pytest.raises(TwiceError):
        ReadHello(_body((kind, _name(b"a.test")[1]), (kind, _name(b"b.test")[1])))
