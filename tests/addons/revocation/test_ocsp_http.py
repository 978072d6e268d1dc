"""addons/revocation/ocsp_http.py: a responder on loopback that answers well and badly."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from addons.revocation import ocsp_http
from tests.addons.revocation.ocsp_responder import (
    Responder,
    private_key,
    respond_with,
)
from tests.addons.revocation.stapled import CA


def raw(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer as it stands, then the end of the connection."""
    return lambda http: http.wfile.write(data) and None


def endless(http: BaseHTTPRequestHandler) -> None:
    http.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        http.wfile.write(b"400\r\n" + bytes(1024) + b"\r\n")


def redirect(http: BaseHTTPRequestHandler) -> None:
    http.send_response(302)
    http.send_header("Location", "file:///etc/passwd")
    http.end_headers()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (respond_with(b"", 500), "answers with HTTP status 500"),
        (redirect, "answers with HTTP status 302"),
        (respond_with(bytes(70000)), "answers with more than 64 KiB"),
        (endless, "answers with more than 64 KiB"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000), "does not speak HTTP|more than 64 KiB"),
        (raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000), "more than 64 KiB"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "breaks off or does not speak HTTP"),
        (raw(b""), "closes the connection without an answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), "breaks off"),
    ],
)
async def test_bad_http(responder: Responder, answer: Callable[[BaseHTTPRequestHandler], None], message: str) -> None:
    """Whatever a responder does instead of answering ends in a sentence that names it, after at most 64 KiB."""
    responder.answer = answer
    with pytest.raises(ValueError, match=f"^the OCSP responder {responder.url} .*({message})"):
        await ocsp_http.fetch(responder.url, b"request")


async def test_http_forms(responder: Responder) -> None:
    """Answers in chunks, or that end with the connection, are read as well; an URL may have a query."""
    responder.answer = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n")
    assert await ocsp_http.fetch(responder.url, b"request") == b"yes"
    responder.answer = raw(b"HTTP/1.0 200 OK\r\n\r\nyes")
    assert await ocsp_http.fetch(f"{responder.url}?a=b", b"request") == b"yes"
    assert [path for path, _, _ in responder.asked] == ["/ocsp", "/ocsp?a=b"]


async def test_silent_responder(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A responder that sends a byte now and then is left after ten seconds in all (here: a part of one)."""
    monkeypatch.setattr(ocsp_http, "_FETCH_S", 0.2)
    stop = threading.Event()

    def trickle(http: BaseHTTPRequestHandler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" * 20:
            http.wfile.write(bytes([byte]))
            if stop.wait(0.02):
                return

    responder.answer = trickle
    with pytest.raises(ValueError, match=r"cannot be asked: no answer within 0\.2 s"):
        await ocsp_http.fetch(responder.url, b"request")
    stop.set()


async def test_nobody_there() -> None:
    """A responder that is down, or whose name does not resolve, is named with the reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(ValueError, match=f"the OCSP responder {url} cannot be asked: .*(refused|failed)"):
            await ocsp_http.fetch(url, b"request")
    with pytest.raises(ValueError, match="cannot be asked: "):
        await ocsp_http.fetch(f"http://{'x' * 64}.invalid/", b"request")


async def test_no_proxy(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies in the environment are not used: they may be this very one."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    responder.answer = respond_with(b"yes")
    assert await ocsp_http.fetch(responder.url, b"request") == b"yes"


async def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A responder with https is asked if its certificate is of an authority that the system trusts, and not else."""
    key = private_key("web")
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = CA.certify("web", key, extensions=[names]).public_bytes(Encoding.PEM)
    (tmp_path / "web.pem").write_bytes(pem + certificate)
    (tmp_path / "ca.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "web.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"request")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(ValueError, match=r"cannot be asked: .*CERTIFICATE_VERIFY_FAILED"):
            await ocsp_http.fetch(url, b"request")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert await ocsp_http.fetch(url, b"request") == b"yes"
