"""Clients that do wrong at our own sites, and a client that does not and must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzz import client_flights
from bench.fuzz.bystander import Bystander, Errand, Seen
from bench.fuzz.client_flights import Session
from bench.fuzz.client_hello import ClientHello, records
from bench.fuzz.fuzz import Held, limits_ms
from bench.fuzz.fuzzer import Fuzzer, Target, said
from tests.bench.test_commands import bench
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.waiting import wait_until

NAMES = ("ec.example.com", "rsa.example.com")
SEED = 20261122
CASES = 1600
EXAMPLES = 400
THREADS = 8


@dataclass
class Besieged:
    """Running sites with few threads for handshakes, and what their worker was and held when it had nothing to do."""

    system: InboundSystem
    target: Target
    worker: int
    idle: Held
    made: int = 0
    """Connections so far, of which the worker must know before it can say that none is left."""

    @property
    def errand(self) -> Errand:
        """Of a client that does nothing wrong."""
        return Errand(self.target.address, list(NAMES), str(self.system.root))

    def assert_unharmed(self, seen: Seen) -> None:
        """The worker is the one that it was, has let go of everything, and made nobody wait."""
        assert self.system.worker_pids() == {self.worker}
        self.made += len(seen.new_ms) + 1

        def none_left() -> bool:
            counters = self.system.status().counters
            return counters["connections"] >= self.made and counters["inbound_waiting"] == 0

        wait_until(none_left, "no handshake is left over")
        wait_until(
            lambda: Held.of(self.worker).descriptors <= self.idle.descriptors + 4, f"descriptors as before, {self.idle}"
        )
        now = Held.of(self.worker)
        assert now.threads <= self.idle.threads + THREADS
        assert now.rss_kb - self.idle.rss_kb < 40_000, "2,000 connections of 20 kB each would be that much"
        assert self.system.status().counters["refused_requests"] == 0
        # GnuTLS calls a few kinds of nonsense from a client its own "internal error", and sends that alert.
        log = self.system.log.replace("GnuTLS internal error", "")
        for word in ("Traceback", "has crashed", "internal error", "killed by signal"):
            assert word not in log
        assert seen.errors == []
        assert len(seen.kept_ms) > 5
        assert len(seen.new_ms) > 5
        assert max(seen.kept_ms) < 1000
        assert max(seen.new_ms) < 1000


@pytest.fixture(scope="module")
def besieged(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    """The sites."""
    with plain_origin() as plain:
        system = InboundSystem.make_inbound(
            tmp_path_factory.mktemp("besieged"), workers="1", handshake_threads=str(THREADS)
        )
        system.generate(ec="p256", rsa="rsa-2048")
        system.listener()
        for name in NAMES:
            system.site(
                name, keys=[name.partition(".")[0]], upstream=f"http://127.0.0.1:{plain}", default=name == NAMES[0]
            )
        with system:
            system.expect_crashes = True  # GnuTLS's own words in the log; `assert_unharmed` knows them
            (worker,) = system.worker_pids()
            target = Target(f"127.0.0.1:{system.port}", list(NAMES))
            yield Besieged(system, target, worker, Held.of(worker))


@pytest.fixture(scope="module")
def sessions(besieged: Besieged) -> list[Session]:
    """What OpenSSL, GnuTLS, curl, Python and Node say, in TLS 1.2 and 1.3."""
    missing = client_flights.missing()
    assert not missing, f"{', '.join(missing)}: ./dev test installs them on Debian; elsewhere install them yourself"
    return asyncio.run(client_flights.recorded(besieged.target.address, NAMES))


def test_real_clients_are_recorded(sessions: list[Session]) -> None:
    """What is spoiled are whole sessions of five clients, which begin with a ClientHello that names the site."""
    assert {one.client.split()[0] for one in sessions} == {"openssl", "gnutls-cli", "curl", "python", "node"}
    for one in sessions:
        hello = ClientHello.parse(one.flights[0])
        assert records(hello.message())[0][5:] == one.flights[0][5 : 5 + int.from_bytes(one.flights[0][3:5])]
        assert one.client.split()[2].encode() in dict(hello.extensions)[0]


async def test_spoiled_handshakes_disturb_nobody(besieged: Besieged, sessions: list[Session]) -> None:
    """Sixteen hundred spoiled handshakes, cut, reset and left alone, cost the worker nothing, and a client that does
    nothing wrong is served all the while within a second, on the connection that it has and on new ones."""
    fuzzer = Fuzzer(besieged.target, sessions, SEED, clients=24)

    def alive(_done: int) -> None:
        try:
            Held.of(besieged.worker)
        except OSError:
            fuzzer.stopped = True

    async with Bystander(besieged.errand) as bystander:
        await fuzzer.run(0, CASES, alive)
        seen = await bystander.stop()
    try:
        assert fuzzer.failures == []
        assert sum(fuzzer.outcomes.values()) == CASES
        besieged.made += CASES
        await asyncio.to_thread(besieged.assert_unharmed, seen)
    except AssertionError:
        print(f"seed {SEED}; the last cases:", *fuzzer.recent, sep="\n")
        raise
    words = " ".join(fuzzer.outcomes)
    for wanted in ("decode_error", "unexpected_message", "handshake + alert", "handshake + encrypted data"):
        assert wanted in words, "the cases reach every part of a handshake"


_EXTENSION_TYPES = (0, 5, 10, 11, 13, 16, 21, 22, 23, 28, 35, 41, 42, 43, 44, 45, 49, 50, 51, 0xFF01)
_SERVER_NAMES = st.sampled_from(
    [b"\0\x11\0\0\x0e" + NAMES[0].encode(), b"\0\x12\0\0\x0f" + NAMES[1].encode(), b"\0\0", b"\0\3\0\0\0", b""]
)
_HELLOS = st.builds(
    ClientHello,
    version=st.sampled_from([0x0303, 0x0303, 0x0303, 0x0300, 0x0304, 0x0002]),
    random=st.binary(min_size=32, max_size=32),
    session=st.binary(max_size=40),
    suites=st.one_of(
        st.just(bytes.fromhex("13011302c02bc02fcca9009e00ff")),
        st.lists(st.binary(min_size=2, max_size=2)).map(b"".join),
        st.binary(max_size=9),
    ),
    compressions=st.sampled_from([b"\0", b"\0", b"\0", b"\1\0", b""]),
    extensions=st.lists(
        st.one_of(
            st.tuples(st.just(0), _SERVER_NAMES),
            st.just((43, bytes.fromhex("0403040303"))),
            st.just((10, bytes.fromhex("0004001d0017"))),
            st.just((13, bytes.fromhex("000604030804040a"))),
            st.just((51, bytes.fromhex("0024001d0020") + bytes(range(32)))),
            st.just((16, bytes.fromhex("000908687474702f312e31"))),
            st.tuples(st.sampled_from(_EXTENSION_TYPES) | st.integers(0, 0xFFFF), st.binary(max_size=60)),
        ),
        max_size=12,
    ),
)  # fmt: skip


def test_made_up_hellos_get_an_answer(besieged: Besieged) -> None:
    """Whatever a ClientHello says, and however its bytes are cut, its client gets a handshake, an alert or an end, at
    once; and nobody else notices."""

    @settings(max_examples=EXAMPLES, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        _HELLOS, st.sampled_from([16384, 400, 60, 7]), st.lists(st.integers(1, 600), max_size=4), st.binary(max_size=9)
    )
    def answered(hello: ClientHello, size: int, cuts: list[int], behind: bytes) -> None:
        data = b"".join(records(hello.message(), size)) + behind
        with socket.create_connection(("127.0.0.1", besieged.system.port), timeout=5) as client:
            heard = b""
            try:
                for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
                    client.sendall(data[begin:end])
                client.shutdown(socket.SHUT_WR)
                while received := client.recv(65536):  # not within 5 s: TimeoutError, with the input
                    heard += received
            except ConnectionError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert "no TLS" not in said(heard)

    async def beside() -> Seen:
        async with Bystander(besieged.errand) as bystander:
            await asyncio.to_thread(answered)
            return await bystander.stop()

    besieged.assert_unharmed(asyncio.run(beside()))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nonsense_behind_the_last_flight_ends_the_connection(besieged: Besieged, version: ssl.TLSVersion) -> None:
    """A client whose last flight is right and what follows it in the same segment is not, gets an alert and the end."""
    context = ssl.create_default_context(cafile=str(besieged.system.root))
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=NAMES[0])
    with socket.create_connection(("127.0.0.1", besieged.system.port), timeout=5) as client:
        flights = 0
        while flights < 2:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            if flight := outgoing.read():
                flights += 1
                client.sendall(flight + b"nonsense" * (flights == 2))
            else:
                incoming.write(client.recv(65536))
        while client.recv(65536):
            pass


@pytest.mark.parametrize(
    ("clients", "hsm_latency_ms", "new_ms"), [(24, 0, 1000), (7, 100, 1100), (8, 100, 1200), (24, 100, 1400)]
)
def test_limits(clients: int, hsm_latency_ms: float, new_ms: float) -> None:
    """A client that does nothing wrong may wait for a signature of each other client on eight sessions, and where none
    is made for none."""
    assert limits_ms(clients, hsm_latency_ms) == (1000, new_ms)


def test_bench(softhsm_module: str, tmp_path: Path) -> None:
    """The measurement runs, with an HSM that is far away, finds nothing wrong, tells what became of every case, and
    draws it."""
    drawn = tmp_path / "fuzz.svg"
    result = bench(
        tmp_path, "inbound-fuzz", "--number", "300", "--hsm-latency-ms", "40", "--seed", "7", "--plot", str(drawn)
    )
    figures = result["figures"]
    assert (figures["cases"], figures["failed_requests"]) == (300, 0)
    assert sum(row["cases"] for row in result["rows"]) == 300
    assert figures["descriptors_growth"] <= 4
    assert result["configuration"]["hsm_latency_ms"] == 40
    assert min(result["detail"]["bystander"]["new_ms"]) > 40
    assert 0 < figures["new_p50_ms"] <= figures["new_p99_ms"] <= figures["new_max_ms"] < 1000
    assert figures["kept_requests"] > 0
    memory, waits = result["charts"]
    (worker,) = memory["series"]
    assert worker["x"] == [one["cases"] for one in result["detail"]["samples"]] == sorted(worker["x"])
    assert (worker["x"][0], worker["x"][-1]) == (0, 300)
    assert worker["y"][-1] == figures["rss_end_kb"] / 1024
    assert [one["y"] for one in waits["series"]] == [
        [figures[f"{name}_{value}_ms"] for value in ("p50", "p99", "max")] for name in ("kept", "new")
    ]
    text = drawn.read_text()
    for title in (memory["title"], waits["title"], "new connections"):
        assert title in text
