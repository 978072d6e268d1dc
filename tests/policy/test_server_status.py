"""Servers whose certificates are revoked, whose status nobody tells, and who forgot an intermediate: what a client of a
running hsmitm sees, and whom it asks.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus

from bench.rig.port import free_port
from tests.integration.harness import Reply, System
from tests.policy.shops import Street, street
from tests.waiting import wait_until

GOOD, REVOKED, UNKNOWN = OCSPCertStatus.GOOD, OCSPCertStatus.REVOKED, OCSPCertStatus.UNKNOWN


POLICY = """
[[policy.rules]]
name = "nobody-asks"
to = { domains = [".careless.test"] }
action = "decrypt"
profile = "careless"

[profiles.careless]
revoked = "allow"
incomplete_chain = "block"

[[policy.rules]]
name = "all-must-answer"
to = { domains = [".careful.test"] }
action = "decrypt"
profile = "careful"

[profiles.careful]
revoked = "untrusted"
status_unknown = "block"
status_timeout = "block"
"""


@pytest.fixture(scope="module")
def shops() -> Iterator[Street]:
    """Servers and their CA."""
    with street() as made:
        yield made


@pytest.fixture(scope="module")
def running(softhsm_module: str, shops: Street, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An hsmitm with one worker that trusts that CA."""
    root = shops.root.certificate.public_bytes(Encoding.PEM).decode()
    made = System.make(
        tmp_path_factory.mktemp("status") / "s", upstream_ca=root, workers="1", file='"log.jsonl"',
        status__listen=f'"127.0.0.1:{free_port()}"',
    )  # fmt: skip
    with made.toml.open("a") as file:
        file.write(POLICY)
    with made as system:
        yield system


def visit(running: System, shops: Street, name: str) -> Reply:
    """One request of a client that trusts what clients of hsmitm trust."""
    return running.curl(f"https://{name}:{shops.port}/")


def page(running: System, shops: Street, name: str) -> Reply:
    """One request of a client that trusts everybody."""
    return running.curl(f"https://{name}:{shops.port}/", "--insecure")


def error(running: System, name: str) -> tuple[str, str]:
    """Class and text of the newest failure of a connection to `name`, when the decryption log has it."""
    log = running.directory / "log.jsonl"

    def found() -> list[dict[str, Any]]:
        lines = log.read_text().splitlines() if log.exists() else []
        records = [json.loads(one) for one in lines]
        return [one["hsmitm"]["error"] for one in records if one["tls"]["client"]["server_name"] == name]

    newest = wait_until(found, f"the decryption log has {name}", 10)[-1]
    return newest["class"], newest["text"]


def metrics(running: System) -> list[str]:
    """What Prometheus would read."""
    with urllib.request.urlopen(f"http://{running.config.status_listen}/metrics", timeout=5) as reply:
        text: str = reply.read().decode()
    return text.splitlines()


def test_a_good_server_is_asked_about_once(running: System, shops: Street) -> None:
    """Fifty clients at once of a server that nobody has met, and one later, cost one question to its responder."""
    certificate = shops.certify("good.test", shops.at("/good", b""))
    shops.respond("/good", certificate, GOOD)
    shops.open("good.test", certificate)
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: visit(running, shops, "good.test"), range(50)))
    assert all(one.ok for one in replies), [one.errors for one in replies if not one.ok][:3]
    assert visit(running, shops, "good.test").ok
    assert shops.asked("/good") == shops.asked("/root.crl") == 1
    counted = 'hsmitm_certificate_questions_total{of="status",result="answered"} 2.0'
    wait_until(lambda: counted in metrics(running), "metrics say so", 5)


def test_a_revoked_server_is_blocked(running: System, shops: Street) -> None:
    """Its responder says that it is revoked: the client gets a page that says so, and the log has it."""
    certificate = shops.certify("revoked.test", shops.at("/revoked", b""))
    shops.respond("/revoked", certificate, REVOKED)
    shops.open("revoked.test", certificate)
    reply = page(running, shops, "revoked.test")
    assert reply.status == 502, reply.errors
    assert "revoked" in reply.body
    assert reply.body != "shop"
    kind, text = error(running, "revoked.test")
    assert kind == "server-revoked"
    assert text.startswith("revoked.test did not prove who it is: its certificate is revoked since ")


