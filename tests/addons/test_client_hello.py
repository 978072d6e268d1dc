"""What a client can verify, read from ClientHellos that real TLS libraries wrote."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.proxy.layers.tls import parse_client_hello
from mitmproxy.tls import ClientHello
from OpenSSL import SSL

from addons.client_hello import can_ecdsa

_ECDSA_ONLY = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"
_RSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:AES128-GCM-SHA256"
_FROM_A_PROCESS = """
import ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.maximum_version = ssl.TLSVersion[sys.argv[1]]
output = ssl.MemoryBIO()
try:
    context.wrap_bio(ssl.MemoryBIO(), output, server_hostname="example.com").do_handshake()
except ssl.SSLWantReadError:
    sys.stdout.buffer.write(output.read())
"""


def _parsed(records: bytes) -> ClientHello:
    hello = parse_client_hello(records)
    assert hello is not None, "the library wrote no whole ClientHello"
    return hello


def _from_stdlib(
    *, ciphers: str = "DEFAULT", lowest: str = "MINIMUM_SUPPORTED", highest: str = "MAXIMUM_SUPPORTED"
) -> ClientHello:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # TLS 1.0 and 1.1 are what we test
        context.minimum_version = ssl.TLSVersion[lowest]
        context.maximum_version = ssl.TLSVersion[highest]
    context.set_ciphers(ciphers)
    output = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), output, server_hostname="example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return _parsed(output.read())


def _from_pyopenssl(*, ciphers: bytes | None = None, groups: bytes | None = None, highest: int = 0) -> ClientHello:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(highest)
    if ciphers:
        context.set_cipher_list(ciphers)
    if groups:
        context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
        context._set_groups(groups) if hasattr(context, "_set_groups") else None
    client = SSL.Connection(context)
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return _parsed(client.bio_read(65535))


def _configured(directory: Path, settings: str, highest: str = "TLSv1_3") -> ClientHello:
    """The hello of an OpenSSL that a machine's administrator limited in openssl.cnf."""
    configuration = directory / "openssl.cnf"
    configuration.write_text(
        f"openssl_conf = start\n[start]\nssl_conf = all\n[all]\nsystem_default = limits\n[limits]\n{settings}\n"
    )
    written = subprocess.run(
        [sys.executable, "-I", "-c", _FROM_A_PROCESS, highest],
        env=os.environ | {"OPENSSL_CONF": str(configuration)},
        capture_output=True,
        check=True,
        timeout=30,
    )
    return _parsed(written.stdout)
