"""At our own sites, which anybody may reach, a client has no more than its share either."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from bench.report.processes import cpu_s
from tests.addons.edge.hellos import built, hello, padded, records
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.integration.test_connections import ended
from tests.waiting import wait_until

_PER_CLIENT, _HANDSHAKES = 30, 10


@pytest.fixture(scope="module")
def narrow(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InboundSystem]:
    """A site with small bounds."""
    made = InboundSystem.make_inbound(
        tmp_path_factory.mktemp("narrow") / "s", workers="1", connections_per_client=str(_PER_CLIENT),
        handshakes_per_client=str(_HANDSHAKES), hello_s="1.0", first_request_s="2.0", idle_s="3.0",
    )  # fmt: skip
    made.generate(shop="p256")
    with plain_origin() as port:
        made.listener()
        made.site("shop.test", keys=["shop"], upstream=f"http://127.0.0.1:{port}")
        with made as system:
            yield system


def _connect(system: InboundSystem, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", system.port), timeout=15, source_address=(source, 0))


def _visited(system: InboundSystem) -> bool:
    return system.curl("shop.test", "/", "--noproxy", "*").returncode == 0


def test_one_address_has_its_share(narrow: InboundSystem) -> None:
    """Connections beyond the bound are closed at once; others are served."""
    with ExitStack() as stack:
        opened = [stack.enter_context(_connect(narrow, "127.0.0.2")) for _ in range(_PER_CLIENT + 10)]
        wait_until(lambda: sum(map(ended, opened)) == 10, "those beyond the bound are closed", 5)
        assert _visited(narrow)
    wait_until(lambda: "refused (too-many-of-client)" in narrow.log, "the log has it", 5)


def test_handshakes_that_do_not_go_on_are_bounded(narrow: InboundSystem) -> None:
    """Part of a ClientHello holds a place for a second at most, and an address has few places."""
    with ExitStack() as stack:
        opened = [stack.enter_context(_connect(narrow, "127.0.0.3")) for _ in range(_HANDSHAKES + 10)]
        for one in opened:
            one.sendall(hello()[:100])
        assert _visited(narrow)
        wait_until(lambda: all(map(ended, opened)), "none of them is left", 6)
    wait_until(lambda: "refused (too-many-handshakes)" in narrow.log, "the log has it", 5)
    wait_until(lambda: "refused (slow-hello)" in narrow.log, "the log has it", 5)


LARGE = {
    "16 MB": (b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(70_000), "oversized-hello"),
    "54 kB in one-byte records": (records(padded(9000), 1), "oversized-hello"),
    "an empty record": (b"\x16\x03\x01\x00\x00", "malformed-hello"),
    "an alert within": (records(hello()[5:], 3)[:8] + b"\x15\x03\x01\x00\x02\x01\x00", "malformed-hello"),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_hello_that_is_none_gets_an_alert(narrow: InboundSystem, what: str) -> None:
    """However it comes it costs next to nothing, and has its class in the log."""
    data, kind = LARGE[what]
    (pid,) = narrow.worker_pids()
    before = cpu_s([pid])[pid]
    with _connect(narrow, "127.0.0.4") as connection:
        with suppress(OSError):
            for start in range(0, len(data), 100):
                connection.sendall(data[start : start + 100])
        got = b""
        with suppress(ConnectionResetError):
            while more := connection.recv(100):
                got += more
        assert got in {b"", b"\x15\x03\x03\x00\x02\x02\x32", b"\x15\x03\x03\x00\x02\x02\x0a"}
    wait_until(lambda: f"refused ({kind})" in narrow.log, "the log has it", 5)
    assert cpu_s([pid])[pid] - before < 0.7


@pytest.mark.parametrize("version", [b"\3\4", b"\3\xff", b"\4\0", b"\xff\xff"])
def test_a_records_version_is_no_matter(narrow: InboundSystem, version: bytes) -> None:
    """RFC 8446 section 5.1: it is ignored for all purposes, also where GnuTLS itself would refuse it."""
    data = hello("shop.test")
    with _connect(narrow, "127.0.0.6") as connection:
        connection.sendall(data[:1] + version + data[3:])
        assert connection.recv(3) == b"\x16\3\3"


def test_a_list_of_alpn_that_is_empty_is_refused(narrow: InboundSystem) -> None:
    """RFC 7301 section 3.1: decode_error, as towards clients of the forward proxy."""
    with _connect(narrow, "127.0.0.7") as connection:
        connection.sendall(built(b"\x13\1", (16, b"\0\0")))
        assert connection.recv(100) == b"\x15\3\3\0\2\2\x32"


def test_a_client_that_says_nothing_is_let_go(narrow: InboundSystem) -> None:
    """A client without a ClientHello has its time for it, and no more."""
    begin = time.monotonic()
    with _connect(narrow, "127.0.0.5") as connection:
        assert ended(connection, 8)
    assert time.monotonic() - begin > 1.5
