"""What goes wrong with a client's bytes on their way: changed, cut, repeated, swapped, made up. Pure: bytes and a seed.

The first seven changes are those of `tests/addons/gnutls/fuzz.py`; the others know what a record, a length and a
ClientHello are, so that what they spoil is deeper inside.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress

from bench.fuzz.client_hello import ClientHello, records, split

_MUCH = 70_000
"""Bytes: more than a ClientHello may have (`addons.inbound.layer`)."""
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x3FFF, 0x4000, 0x4001, 0x4800, 0x7FFF, 0x8000, 0xFFFF)


def mutate(flights: Sequence[bytes], chance: random.Random) -> list[bytes]:
    """Flights with one to four changes, mostly to the first: the ClientHello."""
    changed = [bytearray(one) for one in flights]
    if chance.random() < 0.3:
        with suppress(ValueError):  # a change before this one, or a first flight that is none
            changed[0] = bytearray(_reworked(bytes(changed[0]), chance))
        if chance.random() < 0.5:
            return [bytes(one) for one in changed]
    for _ in range(chance.randint(1, 4)):
        one = changed[0] if chance.random() < 0.7 else chance.choice(changed)
        if chance.random() < 0.7:
            _spoil_bytes(one, chance)
        elif chance.random() < 0.7:
            _spoil_records(one, chance)
        else:
            chance.shuffle(changed)
    return [bytes(one) for one in changed]


def segments(flights: Sequence[bytes], chance: random.Random) -> list[bytes]:
    """The flights in the pieces in which they are sent: one, one for each flight, or cut anywhere."""
    match chance.randrange(4):
        case 0:
            return [b"".join(flights)]
        case 1:
            data = b"".join(flights)
            cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randint(1, 6)))
            return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        case _:
            return list(flights)


def _spoil_bytes(one: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(one) + 1)
    match chance.randrange(9):
        case 0 if one:
            one[at - 1] = chance.randrange(256)
        case 1:
            del one[at:]
        case 2:
            del one[at : at + chance.randint(1, 8)]
        case 3:
            one[at:at] = chance.randbytes(chance.randint(1, 8))
        case 4:
            one[at:at] = one[at : at + chance.randint(1, 64)]
        case 5 if len(one) > 5:
            one[3:5] = chance.randbytes(2)  # the record's length
        case 6 if one:
            one[at - 1] ^= 1 << chance.randrange(8)
        case 7 if len(one) > 9:
            # A length, if there is one: that of the record, of the message, or anywhere.
            where = chance.choice((3, 7, chance.randrange(len(one) - 1)))
            one[where : where + 2] = chance.choice(_EDGES).to_bytes(2)
        case 8:
            one += chance.randbytes(chance.choice((1, 5, 100, 5000, _MUCH)))


def _spoil_records(one: bytearray, chance: random.Random) -> None:
    found = split(bytes(one))
    match chance.randrange(6):
        case 0 if found:
            found.insert(chance.randrange(len(found) + 1), chance.choice(found))
        case 1:
            chance.shuffle(found)
        case 2 if found:
            del found[chance.randrange(len(found))]
        case 3 if found:
            found[0:1] = records(found[0][5:], chance.randint(1, 200))
        case 4:
            # Of any type, valid or not, and mostly of no use where it stands: an alert, a ChangeCipherSpec, an empty
            # record, data before there are keys.
            content = chance.choice((b"", b"\1", b"\1\0", b"\2\x28", chance.randbytes(chance.randint(1, 40))))
            made = bytes((chance.choice((20, 21, 22, 23, 24, 255)), 3, 3)) + len(content).to_bytes(2) + content
            found.insert(chance.randrange(len(found) + 1), made)
        case 5 if found:
            which = chance.randrange(len(found))
            found[which] = bytes((chance.randrange(256),)) + found[which][1:]
    one[:] = b"".join(found)


def _reworked(flight: bytes, chance: random.Random) -> bytes:
    """A ClientHello with other contents and right lengths. Raises ValueError where it is none already."""
    hello = ClientHello.parse(flight)
    for _ in range(chance.randint(1, 3)):
        _rework(hello, chance)
    message = hello.message()
    if len(message) > _MUCH:
        message = message[:_MUCH]
    return b"".join(records(message, chance.choice((16384, 16384, 512, 37))))


def _rework(hello: ClientHello, chance: random.Random) -> None:
    listed = hello.extensions
    which = chance.randrange(len(listed)) if listed else 0
    match chance.randrange(9):
        case 0:
            hello.version = chance.choice((0, 0x0002, 0x0300, 0x0301, 0x0304, 0xFFFF))
        case 1:
            hello.session = chance.randbytes(chance.choice((0, 1, 31, 32, 33, 255)))
        case 2:
            hello.suites = chance.choice((b"", hello.suites[:2], hello.suites[:-1], chance.randbytes(2000)))
        case 3:
            hello.compressions = chance.choice((b"", b"\1", b"\1\0", bytes(255)))
        case 4 if listed:
            kind, body = listed[which]
            spoilt = bytearray(body)
            _spoil_bytes(spoilt, chance)
            listed[which] = (kind, bytes(spoilt))
        case 5 if listed:
            del listed[which]
        case 6 if listed:
            listed.insert(chance.randrange(len(listed) + 1), listed[which])
        case 7:
            chance.shuffle(listed)
        case 8:
            body = chance.randbytes(chance.choice((0, 1, 2, 3, 40, 3000)))
            # Known types and others: a body of random bytes is seldom what its type calls for.
            listed.append(
                (chance.choice((0, 5, 10, 11, 13, 16, 21, 22, 28, 41, 42, 43, 45, 49, 51, 0xFF01, 999)), body)
            )
