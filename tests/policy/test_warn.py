"""A policy that only warns, on a running hsmitm: no byte is another than without it, and the log says what it would
have done."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from proxy.demo.origin import OriginCA
from tests.integration.decryption_records import Records
from tests.integration.harness import OriginThread, System
from tests.waiting import wait_until

_RULES = """
[[policy.rules]]
name = "bank"
action = "bypass"
to = { domains = ["bank.test"] }
[[policy.rules]]
name = "games"
action = "block"
to = { domains = ["games.test"] }
"""
_ID = re.compile(rb"(?i)(?:Id:|hsmitm-id:) +[0-9a-f-]+")
"""Of a page: plain HTTP to a server of TLS comes to one, in either way. Each has an id of its own."""
_HOSTS = ("bank.test", "games.test", "shop.test")


@dataclass
class Heard:
    """What a client has heard: the answer to its CONNECT, who has signed the certificate, the answer to its request."""

    connected: bytes
    issuer: str
    answer: bytes


def _made(directory: Path, ca: OriginCA, policy: str) -> System:
    system = System.make(directory, upstream_ca=ca.pem, workers="1")
    (directory / "log").mkdir()
    system.edit(file='"log/decryption.jsonl"')
    if policy:
        system.edit(policy__mode='"warn"')
        system.toml.write_text(f"{system.toml.read_text()}\n{policy}")
    return system


def _all(stream: socket.socket) -> bytes:
    received = b""
    while data := stream.recv(65536):
        received += data
    return received


def _encrypted(system: System, host: str, port: int) -> Heard:
    address, _, proxy_port = system.proxy.rpartition(":")
    context = ssl.create_default_context(cafile=str(system.ca))
    with socket.create_connection((address, int(proxy_port)), 10) as plain:
        plain.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        connected = plain.recv(4096)
        with context.wrap_socket(plain, server_hostname=host) as tls:
            read = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
            (name,) = read.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
            tls.sendall(f"GET /same HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return Heard(connected, str(name.value)[: len("hsmitm forward trust CA")], _all(tls))


def _plain(system: System, host: str, port: int) -> Heard:
    address, _, proxy_port = system.proxy.rpartition(":")
    with socket.create_connection((address, int(proxy_port)), 10) as stream:
        request = f"GET http://{host}:{port}/same HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        stream.sendall(request.encode())
        return Heard(b"", "", _ID.sub(b"", _all(stream)))


def _visits(system: System, port: int) -> dict[str, Heard]:
    heard = {host: _encrypted(system, host, port) for host in _HOSTS}
    return heard | {f"plain {host}": _plain(system, host, port) for host in _HOSTS}


@pytest.mark.usefixtures("softhsm_module")
def test_a_policy_that_warns_changes_no_byte(tmp_path: Path) -> None:
    """Clients hear the same as without a policy; the log has what it would have done, and that it did not."""
    ca = OriginCA()
    with OriginThread(ca, alpn=("http/1.1",)) as origin, _made(tmp_path / "none", ca, "") as without:
        expected = _visits(without, origin.port)
        with _made(tmp_path / "warns", ca, _RULES) as warns:
            _warned(warns, expected, origin.port)


def _warned(warns: System, expected: dict[str, Heard], port: int) -> None:
    assert _visits(warns, port) == expected
    records = Records(warns.directory / "log" / "decryption.jsonl")
    wait_until(lambda: len(records.lines()) == 2 * len(_HOSTS), "each connection has its record")
    assert {one.issuer for host, one in expected.items() if host in _HOSTS} == {"hsmitm forward trust CA"}
    told = {one["destination"]["address"]: one for one in records.all() if not one["hsmitm"].get("plain")}
    assert {host: (told[host]["event"]["action"], told[host]["hsmitm"]["action"]) for host in _HOSTS} == {
        "bank.test": ("decrypted", "bypass"),
        "games.test": ("decrypted", "block"),
        "shop.test": ("decrypted", "decrypt"),
    }
    assert not any(told[host]["hsmitm"]["enforced"] for host in ("bank.test", "games.test"))
    warns.until_logged("games.test would be blocked, and [policy] mode is warn")