def test_a_server_that_staples_its_revocation_is_blocked(running: System, shops: Street) -> None:
    """What the server itself brings along is enough, and nobody is asked."""
    certificate = shops.certify("honest.test", shops.at("/honest", b""))
    shops.open("honest.test", certificate, shops.said(certificate, REVOKED))
    assert page(running, shops, "honest.test").status == 502
    assert shops.asked("/honest") == 0


def test_a_staple_saves_the_question(running: System, shops: Street) -> None:
    """A server that staples a good response is used, and its responder is never asked."""
    certificate = shops.certify("stapled.test", shops.at("/stapled", b""))
    shops.open("stapled.test", certificate, shops.said(certificate, GOOD))
    assert visit(running, shops, "stapled.test").ok
    assert shops.asked("/stapled") == 0


def test_a_server_in_its_cas_list_is_blocked(running: System, shops: Street) -> None:
    """A CA without a responder has a list."""
    url = shops.at("/some.crl", b"")
    good, bad = (shops.certify(name, lists=[url]) for name in ("unlisted.test", "listed.test"))
    shops.at("/some.crl", shops.between.list_revoked(bad.serial_number))
    shops.open("unlisted.test", good)
    shops.open("listed.test", bad)
    assert visit(running, shops, "unlisted.test").ok
    assert page(running, shops, "listed.test").status == 502
    assert shops.asked("/some.crl") == 1


def test_a_slow_responder_costs_the_first_client_a_second(running: System, shops: Street) -> None:
    """Who takes its time holds up the first connection a little, no later one, and its answer counts when it comes."""
    go = threading.Event()
    certificate = shops.certify("late.test", shops.at("/late", b""))
    said = shops.said(certificate, REVOKED)

    def late(http: BaseHTTPRequestHandler) -> None:
        assert go.wait(10)
        http.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)

    shops.at("/late", late)
    shops.open("late.test", certificate)
    assert visit(running, shops, "late.test").ok
    go.set()
    wait_until(lambda: page(running, shops, "late.test").status == 502, "its answer counts", 5)
    assert shops.asked("/late") == 1


def test_a_forgotten_intermediate_is_fetched(running: System, shops: Street) -> None:
    """A server that sends its own certificate alone is used under the trusted CA; the intermediate is fetched once."""
    certificate = shops.certify("forgetful.test", issuers=[shops.at("/between.crt", _der(shops))])
    shops.open("forgetful.test", certificate, shops.said(certificate, GOOD), whole=False)
    before = shops.asked("/between.crt")
    for _ in range(3):
        reply = visit(running, shops, "forgetful.test")
        assert reply.ok, reply.errors
    assert shops.asked("/between.crt") == before + 1


def test_a_revoked_server_that_forgot_its_intermediate_is_blocked(running: System, shops: Street) -> None:
    """A chain that was completed is asked about as any other."""
    certificate = shops.certify("both.test", shops.at("/both", b""), issuers=[shops.at("/between.crt", _der(shops))])
    shops.respond("/both", certificate, REVOKED)
    shops.open("both.test", certificate, whole=False)
    assert page(running, shops, "both.test").status == 502


@pytest.mark.parametrize("place", ["gone", "another certificate", "endless", "redirect"])
def test_an_intermediate_that_is_not_to_be_had(running: System, shops: Street, place: str) -> None:
    """Where the issuer's certificate is not where it should be, the server is as untrusted as it is without."""

    def endless(http: BaseHTTPRequestHandler) -> None:
        http.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            http.wfile.write(bytes(65536))

    def redirect(http: BaseHTTPRequestHandler) -> None:
        http.send_response(302)
        http.send_header("Location", "/between.crt")
        http.end_headers()

    name = f"{place.split(maxsplit=1)[0]}.test"
    answers = {
        "gone": lambda http: http.send_error(404),
        "another certificate": shops.root.certificate.public_bytes(Encoding.DER),
        "endless": endless,
        "redirect": redirect,
    }
    shops.open(name, shops.certify(name, issuers=[shops.at(f"/{name}", answers[place])]), whole=False)
    refused = visit(running, shops, name)
    assert refused.exit == 60, refused.errors  # the leaf is of the CA that clients do not trust
    assert page(running, shops, name).ok
    assert shops.asked(f"/{name}") == 1
    running.until_logged(f"{name} did not prove who it is")


