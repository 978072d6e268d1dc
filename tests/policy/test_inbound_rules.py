"""Rules at a listener of our own sites: by default its clients are decrypted, and rules say else."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread
from tests.integration.inbound_system import InboundSystem
from tests.waiting import wait_until

RULES = """
[[policy.rules]]
name = "stranger"
action = "block"
from = {{ networks = ["127.0.0.9"] }}
[[policy.rules]]
name = "own-keys"
action = "bypass"
listener = "{listener}"
to = {{ domains = ["pass.example.com"] }}
[[policy.rules]]
name = "elsewhere"
action = "block"
listener = "{other}"
[[policy.rules]]
name = "guarded"
action = "block"
to = {{ networks = ["127.0.0.1"], domains = ["guarded.example.com"] }}
"""


@pytest.fixture(scope="module")
def origin_ca() -> OriginCA:
    """The CA of the servers."""
    return OriginCA()


@pytest.fixture(scope="module")
def sites(
    softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InboundSystem]:
    """Two listeners, sites with servers, and rules; the policy's own default is block, which is for forward traffic."""
    made = InboundSystem.make_inbound(tmp_path_factory.mktemp("inbound"), upstream_ca=origin_ca.pem, workers="1")
    with OriginThread(origin_ca) as origin:
        made.generate(shop="p256")
        (made.directory / "origin-ca.pem").write_text(origin_ca.pem)
        (made.directory / "log").mkdir()
        made.edit(file='"log/decryption.jsonl"', policy__default='"block"')
        ports = []
        for _ in range(2):
            ports.append(made.listener())
            for name in ("shop", "pass", "guarded"):
                made.site(
                    f"{name}.example.com", keys=["shop"], upstream=f"https://127.0.0.1:{origin.port}",
                    upstream_ca="origin-ca.pem",
                )  # fmt: skip
        rules = RULES.format(listener=f"127.0.0.1:{ports[0]}", other=f"127.0.0.1:{ports[1]}")
        made.toml.write_text(made.toml.read_text() + rules)
        with made as system:
            yield system


def issuer(system: InboundSystem, name: str, *, port: int = 0, source: str = "127.0.0.1") -> str:
    """Who has signed the certificate that a client is shown; or the alert that it hears."""
    context = ssl.create_default_context(cafile=str(system.root))
    context.load_verify_locations(str(system.directory / "origin-ca.pem"))
    with socket.create_connection(("127.0.0.1", port or system.port), 10, source_address=(source, 0)) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=name) as tls:
                found: Any = tls.getpeercert()
                tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
                assert tls.recv(15).startswith(b"HTTP/1.1 200")
        except ssl.SSLError as error:
            return str(error.reason)
    return dict(one[0] for one in found["issuer"])["commonName"]


def test_rules_at_our_own_sites(sites: InboundSystem) -> None:
    """Decrypted by default, with our certificate; passed with the server's own; blocked by client, by listener and by
    the server's network: each with its rule in the log."""
    assert issuer(sites, "shop.example.com") == "site CA"
    assert issuer(sites, "pass.example.com") == "throw-away origin CA"
    assert issuer(sites, "shop.example.com", source="127.0.0.9") == "TLSV1_ALERT_ACCESS_DENIED"
    assert issuer(sites, "shop.example.com", port=sites.ports[1]) == "TLSV1_ALERT_ACCESS_DENIED"
    assert issuer(sites, "guarded.example.com") == "TLSV1_ALERT_ACCESS_DENIED"
    records = wait_until(lambda: found if len(found := _records(sites)) == 5 else None, "each has its record")
    assert sorted((one["hsmitm"]["rule"], one["event"]["action"]) for one in records) == [
        ("default", "decrypted"), ("elsewhere", "blocked"), ("guarded", "blocked"), ("own-keys", "bypassed"),
        ("stranger", "blocked"),
    ]  # fmt: skip


def _records(system: InboundSystem) -> list[Any]:
    path: Path = system.directory / "log/decryption.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
