"""What is noted of a real client's ClientHello."""

from __future__ import annotations

import ssl

from addons.edge.listeners.hello import HelloReader
from addons.records import greeting
from addons.records.ja4 import GREASE
from tests.addons.records import examples


def _hello(name: str | None, *protocols: str) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


def test_a_hello_tells_whom_the_client_wants_and_what_it_is() -> None:
    """Name, protocols, groups and fingerprint, as Python's client sends them."""
    facts = examples.bare()
    found = HelloReader(65536, 64).feed(_hello("shop.example.com", "h2", "http/1.1"))
    assert found is not None
    greeting.note(facts, found)
    assert (facts.hello, facts.sni, facts.alpn, facts.ech) == (True, "shop.example.com", ("h2", "http/1.1"), False)
    assert 29 in facts.groups  # x25519
    assert not GREASE.intersection(facts.groups)
    assert facts.ja4.startswith("t13d")
    assert facts.ja4[8:10] == "h2"


def test_a_client_without_a_name_is_one_of_an_address() -> None:
    """An inner hello replaces what the outer one told."""
    facts = examples.decrypted()
    found = HelloReader(65536, 64).feed(_hello(None))
    assert found is not None
    greeting.note(facts, found)
    assert (facts.sni, facts.alpn) == ("", ())
    assert facts.ja4.startswith("t13i")