# what a profile makes of it


def test_a_server_of_unknown_status_is_blocked_where_that_is_wanted(running: System, shops: Street) -> None:
    """A profile with `status_unknown = "block"` has a page for it, the built-in one uses the server."""
    for name in ("unknown.careful.test", "unknown.test"):
        certificate = shops.certify(name, shops.at(f"/{name}", b""))
        shops.respond(f"/{name}", certificate, UNKNOWN)
        shops.open(name, certificate)
    assert visit(running, shops, "unknown.test").ok
    assert page(running, shops, "unknown.careful.test").status == 502
    kind, text = error(running, "unknown.careful.test")
    assert kind == "status-unknown"
    assert "the OCSP responder does not know the certificate" in text


def test_a_server_whose_ca_does_not_answer_is_blocked_where_that_is_wanted(running: System, shops: Street) -> None:
    """A profile with `status_timeout = "block"` has a page for it, the built-in one uses the server."""
    for name in ("down.careful.test", "down.test"):
        shops.open(name, shops.certify(name, "http://127.0.0.1:1/"))
    assert visit(running, shops, "down.test").ok
    assert page(running, shops, "down.careful.test").status == 502
    kind, text = error(running, "down.careful.test")
    assert kind == "status-timeout"
    assert "127.0.0.1:1: Connection refused" in text


def test_a_revoked_server_is_untrusted_where_that_is_wanted(running: System, shops: Street) -> None:
    """A profile with `revoked = "untrusted"` lets those visit it who accept the CA that clients do not trust."""
    certificate = shops.certify("revoked.careful.test", lists=[shops.at("/careful.crl", b"")])
    shops.at("/careful.crl", shops.between.list_revoked(certificate.serial_number))
    shops.open("revoked.careful.test", certificate)
    assert visit(running, shops, "revoked.careful.test").exit == 60
    assert page(running, shops, "revoked.careful.test").body == "shop"


def test_nobody_is_asked_where_nothing_depends_on_it(running: System, shops: Street) -> None:
    """A profile that allows all of it asks nobody: nobody hears which servers are visited."""
    name = "revoked.careless.test"
    certificate = shops.certify(name, shops.at(f"/{name}", b""), lists=[shops.at(f"/{name}.crl", b"")])
    shops.open(name, certificate, shops.said(certificate, REVOKED))
    assert visit(running, shops, name).ok
    assert shops.asked(f"/{name}") == shops.asked(f"/{name}.crl") == 0


def test_an_incomplete_chain_is_blocked_where_that_is_wanted(running: System, shops: Street) -> None:
    """A profile with `incomplete_chain = "block"` fetches nothing and has a page."""
    name = "incomplete.careless.test"
    certificate = shops.certify(name, issuers=[shops.at(f"/{name}", _der(shops))])
    shops.open(name, certificate, whole=False)
    assert page(running, shops, name).status == 502
    assert error(running, name)[0] == "server-incomplete-chain"
    assert shops.asked(f"/{name}") == 0


def test_a_certificate_that_names_our_own_listener(running: System, shops: Street) -> None:
    """No certificate has the proxy call itself, though loopback is allowed here."""
    name = "self.careful.test"
    shops.open(name, shops.certify(name, f"http://{running.proxy}/"))
    assert page(running, shops, name).status == 502
    kind, text = error(running, name)
    assert kind == "status-unknown"
    assert "is denied by 'own-listeners' of deny_destinations" in text


def _der(shops: Street) -> bytes:
    return shops.between.certificate.public_bytes(Encoding.DER)
