"""What a site's server is told of the client, by real clients and servers: header fields, and the PROXY protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.integration.nginx_server import serving
from tests.waiting import wait_until

_CLAIMS = [
    option
    for claim in ("X-Forwarded-For: 6.6.6.6", "forwarded: for=6.6.6.6", "X-Real_IP: 6.6.6.6")
    for option in ("--header", claim)
]


@contextmanager
def _reading_proxy_headers(directory: Path, ca: OriginCA) -> Iterator[tuple[int, int]]:
    """nginx that reads a PROXY header in front of every connection: its ports without and with TLS."""
    plain, tls = free_port(), free_port()
    server = f"""listen 127.0.0.1:{plain} proxy_protocol;
        listen 127.0.0.1:{tls} ssl proxy_protocol;
        keepalive_requests 2;
        return 200
            "$proxy_protocol_addr:$proxy_protocol_port to $proxy_protocol_server_port over $scheme for $host\\n";"""
    with serving(directory, ca, "proxied.test", server):
        yield plain, tls


@pytest.fixture(scope="module")
def sites(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InboundSystem]:
    """A site for each way of telling."""
    ca, directory = OriginCA(), tmp_path_factory.mktemp("told")
    with plain_origin() as plain, _reading_proxy_headers(directory / "nginx", ca) as (proxied, proxied_tls):
        made = InboundSystem.make_inbound(directory / "s", upstream_ca=ca.pem, workers="1")
        made.generate(shop="p256")
        made.listener()
        behind = f"http://127.0.0.1:{plain}"
        made.site("plain.test", keys=["shop"], upstream=behind)
        made.site("standard.test", keys=["shop"], upstream=behind, forwarded="rfc7239")
        made.site("off.test", keys=["shop"], upstream=behind, forwarded="off")
        made.site("trusting.test", keys=["shop"], upstream=behind, trusted_proxies=["127.0.0.1/32"])
        for name, scheme, port in (("proxied.test", "https", proxied_tls), ("proxied-plain.test", "http", proxied)):
            made.site(name, keys=["shop"], upstream=f"{scheme}://127.0.0.1:{port}", proxy_protocol=True,
                      **({"upstream_name": "proxied.test"} if scheme == "https" else {}))  # fmt: skip
        with made:
            yield made


def test_a_server_sees_the_client(sites: InboundSystem) -> None:
    """By default in X-Forwarded-For, -Proto and -Host; what the client claims there is gone."""
    reply = sites.curl("plain.test", "/", *_CLAIMS)
    assert "X-Forwarded-For: 127.0.0.1\n" in reply.stdout, reply.stderr
    assert "X-Forwarded-Proto: https\n" in reply.stdout
    assert f"X-Forwarded-Host: plain.test:{sites.port}\n" in reply.stdout
    assert "6.6.6.6" not in reply.stdout


def test_the_standard_field_instead(sites: InboundSystem) -> None:
    """A site may have RFC 7239's field; then no other is sent."""
    reply = sites.curl("standard.test", "/", *_CLAIMS)
    assert f'Forwarded: for=127.0.0.1;host="standard.test:{sites.port}";proto=https\n' in reply.stdout, reply.stderr
    assert "X-Forwarded" not in reply.stdout
    assert "6.6.6.6" not in reply.stdout


def test_neither(sites: InboundSystem) -> None:
    """With "off" the server reads what the client wrote."""
    reply = sites.curl("off.test", "/", *_CLAIMS)
    assert "X-Forwarded-For: 6.6.6.6\n" in reply.stdout, reply.stderr
    assert "127.0.0.1\n" not in reply.stdout


def test_a_trusted_proxy(sites: InboundSystem) -> None:
    """A proxy in front of us that the site trusts: the server sees its client, and then the proxy."""
    reply = sites.curl("trusting.test", "/", *_CLAIMS)
    assert "X-Forwarded-For: 6.6.6.6, 127.0.0.1\n" in reply.stdout, reply.stderr


@pytest.mark.parametrize(("name", "scheme"), [("proxied.test", "https"), ("proxied-plain.test", "http")])
def test_the_proxy_protocol(sites: InboundSystem, name: str, scheme: str) -> None:
    """nginx reads the client's own address and port from the header, with and without TLS, and again on each further
    connection of the same client."""
    url = f"https://{name}:{sites.port}/"
    reply = sites.curl(name, "/", "--write-out", "%{local_port}\n", url, url, url)
    said = re.findall(rf"127\.0\.0\.1:(\d+) to {sites.port} over {scheme} for {name}\n(\d+)", reply.stdout)
    assert len(said) == 4, reply
    assert len({port for both in said for port in both}) == 1, said


def test_served_connections_are_in_the_log(sites: InboundSystem) -> None:
    """One line says who was served, as which site, by which server, and for how long."""
    reply = sites.curl("plain.test", "/", "--write-out", "%{local_port}")
    port = reply.stdout.splitlines()[-1]
    line = re.compile(
        rf"client 127\.0\.0\.1:{port} served as plain\.test by 127\.0\.0\.1:\d+: TLSv1\.3 \(full\), 1 request, 0\.\d s"
    )
    wait_until(lambda: line.search(sites.log), "the line")
