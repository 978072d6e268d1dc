"""Fields that are about one connection (RFC 9110 section 7.6.1): what of them goes on, and what nobody may do by them.

A peer names fields in Connection to have the next recipient drop them. What it names of its own is dropped here, as it
comes in; what we, or a script, say later cannot be named by it, as its options do not go on. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from addons.edge.http1.heads import Fields, Named

_GO_ON = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))
"""Options that are passed on: what they say is true of the next connection, too."""
_OWN_RULES = _GO_ON | {b"transfer-encoding", b"trailer", b"proxy-connection", b"http2-settings"}
"""Names that are hop-by-hop by themselves: they are read, or passed on, by rules of their own."""
_FOR_ALL = frozenset(
    (
        b"host", b"content-length", b"content-type", b"content-encoding", b"authorization", b"cookie", b"set-cookie",
        b"cache-control", b"expect", b"range", b"origin", b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host",
        b"x-forwarded-proto", b"x-forwarded-port", b"x-real-ip", b"location", b"date", b"vary", b"etag",
    )
)  # fmt: skip
"""Names that no option may have: fields for all recipients, that others in front of us may have put there for those
behind us. They go on, whoever names them."""
_NOT_OFFERED = (b"h2c", b"h2", b"http/", b"tls/")
"""Protocols to which no connection is switched: nothing looks into what comes behind (RFC 9113 has dropped h2c)."""
_STAY = frozenset((b"keep-alive", b"proxy-connection", b"http2-settings"))
"""What is about the connection that it came by, whether Connection names it or not."""
_OPTIONS = frozenset((b"keep-alive",))
"""Those that are also options, and true without a field of that name."""
_CHANGED = _STAY | {b"connection", b"upgrade", b"te"}


def tokens(values: Iterable[bytes]) -> list[bytes]:
    """The members of a list of tokens, in lower case."""
    return [one for value in values for part in value.split(b",") if (one := part.strip(b" \t").lower())]


def received(fields: Fields, named: Named) -> Fields:
    """A received head's fields, without those that its sender names as its connection's alone."""
    dropped = {one for one in tokens(named.get(b"connection", [])) if one not in _OWN_RULES and one not in _FOR_ALL}
    return [field for field in fields if field[0].lower() not in dropped] if dropped else fields


def sent(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The fields of a head that goes out: no option but those that hold there, too, no protocol that nobody inspects,
    and of TE what is true of us. What needs no change goes out byte for byte."""
    kept = list(fields)
    names = {name.lower() for name, _ in kept} & _CHANGED
    if not names:
        return kept
    if names != {b"connection"}:
        kept = _each(kept, b"upgrade", lambda one: not one.startswith(_NOT_OFFERED))
        kept = _each(kept, b"te", lambda one: one.partition(b";")[0].rstrip(b" \t") == b"trailers")
        kept = [field for field in kept if field[0].lower() not in _STAY]
    gone = names - _OPTIONS - {name.lower() for name, _ in kept}
    return _each(kept, b"connection", lambda one: one in _GO_ON and one not in gone)


def offered(fields: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The protocols that a head which goes out offers, in lower case."""
    return tokens(value for name, value in fields if name.lower() == b"upgrade")


def _each(fields: Fields, name: bytes, keep: Callable[[bytes], bool]) -> Fields:
    """`fields`, those of this name with the members of their lists that `keep` says; none: without the field."""
    result: Fields = []
    for field in fields:
        if field[0].lower() == name:
            parts = field[1].split(b",")
            kept = [part for part in parts if keep(part.strip(b" \t").lower())]
            if not kept:
                continue
            if len(kept) < len(parts):
                field = (field[0], b",".join(kept).strip(b" \t"))  # noqa: PLW2901
        result.append(field)
    return result
