"""What lasts for days: what a call of a channel costs is given back, so a million of them cost what one does; and of
what a tunnel carries nothing is kept."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.report.processes import memory
from tests.exchanges.ends1 import HOST
from tests.exchanges.scene import FORWARD, WAYS, Scene
from tests.waiting import wait_until

pytestmark = pytest.mark.alone
_CALLS = 12_000
_PIECE = bytes(50_000)
_TUNNEL_MB = 20
"""That a tunnel carries, in both directions together."""
_WARM_PERCENT = 50
"""Of them, until all has been done for the first time, and allocators have what they keep."""
_BYTES_A_CALL = 64
"""That memory may grow by behind that: 64 MB for a million. Twelve were seen over 54,000, none of Python's."""


@pytest.fixture(scope="module")
def answering(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """nghttpd, as a server of gRPC: a message, and its status in trailers."""
    directory, port = tmp_path_factory.mktemp("calls"), scene.lasting
    private = ec.generate_private_key(ec.SECP256R1())
    (directory / "key").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate = scene.ca.certify(private.public_key(), [HOST])
    (directory / "certificate").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "call").write_bytes(b"\0\0\0\0\5hello")
    command = ["nghttpd", "--address=127.0.0.1", "--trailer=grpc-status: 0", f"--htdocs={directory}", str(port),
               str(directory / "key"), str(directory / "certificate")]  # fmt: skip
    process = scene.place.call(lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL))

    def listens() -> bool:
        try:
            scene.open("direct", port).close()
        except OSError:
            return False
        return True

    wait_until(listens, "nghttpd listens")
    yield port
    process.terminate()
    process.wait(10)


@pytest.mark.parametrize("way", ["explicit", "inbound"])
def test_a_channel_that_lasts(scene: Scene, answering: int, way: str, tmp_path: Path) -> None:
    """Thousands of calls on one connection of a client, ten at a time: memory stays as it was after the first ones."""
    (tmp_path / "call").write_bytes(b"\0\0\0\0\4ping")
    scene.through(way)
    (pid,) = scene.systems[way].worker_pids()
    sizes: dict[int, int] = {}
    with scene.relayed(way, answering) as port:
        running = subprocess.Popen(
            ["h2load", f"--connect-to=127.0.0.1:{port}", f"--requests={_CALLS}", "--clients=1",
             "--max-concurrent-streams=10", f"--data={tmp_path / 'call'}", "--header=content-type: application/grpc",
             "--header=te: trailers", f"https://{HOST}:{answering}/call"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert running.stdout is not None
        with running.stdout as said:
            heard = ""
            for line in said:
                heard += line
                if line.startswith("progress: "):
                    sizes[int(line.split()[1].removesuffix("%"))] = 1024 * memory([pid]).rss_kb
        assert running.wait(60) == 0
    assert f"{_CALLS} done, {_CALLS} succeeded, 0 failed, 0 errored" in heard, heard
    grown = sizes[100] - sizes[_WARM_PERCENT]
    assert grown < _BYTES_A_CALL * _CALLS * (100 - _WARM_PERCENT) / 100, sizes


@pytest.mark.parametrize(("way", "version"), [*((way, "raw") for way in FORWARD), *((way, "x-raw") for way in WAYS)])
def test_a_tunnel_that_lasts(scene: Scene, way: str, version: str) -> None:
    """Megabytes there and back through a protocol that is not HTTP, without TLS and within it, leave nothing."""
    scene.through(way)
    (pid,) = scene.systems[way].worker_pids()
    port = scene.servers.ports[version]
    with scene.open(way, port) if version == "raw" else scene.tls(way, port, version) as connection:
        connection.sendall(b"/flood\n")

        def exchange(times: int) -> None:
            for _ in range(times):
                connection.sendall(_PIECE)
                got = 0
                while got < len(_PIECE):
                    got += len(connection.recv(len(_PIECE)))

        exchange(40)
        before = memory([pid]).rss_kb
        exchange(_TUNNEL_MB * 10)
        assert memory([pid]).rss_kb - before < 1000 * _TUNNEL_MB / 4
