"""Pages and `explain` on a running hsmitm: what a client of a blocked site sees, and what a help desk is told of it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.records import record
from addons.records.record import Record
from tests.integration.harness import HSMITM, OriginCA, OriginThread, System
from tests.waiting import wait_until

_RULES = """
[[policy.rules]]
name = "no-games"
to = { domains = [".games.test"] }
action = "block"
"""
_TEMPLATE = "<!doctype html><title>ours</title><p>{{ sentence }}<p>{{ rule }}<p>{{ id }}<p>{{ contact }}"
_BROWSER = ("--header", "Accept: text/html,application/xhtml+xml,*/*;q=0.8")


@pytest.fixture(scope="module")
def running(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, OriginThread]]:
    """An hsmitm with a rule that blocks, a page of its own, and somebody to ask."""
    origin_ca = OriginCA()
    made = System.make(
        tmp_path_factory.mktemp("pages") / "s", upstream_ca=origin_ca.pem, workers="1",
        pages__contact='"<the help desk>, 4711"', pages__template='"page.html"',
    )  # fmt: skip
    (made.directory / "page.html").write_text(_TEMPLATE)
    made.toml.write_text(made.toml.read_text() + _RULES)
    with OriginThread(origin_ca) as origin, made as system:
        yield system, origin


def _records(system: System) -> list[Record]:
    log = system.directory / "decryption.jsonl"
    return [record.read(line) for line in log.read_bytes().splitlines() if line] if log.exists() else []


def _recorded(system: System, id_: str) -> Record:
    """The record with the id of a page, which is there when its connection has ended."""
    wait_until(lambda: any(one.event.id == id_ for one in _records(system)), "its id is in the log", 5)
    return next(one for one in _records(system) if one.event.id == id_)


def _id(trace: str) -> str:
    found = re.search(r"(?i)hsmitm-id: (\S+)", trace)
    assert found is not None, trace
    return found[1]


def _names_nothing_inward(system: System, text: str) -> None:
    for word in (str(system.directory), "softhsm", "pkcs11", "member", "partition", "Traceback", "127.0.0.1"):
        assert word not in text, word


def test_a_browser_gets_the_operators_page(running: tuple[System, OriginThread]) -> None:
    """HTML of the operator's own, with the values escaped, and the id that is in the log."""
    system, _ = running
    reply = system.curl("http://www.games.test/", "--verbose", *_BROWSER)
    assert reply.status == 403
    assert "<p>www.games.test is blocked by the policy of this network.<p>no-games<p>" in reply.body
    assert "&lt;the help desk&gt;, 4711" in reply.body
    assert _id(reply.trace) in reply.body
    found = _recorded(system, _id(reply.trace))
    assert (found.event.action, found.hsmitm.rule) == ("blocked", "no-games")
    _names_nothing_inward(system, reply.body)


@pytest.mark.parametrize(
    ("options", "status", "body"),
    [
        ((), 403, "hsmitm: www.games.test is blocked by the policy of this network.\n\nHost: www.games.test\n"),
        (("--head",), 403, ""),
        (("--header", "Upgrade: websocket", "--header", "Connection: Upgrade", "--header", "Sec-WebSocket-Version: 13",
          "--header", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 403, "hsmitm: www.games.test is blocked"),
        (("--header", "Content-Type: application/grpc", "--data", "x"), 200, ""),
    ],
)  # fmt: skip
def test_other_clients_get_what_they_can_read(
    running: tuple[System, OriginThread], options: tuple[str, ...], status: int, body: str
) -> None:
    """Text for programs and WebSocket handshakes, no content for HEAD, gRPC's own status; an id each."""
    system, _ = running
    reply = system.curl("http://www.games.test/", "--verbose", *options)
    assert reply.status == status, reply
    if "--head" not in options:
        assert reply.body.startswith(body)
        assert bool(body) == bool(reply.body)
    if status == 200:
        assert "grpc-status: 7" in reply.trace
    assert _recorded(system, _id(reply.trace + reply.body)).event.action == "blocked"


def test_a_connect_has_the_page_and_the_id(running: tuple[System, OriginThread]) -> None:
    """Where no certificate was shown yet the CONNECT is answered: 403, the id in a header, and nothing of the HSM."""
    system, _ = running
    host, _, port = system.proxy.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"CONNECT www.games.test:443 HTTP/1.1\r\nHost: www.games.test:443\r\n\r\n")
        said = b""
        while b"4711" not in said and (more := connection.recv(65536)):
            said += more
    assert said.startswith(b"HTTP/1.1 403 ")
    assert b"Cache-Control: no-store" in said
    found = _recorded(system, _id(said.decode()))
    assert found.hsmitm.error is not None
    assert found.hsmitm.error.class_ == "blocked-by-policy"
    _names_nothing_inward(system, said.decode())


