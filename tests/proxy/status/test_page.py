"""The answers of the status page, over real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hsm.wire.status import Seen
from tests.proxy.status.served import MINTS, Spoken, asked, exchange, page_at, speaking


@pytest.fixture
async def spoken(tmp_path: Path) -> AsyncIterator[Spoken]:
    """A signer that answers."""
    async with speaking(tmp_path / "s") as signer:
        yield signer


@pytest.fixture
async def port(spoken: Spoken, tmp_path: Path) -> AsyncIterator[int]:
    """A page that asks it."""
    async with page_at(tmp_path / "s", "watch.example") as found:
        yield found


async def test_a_monitor_reads_counters_and_readiness(port: int) -> None:
    """What the signer told is shown, with the page's own counters among it."""
    status, metrics = await asked(port, "/metrics")
    assert (status, 'hsmitm_mints_total{result="minted"} 7.0' in metrics) == (200, True)
    assert "hsmitm_status_metrics_omitted 0.0" in metrics
    assert await asked(port, "/readyz?verbose") == (200, "ready\n")
    assert await asked(port, "/healthz") == (200, "ok\n")


async def test_the_reason_is_told(port: int, spoken: Spoken) -> None:
    """A hsmitm that is not ready says why; it is healthy all the same, and its counters are shown."""
    spoken.seen = Seen("no worker listens yet", [MINTS], 3)
    assert await asked(port, "/readyz") == (503, "no worker listens yet\n")
    assert await asked(port, "/healthz") == (200, "ok\n")
    assert "hsmitm_status_metrics_omitted 3.0" in (await asked(port, "/metrics"))[1]


async def test_head_is_get_without_content(port: int) -> None:
    """HEAD says what GET would, and sends nothing of it (RFC 9110 section 9.3.2)."""
    got = await exchange(port, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await exchange(port, b"HEAD /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 6\r\n" in head
    assert got.startswith(head[:15])
    assert got.endswith(b"\r\n\r\nready\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO"])
async def test_other_methods(port: int, method: str) -> None:
    """Whatever is no GET or HEAD is told what may be used."""
    answer = await exchange(port, f"{method} /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 99000000", b"Transfer-Encoding: chunked", b"Content-Length: 1", b"Transfer-Encoding: gzip",
     b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Content-Length: 99999999999999999999999"],
)  # fmt: skip
@pytest.mark.parametrize("method", [b"POST", b"GET", b"HEAD"])
async def test_a_body_is_refused_before_it_comes(port: int, method: bytes, framing: bytes) -> None:
    """Whoever announces a body is refused on the spot, and not asked to go on."""
    request = method + b" /metrics HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n" + framing + b"\r\n\r\n"
    assert (await exchange(port, request)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST.:9797", 200), ("127.0.0.1:80", 200), ("10.1.2.3", 200), ("[::1]:9797", 200),
        ("[2001:db8::7]", 200), ("watch.example", 200), ("Watch.Example:9797", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example:9797", 421), ("127.1", 421),
        ("[localhost]", 421), ("a@localhost", 421), ("localhost:80:90", 421), ("localhost/evil", 421), ("", 421),
        ("evil.example, localhost", 421), ("[::1", 421), ("::1", 421), ("localhost:evil", 421), ("1" * 5000, 421),
    ],
)  # fmt: skip
async def test_only_our_own_names(port: int, host: str, status: int) -> None:
    """A page in a browser that resolves its own name to this address reads nothing here (DNS rebinding)."""
    assert (await asked(port, "/metrics", host))[0] == status


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200"),
        (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"421"),
        (b"GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET http:///healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"421"),
        (b"GET healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET http://[::1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"421"),
        (b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET //evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
    ],
)
async def test_odd_requests(port: int, request_: bytes, status: bytes) -> None:
    """A request in any other form has the answer that HTTP has for it, and no traceback."""
    answer = await exchange(port, request_)
    assert answer.split(b" ")[1] == status
    assert b"Traceback" not in answer
