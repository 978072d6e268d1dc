"""Fourteen servers with one fault each, three profiles, three kinds of clients: the leaf, the page, the class.

All visits are made once, side by side, by real clients through a running hsmitm; each test looks at one of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from addons.pages.sentences import SAYINGS
from addons.records.facts import ErrorClass
from tests.addons.upstream.faulty import FAULTS, ROOT
from tests.addons.upstream.test_judge import CLASSES
from tests.integration.harness import System
from tests.policy.faulty_servers import ALL, OLD, OURS, WANTING, WEAK, Seen, Servers, Visitor, serving, slug
from tests.waiting import wait_until

KINDS = ("http/1.1", "h2", "websocket")
PROFILES = ("block", "untrusted", "allow")
_FAULTS = ("expired", "untrusted", "self_signed", "name_mismatch", "incomplete_chain", "weak_key")
_OTHERS = {
    "block": 'client_certificate = "block"',
    "untrusted": 'client_certificate = "without"',
    "allow": 'client_certificate = "present:us"\nversions = "1.0-1.3"\nsuites = "compatible"',
}
_OTHER_CLASSES: dict[str, ErrorClass] = {
    OLD: "no-common-version",
    WEAK: "no-common-cipher",
    WANTING: "server-wants-client-certificate",
}


def _policy(word: str) -> str:
    faults = "\n".join(f'{one} = "{word}"' for one in _FAULTS)
    rule = f'[[policy.rules]]\nname = "{word}-all"\nto = {{ domains = [".{word}.test"] }}\naction = "decrypt"\n'
    return f'{rule}profile = "{word}"\n[profiles.{word}]\n{faults}\n{_OTHERS[word]}\n'


class Visits:
    """What came of all visits."""

    def __init__(self, system: System, servers: Servers) -> None:
        self.system, self.servers = system, servers
        self._visitor = Visitor(system, system.directory / "forward-untrust.pem")
        cases = [(fault, word, kind) for fault in ALL for word in PROFILES for kind in KINDS]
        with ThreadPoolExecutor(6) as pool:
            self._seen = dict(zip(cases, pool.map(self._visit, cases), strict=True))
        hosts = {self.host(*one) for one in cases}
        wait_until(lambda: hosts <= set(self._records()), "each visit has a record", 15)
        self.records = self._records()

    @staticmethod
    def host(fault: str, word: str, kind: str) -> str:
        """A name for each visit."""
        return f"{slug(fault)}.{slug(kind).replace('/', '')}.{word}.test"

    def _visit(self, case: tuple[str, str, str]) -> Seen:
        fault, _, kind = case
        return self._visitor.visit(kind, self.host(*case), self.servers.port(fault))

    def _records(self) -> dict[str, dict[str, Any]]:
        path = self.system.directory / "decryption.jsonl"
        lines = [json.loads(one) for one in path.read_text().splitlines()] if path.exists() else []
        return {one["tls"]["client"]["server_name"]: one for one in lines if "tls" in one}

    def of(self, fault: str, word: str, kind: str) -> tuple[Seen, dict[str, Any], bool]:
        """What the client saw, the record, and whether the server was asked for anything."""
        host = self.host(fault, word, kind)
        return self._seen[fault, word, kind], self.records[host], self.servers.reached(host)


@pytest.fixture(scope="module")
def visits(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visits]:
    """One system with three rules, and everybody has been everywhere."""
    made = System.make(
        tmp_path_factory.mktemp("faulty") / "s",
        upstream_ca=ROOT.certificate.public_bytes(Encoding.PEM).decode(),
        workers="1",
        decryption_log__file='"decryption.jsonl"',
    )
    (made.directory / "us.pem").write_bytes(OURS.pem)
    ours = '[[upstream.client_certificates]]\nname = "us"\ncertificate = "us.pem"\n'
    with Path(made.toml).open("a") as file:
        file.write("\n".join(["", *map(_policy, PROFILES), ours]))
    with made as system, serving() as servers:
        yield Visits(system, servers)


def _is_refused(seen: Seen, record: dict[str, Any], reached: bool, kind: ErrorClass) -> None:
    """The client gets the page of that class, whose id leads to the record; the server was asked for nothing."""
    assert seen.status == SAYINGS[kind].status, seen
    assert SAYINGS[kind].text.partition("{host}")[2][:40] in seen.body
    assert seen.id == record["event"]["id"]
    assert record["event"]["action"] == "failed"
    assert record["hsmitm"]["error"]["class"] == kind
    assert record["hsmitm"]["error"]["side"] == "server"
    assert not reached


def _is_served(seen: Seen, record: dict[str, Any], reached: bool, kind: str) -> None:
    assert seen.status == (101 if kind == "websocket" else 200), seen
    assert record["event"]["action"] == "decrypted"
    assert "error" not in record["hsmitm"]
    assert reached


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", PROFILES)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_becomes_of_a_faulty_certificate(visits: Visits, fault: str, word: str, kind: str) -> None:
    """Blocked: a page under the untrust CA. Untrusted: that CA, and it works. Allowed: as if nothing was wrong. The
    record has OpenSSL's cause, and its depth, in each case."""
    seen, record, reached = visits.of(fault, word, kind)
    authority = "trust" if word == "allow" else "untrust"
    assert seen.issuer.startswith(f"CN=hsmitm forward {authority} CA"), seen
    assert record["hsmitm"]["authority"].startswith(authority)
    assert record["hsmitm"]["profile"] == word
    if word == "block":
        _is_refused(seen, record, reached, CLASSES[fault][1])
    else:
        _is_served(seen, record, reached, kind)
    assert record["hsmitm"]["verify"]["result"] != "ok"
    assert record["hsmitm"]["verify"]["depth"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", PROFILES)
@pytest.mark.parametrize("fault", [OLD, WEAK])
def test_what_becomes_of_an_old_server(visits: Visits, fault: str, word: str, kind: str) -> None:
    """Versions and suites are what the profile says, whatever it makes of certificates."""
    seen, record, reached = visits.of(fault, word, kind)
    authority = "trust" if word == "allow" else "untrust"
    assert seen.issuer.startswith(f"CN=hsmitm forward {authority} CA"), seen
    if word == "allow":
        _is_served(seen, record, reached, kind)
    else:
        _is_refused(seen, record, reached, _OTHER_CLASSES[fault])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", PROFILES)
def test_what_becomes_of_a_server_that_wants_a_certificate(visits: Visits, word: str, kind: str) -> None:
    """It has proved who it is, so a page about it comes under the trust CA; with our certificate it serves."""
    seen, record, reached = visits.of(WANTING, word, kind)
    assert seen.issuer.startswith("CN=hsmitm forward trust CA"), seen
    if word == "allow":
        _is_served(seen, record, reached, kind)
        return
    kind_of = _OTHER_CLASSES[WANTING]
    assert seen.status == SAYINGS[kind_of].status
    assert "wants a client certificate" in seen.body
    assert record["hsmitm"]["error"]["class"] == kind_of
    assert not reached
