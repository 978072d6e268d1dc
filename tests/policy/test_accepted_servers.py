"""One site's broken certificate, accepted by its key until a day, with what `hsmitm upstream pin` has printed; and
servers that are passed by from their second connection on, since they ask for a client's certificate.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.addons.upstream.faulty import CA, NOBODY, ROOT, Shown, shown
from tests.integration.harness import HSMITM, System
from tests.integration.test_forward import tunnel
from tests.policy.faulty_servers import WANTING, Servers, serving
from tests.waiting import wait_until

_PINNED = CA("pinned.test")
_KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("pinned.test", "over.test", "ending.test")}
_TODAY = dt.datetime.now(dt.UTC).date()


class _World:
    """The servers, and an hsmitm whose file has what the command has printed."""

    def __init__(self, system: System, servers: Servers) -> None:
        self.system, self.servers, self.port = system, servers, servers.port("")
        self.exchanged: set[str] = set()

    def pin(self, host: str, *options: str) -> str:
        """What the command prints."""
        done = subprocess.run(
            [*HSMITM, "upstream", "pin", f"{host}:{self.port}", "--config", str(self.system.toml), *options],
            capture_output=True, text=True, timeout=30, check=False, env=self.system.surroundings,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shows(self, host: str) -> Shown:
        """What the server of that name shows; another key, where it was exchanged."""
        if host.endswith(".wants.test") or (host.startswith("once") and host not in self.exchanged):
            return shown("", host)
        key = None if host in self.exchanged else _KEYS.get(host)
        return CA(host, key=key or ec.generate_private_key(ec.SECP256R1())).itself(host)

    def record(self, host: str) -> dict[str, Any]:
        """The newest record of a connection to that host; empty before there is one."""
        path = self.system.directory / "decryption.jsonl"
        found = [json.loads(one) for one in path.read_text().splitlines()]
        return next((one for one in reversed(found) if one["destination"]["address"] == host), {})


@pytest.fixture(scope="module")
def world(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_World]:
    """One system, whose tables for three servers were printed by `hsmitm upstream pin`."""
    made = System.make(
        tmp_path_factory.mktemp("accepted") / "s",
        upstream_ca=ROOT.certificate.public_bytes(Encoding.PEM).decode(),
        workers="1",
        decryption_log__file='"decryption.jsonl"',
    )
    worlds: list[_World] = []
    with serving(lambda host: worlds[0].shows(host) if worlds else shown("", host)) as servers:
        worlds.append(world := _World(made, servers))
        tables = [
            world.pin("pinned.test", "--reason", "CHG-1"),
            re.sub(
                r"expires = .*",
                f"expires = {_TODAY - dt.timedelta(days=1)}",
                world.pin("over.test", "--reason", "CHG-2"),
            ),
            world.pin("ending.test", "--reason", "CHG-3", "--days", "10"),
        ]
        rule = (
            '[[policy.rules]]\nname = "wanting"\nto = { domains = [".wants.test"] }\naction = "decrypt"\n'
            'profile = "pass-by"\n[profiles.pass-by]\nclient_certificate = "bypass"\n'
        )
        with made.toml.open("a") as file:
            file.write("\n".join(["", *tables, rule]))
        with made:
            yield world


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_pinned_server_is_inspected_under_the_trusted_ca(world: _World, version: str) -> None:
    """The client sees nothing of its self-signed certificate; the record does."""
    reply = world.system.curl(f"https://pinned.test:{world.port}/", version)
    assert reply.ok, reply.errors
    wait_until(lambda: world.record("pinned.test"), "there is a record")
    record = world.record("pinned.test")
    assert record["event"]["action"] == "decrypted"
    assert record["hsmitm"]["authority"].startswith("trust")
    assert "self-signed" in record["hsmitm"]["verify"]["result"]


def test_with_another_key_it_is_refused(world: _World) -> None:
    """Whoever has taken its place is not what was accepted, and is not shown under the untrusted CA either."""
    world.exchanged.add("pinned.test")
    try:
        reply = world.system.curl(f"https://pinned.test:{world.port}/exchanged", "--insecure")
    finally:
        world.exchanged.clear()
    assert reply.status == 502, reply.errors
    wait_until(lambda: "error" in world.record("pinned.test").get("hsmitm", {}), "the record has it")
    assert world.record("pinned.test")["hsmitm"]["error"]["class"] == "server-self-signed"
    world.system.until_logged("the key that it shows is not the one that [[upstream.accept]] accepts for it")


def test_after_its_last_day_it_is_refused(world: _World) -> None:
    """An acceptance that nobody has renewed holds no longer; the log and `check` say so."""
    assert world.system.curl(f"https://over.test:{world.port}/", "--insecure").status == 502
    world.system.until_logged("[[upstream.accept]] accepted that until", "'over.test': expires: ")


def test_before_its_last_day_somebody_is_told(world: _World) -> None:
    """Within 30 days of its end a server is still inspected; the log warns, and so does `hsmitm check`."""
    assert world.system.curl(f"https://ending.test:{world.port}/").ok
    words = f"'ending.test': expires: it ends with {_TODAY + dt.timedelta(days=10)}"
    world.system.until_logged(words)
    done = subprocess.run(
        [*HSMITM, "check", "--config", str(world.system.toml)],
        capture_output=True, text=True, timeout=60, check=False, env=world.system.surroundings,
    )  # fmt: skip
    assert re.search(rf"WARN .*{re.escape(words)}", done.stdout), done.stdout


def _met(world: _World, host: str, port: int) -> x509.Certificate:
    """The certificate that a client of the proxy meets there."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with tunnel(world.system, host, port) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        der = tls.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der)


def test_a_server_that_asks_for_a_certificate_is_passed_by_from_then_on(world: _World) -> None:
    """The first client gets a page, the next one meets the server itself; under its name elsewhere nobody does."""
    host, port = "a.wants.test", world.servers.port(WANTING)
    reply = world.system.curl(f"https://{host}:{port}/")
    assert (reply.exit, reply.status) == (0, 502), reply
    assert f"{host} wants a client certificate" in reply.body
    world.system.until_logged(f"{host} asks for a client certificate, and is not inspected from its next connection on")
    assert _met(world, host, port).issuer != NOBODY.certificate.subject
    assert "hsmitm" not in _met(world, host, port).issuer.rfc4514_string()
    assert "hsmitm" in _met(world, "b.wants.test", port).issuer.rfc4514_string()
    assert "hsmitm" in _met(world, host, world.port).issuer.rfc4514_string()


@pytest.mark.parametrize("becomes", ["another", "the same"])
def test_a_later_connection_to_the_server_is_judged_as_the_first(world: _World, becomes: str) -> None:
    """The client was shown a trusted leaf, and asks again on its connection: whoever answers then must be trusted, too,
    and is asked for nothing if not."""
    host = f"once-{becomes[:3]}.test"
    context = ssl.create_default_context(cafile=str(world.system.ca))
    with tunnel(world.system, host, world.port) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        client = http.client.HTTPConnection(host)
        client.sock = tls
        statuses = []
        for path in ("/first", "/second"):
            client.request("GET", path)
            answer = client.getresponse()
            answer.read()
            statuses.append(answer.status)
            if becomes == "another":
                world.exchanged.add(host)
            wait_until(lambda: world.servers.fronts[""].open[host] == 0, "the server has closed its connection")
    assert statuses == [200, 502 if becomes == "another" else 200]
