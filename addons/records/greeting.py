"""What a ClientHello tells of its client, noted in the connection's facts. No I/O."""

from __future__ import annotations

from mitmproxy.tls import ClientHello

from addons.records.facts import Facts
from addons.records.ja4 import ja4, values

_SUPPORTED_GROUPS, _ENCRYPTED_CLIENT_HELLO = 10, 0xFE0D
_MOST = 64
"""Of each list: a client's own are shorter, and a stranger's fill no log."""


def note(facts: Facts, hello: ClientHello) -> None:
    """The hello is whole: with TLS inside of TLS it is the inner one that is told of in the end."""
    extensions = dict(hello.extensions)
    alpn = hello.alpn_protocols
    facts.hello = True
    facts.sni = hello.sni or ""
    facts.alpn = tuple(one.decode("ascii", "backslashreplace") for one in alpn[:_MOST])
    facts.groups = tuple(values(extensions.get(_SUPPORTED_GROUPS, b""))[:_MOST])
    facts.ech = _ENCRYPTED_CLIENT_HELLO in extensions
    legacy_version = int.from_bytes(hello.raw_bytes(wrap_in_record=False)[:2])
    facts.ja4 = ja4(legacy_version, hello.cipher_suites, extensions, alpn[0] if alpn else b"")
