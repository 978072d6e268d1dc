"""The last connections to a host from the decryption log: read from its end, so that its size does not matter.

The log is written while we read, and may be cut, or end in the middle of a line: what is no record is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from addons.records import record
from addons.records.record import Record
from hsm.errors import MisconfiguredError
from proxy.commands.explain.report import Connection, PastPart, Question

_BLOCK = 1 << 20
MOST_BYTES = 64 << 20
"""So far back; a busy proxy writes that in some minutes, and it is read in well under a second."""
MOST = 5
"""Connections that are shown."""


def past(log: Path | None, question: Question) -> PastPart:
    """The newest connections that the question is about."""
    if log is None:
        return PastPart(problem="no decryption log is kept in a file: [decryption_log] file")
    try:
        with log.open("rb") as file:
            return _read(file, log, question)
    except FileNotFoundError:
        return PastPart(str(log), problem=f"there is no decryption log at {log} yet")
    except OSError as error:
        return PastPart(str(log), problem=f"the decryption log {log} cannot be read: {error.strerror}")


def of_page(log: Path | None, id_: str) -> Question:
    """What the connection was about whose client was shown a page with this id.

    Raises MisconfiguredError where the log does not have it.
    """
    if log is None:
        raise MisconfiguredError("no decryption log is kept in a file ([decryption_log] file), so no id can be found")
    try:
        with log.open("rb") as file:
            for line in lines(file, MOST_BYTES):
                if id_.encode() in line and (made := _record(line)) is not None and made.event.id == id_:
                    host = made.destination.address or made.destination.ip
                    user = made.user.name if made.user is not None else ""
                    return Question(host, made.destination.port or 443, made.source.ip, user)
    except OSError as error:
        raise MisconfiguredError(f"the decryption log {log} cannot be read: {error.strerror}") from error
    raise MisconfiguredError(
        f"{log} has no connection with the id {id_}, as far back as was read; one that is open has no record yet"
    )


def _read(file: BinaryIO, log: Path, question: Question) -> PastPart:
    wanted = question.host.encode()
    found: list[Connection] = []
    for line in lines(file, MOST_BYTES):
        if wanted not in line or (made := _record(line)) is None or not _about(made, question):
            continue
        found.append(_connection(made))
        if len(found) == MOST:
            break
    return PastPart(str(log), tuple(found), whole=os.fstat(file.fileno()).st_size <= MOST_BYTES)


def lines(file: BinaryIO, most_bytes: int) -> Iterator[bytes]:
    """Lines from the last one on, of the last so many bytes. A line that is cut at either end is given as it is."""
    at = file.seek(0, os.SEEK_END)
    until = max(0, at - most_bytes)
    rest = b""
    while at > until:
        size = min(_BLOCK, at - until)
        at -= size
        file.seek(at)
        first, *others = (file.read(size) + rest).split(b"\n")
        yield from filter(None, reversed(others))
        rest = first if len(first) <= record.MAX_BYTES else b""  # no line is so long: it is none of ours
    if rest:
        yield rest


def _record(line: bytes) -> Record | None:
    try:
        return record.read(line)
    except msgspec.MsgspecError:
        return None


def _about(made: Record, question: Question) -> bool:
    names = {
        made.destination.address,
        made.hsmitm.host,
        made.tls.client.server_name if made.tls and made.tls.client else "",
    }
    if question.host not in names and question.host != made.destination.ip:
        return False
    return question.client in ("", made.source.ip) and (
        not question.user or (made.user is not None and made.user.name == question.user)
    )


def _connection(made: Record) -> Connection:
    ours = made.hsmitm
    return Connection(
        at=f"{made.timestamp:%Y-%m-%dT%H:%M:%SZ}",
        id=made.event.id,
        client=made.source.ip,
        action=made.event.action,
        rule=ours.rule,
        kind=ours.error.class_ if ours.error else "",
        side=ours.error.side if ours.error else "",
        text=ours.error.text if ours.error else "",
        authority=ours.authority,
        leaf_serial=ours.leaf.serial if ours.leaf else "",
        leaf_cache=ours.leaf.cache if ours.leaf else "",
        member=ours.hsm.member if ours.hsm else "",
    )
