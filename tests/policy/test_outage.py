"""No member is in service: what a rule's hsm_unavailable says goes before hsm.unavailable."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509

from proxy.demo.origin import OriginCA
from tests.integration.ha_system import HaSystem
from tests.integration.harness import OriginThread
from tests.waiting import wait_until

RULES = """
[[policy.rules]]
name = "passes"
action = "decrypt"
hsm_unavailable = "bypass"
to = { domains = [".passes.test", "10.9.8.7.test"] }
[[policy.rules]]
name = "cached"
action = "decrypt"
hsm_unavailable = "cached-only"
to = { domains = [".cached.test"] }
[[policy.rules]]
name = "fails"
action = "decrypt"
hsm_unavailable = "fail"
to = { domains = [".fails.test"] }
"""
INSPECTED, PASSED, PAGE, ALERT = "hsmitm forward trust CA", "throw-away origin CA", "502", "alert"


@dataclass
class World:
    """A running system with two members and one worker, and its origin."""

    system: HaSystem
    port: int
    proxy: tuple[str, int]

    def visit(self, host: str, sni: str = "") -> str:
        """Who has signed the certificate that a client is shown, or what it gets instead of one."""
        context = ssl._create_unverified_context()
        with socket.create_connection(self.proxy, 10) as connection:
            where = f"{host}:{self.port}".encode()
            connection.sendall(b"CONNECT " + where + b" HTTP/1.1\r\nHost: " + where + b"\r\n\r\n")
            status = connection.recv(4096).split()[1].decode()
            if status != "200":
                return status
            try:
                with context.wrap_socket(connection, server_hostname=sni or host) as tls:
                    return _issuer(tls.getpeercert(binary_form=True) or b"")
            except ssl.SSLError:
                return ALERT

    def last(self, host: str) -> Any:
        """The newest record of the decryption log about a host."""
        path = self.system.directory / "log/decryption.jsonl"

        def found() -> list[Any]:
            lines = path.read_text().splitlines() if path.exists() else []
            return [one for one in map(json.loads, lines) if one["hsmitm"].get("host") == host]

        return wait_until(found, f"a record of {host}")[-1]


def _issuer(der: bytes) -> str:
    (name,) = x509.load_der_x509_certificate(der).issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return INSPECTED if str(name.value).startswith(INSPECTED) else str(name.value)


@pytest.fixture(scope="module")
def world(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Rules that say each thing, in front of "queue"; leaves of the known hosts are in the cache."""
    ca = OriginCA()
    made = HaSystem.make_ha(
        tmp_path_factory.mktemp("outage") / "s", ca.pem, unavailable='"queue:4000"', request_budget_ms="500",
        file='"log/decryption.jsonl"',
    )  # fmt: skip
    (made.directory / "log").mkdir()
    made.toml.write_text(made.toml.read_text() + RULES)
    with OriginThread(ca) as origin, made:
        name, _, port = made.proxy.rpartition(":")
        world = World(made, origin.port, (name, int(port)))
        for site in ("passes", "cached", "fails"):
            assert world.visit(f"known.{site}.test") == INSPECTED
        yield world


def test_each_rule_has_its_say(world: World) -> None:
    """`bypass` passes the site, known or new, whose server was asked for its certificate; `cached-only` serves what is
    known and refuses the rest at once; `fail` refuses all. The log says which; a forged SNI is passed nowhere."""
    with world.system.outage():
        wait_until(lambda: world.visit("known.fails.test") == PAGE, "the worker knows")
        assert [world.visit(f"{host}.passes.test") for host in ("known", "new")] == [PASSED, PASSED]
        assert world.visit("known.cached.test") == INSPECTED
        begun = time.monotonic()
        assert [world.visit(f"new.{site}.test") for site in ("cached", "fails")] == [PAGE, PAGE]
        assert time.monotonic() - begun < 3, "no rule of them waits for 4 s, as hsm.unavailable has it"
        assert world.visit("evil.test", sni="known.passes.test") == PAGE, "a forged name is not passed"
        assert world.visit("known.passes.test", sni="evil.test") == ALERT, "nor is what is asked for under one"
    passed = world.last("new.passes.test")
    assert (passed["event"]["action"], passed["hsmitm"]["rule"]) == ("bypassed", "passes")
    assert "hsm_unavailable is bypass" in passed["hsmitm"]["reason"]
    assert world.last("known.cached.test")["event"]["action"] == "decrypted"
    for host in ("new.cached.test", "new.fails.test", "known.fails.test"):
        assert world.last(host)["hsmitm"]["error"]["class"] == "hsm-unavailable"
    world.system.until_logged("rule's hsm_unavailable is 'fail'", "rule's hsm_unavailable is 'cached-only'")
    world.system.until_up("m1", "m2")


@pytest.mark.alone
def test_inspection_is_back_within_a_second(world: World) -> None:
    """A moment after a member serves again everything is inspected: no longer than a worker's report away."""
    with world.system.outage():
        wait_until(lambda: world.visit("known.fails.test") == PAGE, "the worker knows")
        assert world.visit("again.passes.test") == PASSED
        world.system.hsms["m1"].clear()
        wait_until(lambda: world.system.states()["m1"] == "up", "a member is up")
        begun = time.monotonic()
        wait_until(lambda: world.visit("again.passes.test") == INSPECTED, "it is inspected")
        wait_until(lambda: world.visit("known.fails.test") == INSPECTED, "so is what was refused")
        assert time.monotonic() - begun < 1.5  # reports are a second apart; the rest is a visit
    world.system.until_up("m1", "m2")