def test_a_failed_connection_has_a_page_too(running: tuple[System, OriginThread]) -> None:
    """A server that is not there: 502 with an id, and the address that was tried is in the log alone."""
    system, _ = running
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    reply = system.curl(f"http://away.test:{port}/", "--verbose")
    assert reply.status == 502
    assert "away.test cannot be connected to" in reply.body
    _names_nothing_inward(system, reply.body)
    found = _recorded(system, _id(reply.trace))
    assert found.hsmitm.error is not None
    assert found.hsmitm.error.class_ == "connect-failed"


def _explained(system: System, *arguments: str) -> tuple[str, dict[str, Any]]:
    said = []
    for more in ((), ("--json",)):
        done = subprocess.run(
            [*HSMITM, "explain", *arguments, "--config", str(system.toml), *more],
            capture_output=True, text=True, timeout=60, check=False, env=system.surroundings,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        said.append(done.stdout)
    return said[0], json.loads(said[1])


def test_a_help_desk_is_told_of_a_blocked_site(running: tuple[System, OriginThread]) -> None:
    """The rule, and the connections that it has blocked."""
    system, _ = running
    reply = system.curl("http://calls.games.test/", "--verbose")
    _recorded(system, _id(reply.trace))
    text, found = _explained(system, "http://calls.games.test/play", "--from", "127.0.0.1")
    assert "calls.games.test is blocked: rule 'no-games' says block." in text
    assert "blocked: blocked-by-policy" in text
    assert [one["id"] for one in found["past"]["connections"]] == [_id(reply.trace)]
    assert max(map(len, text.splitlines())) <= 80
    assert _explained(system, _id(reply.trace))[1]["question"] == found["question"] | {"port": 80}


def test_a_help_desk_is_told_of_a_site_that_works(running: tuple[System, OriginThread]) -> None:
    """Its certificate as it is now, the leaf that was shown for it, and that the HSM is in service."""
    system, origin = running
    assert system.curl(f"https://works.test:{origin.port}/").ok
    wait_until(lambda: any(one.destination.address == "works.test" for one in _records(system)), "it is recorded", 5)
    text, found = _explained(system, f"works.test:{origin.port}", "--from", "127.0.0.1")
    assert "works.test is inspected, and nothing is wrong with it from here." in text
    assert found["server"]["issuer"] == "CN=throw-away origin CA"
    assert found["past"]["connections"][0]["leaf_serial"]
    assert found["hsm"]["running"] is True
    assert found["hsm"]["in_service"] == ["softhsm1"]


def test_a_worker_does_not_start_with_a_page_that_is_none(softhsm_module: str, tmp_path: Path) -> None:
    """`hsmitm run` says what is wrong with the template, and serves nobody a page that has nothing to say."""
    del softhsm_module
    made = System.make(tmp_path / "s", workers="1", pages__template='"page.html"')
    (made.directory / "page.html").write_text("{{ member }}")
    made.start(wait=False)
    assert made.process is not None
    assert made.process.wait(60) == 78
    assert "pages.template: " in made.log
    assert "there is no placeholder {{ member }}" in made.log
