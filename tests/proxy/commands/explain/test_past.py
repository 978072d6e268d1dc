"""The last connections to a host, from a decryption log of any size and state."""

from __future__ import annotations

import datetime as dt
import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.records import record
from addons.records.facts import Facts
from addons.records.translation import to_record
from hsm.errors import MisconfiguredError
from proxy.commands.explain import past as past_module
from proxy.commands.explain.past import MOST, lines, of_page, past
from proxy.commands.explain.report import Question

HOST = Question("www.bank.example")
_NOON = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC).timestamp()


def _line(number: int, host: str = "www.bank.example", client: str = "10.1.2.3", user: str = "") -> bytes:
    facts = Facts(id=f"id-{number}", began=_NOON + number, began_monotonic=time.monotonic(), host=host, port=443)
    facts.client_ip, facts.user, facts.event = client, user, "failed"
    facts.fail("client-distrusts-ca", "client", f"number {number}", "unknown_ca")
    facts.authority, facts.leaf_serial, facts.leaf_cache, facts.member = "trust", "4711", "hit", "m1"
    return record.line(to_record(facts, _NOON + number))


def test_the_newest_stand_first(tmp_path: Path) -> None:
    """Of many connections the last few are shown, with what became of each."""
    log = tmp_path / "log"
    log.write_bytes(b"".join(_line(number) for number in range(40)))
    found = past(log, HOST)
    assert [one.id for one in found.connections] == [f"id-{number}" for number in range(39, 39 - MOST, -1)]
    newest = found.connections[0]
    assert (newest.at, newest.client, newest.action) == ("2026-12-01T12:00:39Z", "10.1.2.3", "failed")
    assert (newest.kind, newest.side, newest.text) == ("client-distrusts-ca", "client", "number 39")
    assert (newest.leaf_serial, newest.leaf_cache, newest.authority, newest.member) == ("4711", "hit", "trust", "m1")
    assert found.whole


def test_others_connections_are_not_shown(tmp_path: Path) -> None:
    """Only that very host's, and where a client or a user is asked for, only theirs."""
    log = tmp_path / "log"
    log.write_bytes(_line(1) + _line(2, "x-www.bank.example") + _line(3, client="10.1.2.30") + _line(4, user="alice"))
    assert [one.id for one in past(log, HOST).connections] == ["id-4", "id-3", "id-1"]
    assert [one.id for one in past(log, Question("www.bank.example", client="10.1.2.3")).connections] == [
        "id-4",
        "id-1",
    ]
    assert [one.id for one in past(log, Question("www.bank.example", user="alice")).connections] == ["id-4"]


def test_a_line_that_is_no_record_is_passed_over(tmp_path: Path) -> None:
    """A log that was cut in a line, or into which somebody wrote, tells what it can."""
    log = tmp_path / "log"
    log.write_bytes(b'{"www.bank.example": 1}\nwww.bank.example\n\xff\n' + _line(7) + b"\n\n" + _line(8)[:100])
    assert [one.id for one in past(log, HOST).connections] == ["id-7"]


def test_the_id_on_a_page_leads_to_its_connection(tmp_path: Path) -> None:
    """Somebody reads an id on the telephone: host, port, client and user of that connection are known."""
    log = tmp_path / "log"
    log.write_bytes(_line(1) + _line(2, "shop.example", "10.9.9.9", "bob") + _line(21))
    assert of_page(log, "id-2") == Question("shop.example", 443, "10.9.9.9", "bob")
    for id_, path in (("id-3", log), ("id-2", tmp_path / "none"), ("id-2", None)):
        with pytest.raises(MisconfiguredError):
            of_page(path, id_)


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path) -> None:
    """No file, a directory, no log at all: no traceback."""
    assert past(None, HOST).problem == "no decryption log is kept in a file: [decryption_log] file"
    assert "there is no decryption log at" in past(tmp_path / "none", HOST).problem
    assert "cannot be read" in past(tmp_path, HOST).problem


def test_a_large_log_is_read_from_its_end_and_no_further_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is older than the bound is not looked for, and the answer says so."""
    monkeypatch.setattr(past_module, "MOST_BYTES", 4096)
    monkeypatch.setattr(past_module, "_BLOCK", 1000)
    log = tmp_path / "log"
    log.write_bytes(_line(1) + b"".join(_line(number, "other.example") for number in range(20)))
    found = past(log, HOST)
    assert (found.connections, found.whole) == ((), False)


@given(
    rows=st.lists(st.binary(max_size=40).map(lambda row: row.replace(b"\n", b"")), max_size=30),
    block=st.integers(1, 50),
    ended=st.booleans(),
)
def test_lines_come_backwards_wherever_blocks_end(rows: list[bytes], block: int, ended: bool) -> None:
    """However the file is cut into blocks, its lines come whole, and the last one first."""
    content = b"\n".join(rows) + (b"\n" if ended and rows else b"")
    before, past_module._BLOCK = past_module._BLOCK, block
    try:
        found = list(lines(io.BytesIO(content), 1 << 20))
    finally:
        past_module._BLOCK = before
    assert found == [row for row in reversed(rows) if row]


def test_a_line_without_end_costs_no_memory() -> None:
    """A file that is one endless line is passed over in blocks."""
    assert list(lines(io.BytesIO(bytes(8 << 20)), 64 << 20)) == []
