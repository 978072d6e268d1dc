"""The decryption log of a running hsmitm: a record of each connection, and what becomes of files."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.decryption_records import Records
from tests.integration.harness import OriginThread, System
from tests.integration.test_forward import tunnel
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def running(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two workers that write to one file, and pass what is neither TLS nor HTTP."""
    made = System.make(
        tmp_path_factory.mktemp("records") / "s", upstream_ca=origin_ca.pem, workers="2", not_tls='"pass"'
    )
    with made:
        yield made


@pytest.fixture(scope="module")
def records(running: System) -> Records:
    """What they write."""
    return Records(running.directory / "decryption.jsonl")


def test_an_inspected_site(running: System, origin: OriginThread, records: Records) -> None:
    """Both legs, the leaf, and what the HSM had to do with it; the second client gets the same leaf without it."""
    for _ in range(2):
        assert running.curl(f"https://shop.test:{origin.port}/").ok
    first, second = wait_until(lambda: _two(records, "shop.test"), "two records")
    assert first["event"]["action"] == second["event"]["action"] == "decrypted"
    ours = first["hsmitm"]
    assert (ours["mode"], ours["host"], ours["requests"]) == ("explicit", "shop.test", 1)
    assert (first["destination"]["ip"], first["destination"]["port"]) == ("127.0.0.1", origin.port)
    assert first["tls"]["version"] == ours["upstream"]["tls"]["version"] == "1.3"
    assert first["tls"]["next_protocol"] == ours["upstream"]["tls"]["next_protocol"] == "h2"
    assert first["tls"]["curve"]
    assert ours["upstream"]["tls"]["curve"]
    assert first["tls"]["client"]["server_name"] == "shop.test"
    assert first["tls"]["client"]["ja4"].startswith("t13d")
    assert first["tls"]["server"]["subject"] == "CN=shop.test"
    assert ours["upstream"]["tls"]["server"]["issuer"] == "CN=throw-away origin CA"
    assert ours["authority"] == "trust"
    assert f"serial={ours['leaf']['serial']} " in running.log
    assert ours["leaf"]["cache"] == "miss"
    assert ours["hsm"]["member"] == "softhsm1"
    assert ours["hsm"]["sign_ms"] > 0
    assert min(first["source"]["bytes"], first["destination"]["bytes"], *ours["upstream"]["bytes"].values()) > 500
    assert first["network"]["bytes"] == first["source"]["bytes"] + first["destination"]["bytes"]


def _two(records: Records, host: str) -> list[dict[str, object]]:
    found = records.where(lambda one: one["destination"].get("address") == host)
    return found if len(found) == 2 else []


def test_bytes_are_those_of_the_wire(running: System, records: Records) -> None:
    """What a client sends and gets, its CONNECT and the proxy's answer to it included, to the byte."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        port = server.getsockname()[1]
        with tunnel(running, "bytes.test", port) as client:
            begun = f"CONNECT bytes.test:{port} HTTP/1.1\r\nHost: bytes.test:{port}\r\n\r\n"
            client.sendall(b"\x00" * 100_000)
            client.shutdown(socket.SHUT_WR)
            got = 0
            while data := client.recv(65536):
                got += len(data)
    assert got == 100_000
    told = records.of_host("bytes.test")
    assert told["event"]["action"] == "passed"
    assert told["source"]["bytes"] == len(begun) + 100_000
    assert told["hsmitm"]["upstream"]["bytes"] == {"in": 100_000, "out": 100_000}


def _echo(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def test_a_resumed_session(running: System, origin: OriginThread, records: Records) -> None:
    """A client that comes back resumes, and its record says so: it was shown no certificate."""
    context = ssl.create_default_context(cafile=str(running.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session, port, resumed = None, 0, False
    for _ in range(12):  # there are two workers
        with (
            tunnel(running, "resumed.test", origin.port) as connection,
            context.wrap_socket(connection, server_hostname="resumed.test", session=session) as tls,
        ):
            resumed, port = bool(tls.session_reused), tls.getsockname()[1]
            session = session or tls.session
        if resumed:
            break
    assert resumed
    told = records.of(port)
    assert told["tls"]["resumed"] is True
    assert "server" not in told["tls"]


def test_a_plain_request(running: System, records: Records) -> None:
    """HTTP without TLS is inspected as it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer, args=(server,), daemon=True).start()
        assert running.curl(f"http://plain.test:{server.getsockname()[1]}/").ok
    told = records.of_host("plain.test")
    assert told["event"]["action"] == "plain"
    assert told["hsmitm"]["requests"] == 1
    assert "tls" not in told


def _answer(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


def test_a_stream_in_which_tls_begins(running: System, origin_ca: OriginCA, records: Records) -> None:
    """STARTTLS: the record is that of the inspected connection, not of what was passed before it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_starttls, args=(server, origin_ca.context(("mail.test",), ())), daemon=True).start()
        context = ssl.create_default_context(cafile=str(running.ca))
        with tunnel(running, "mail.test", server.getsockname()[1]) as client:
            client.sendall(b"STARTTLS\r\n")
            assert client.recv(100) == b"220 go\r\n"
            with context.wrap_socket(client, server_hostname="mail.test") as tls:
                tls.sendall(b"QUIT\r\n")
                assert tls.recv(100) == b"221 bye\r\n"
    told = records.of_host("mail.test")
    assert told["event"]["action"] == "decrypted"
    assert told["hsmitm"]["upstream"]["tls"]["version"] == "1.3"


def _starttls(server: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"220 go\r\n")
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(100)
            tls.sendall(b"221 bye\r\n")


def test_a_client_that_came_and_went(running: System, records: Records) -> None:
    """A connection without a byte is one, too."""
    name, _, port = running.proxy.rpartition(":")
    with socket.create_connection((name, int(port))) as client:
        port_of_client = client.getsockname()[1]
    told = records.of(port_of_client)
    assert (told["event"]["action"], told["hsmitm"]["error"]["class"]) == ("failed", "client-closed")


def test_a_rotated_file_is_left_by_every_worker(running: System, origin: OriginThread, records: Records) -> None:
    """logrotate's way: rename, SIGHUP. The old file is complete, and what comes then is in the new one alone."""
    path, old = records.path, records.path.with_suffix(".1")
    before = path.read_bytes()
    path.rename(old)
    assert running.process is not None
    running.process.send_signal(signal.SIGHUP)
    wait_until(path.exists, "a new file is there")
    workers = set()

    def both() -> bool:
        assert running.curl(f"https://rotated.test:{origin.port}/").ok
        found = records.where(lambda one: one["destination"].get("address") == "rotated.test")
        workers.update(one["hsmitm"]["worker"] for one in found)
        return workers == {1, 2}

    wait_until(both, "both workers write to it", 30)
    assert old.read_bytes() == before or b"rotated.test" in old.read_bytes()
    assert old.read_bytes().startswith(before)
    assert path.stat().st_mode & 0o777 & ~0o640 == 0


def test_records_on_standard_output(
    softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path
) -> None:
    """`file = "stdout"`: each line of it is a record. A worker that was started again writes there, too, and one that
    ends tells of the connections that it cuts."""
    system = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", decryption_log__file='"stdout"')
    with system:
        assert system.curl(f"https://first.test:{origin.port}/").ok
        wait_until(lambda: "first.test" in _written(system), "it writes")
        (worker,) = system.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: system.worker_pids() - {worker}, "another worker serves", 20)
        wait_until(lambda: system.curl(f"https://second.test:{origin.port}/").ok, "it serves", 20)
        wait_until(lambda: "second.test" in _written(system), "it writes")
        with tunnel(system, "held.test", origin.port):
            assert system.stop() == 0
    assert {"first.test", "second.test", "held.test"} <= _written(system)


def _written(system: System) -> set[str]:
    """The hosts of the records among the lines of the log: in tests both go to one file."""
    lines = [line for line in system.log.splitlines() if line.startswith("{")]
    return {json.loads(line)["destination"].get("address", "") for line in lines}


_FULL = """
import json, subprocess, sys
from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ca, directory = OriginCA(), Path(sys.argv[1])
with OriginThread(ca) as origin:
    system = System.make(directory, upstream_ca=ca.pem, workers="2", decryption_log__file='"small/decryption.jsonl"')
    (directory / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", directory / "small"], check=True)
    with system:
        assert all(system.curl(f"https://full-{number}.test:{origin.port}/").ok for number in range(20)), system.log
        system.until_logged("records of the decryption log were dropped: No space left on device")
        subprocess.run(["mount", "-o", "remount,size=1m", directory / "small"], check=True)
        for number in range(4):
            assert system.curl(f"https://after-{number}.test:{origin.port}/").ok
    text = (directory / "small" / "decryption.jsonl").read_text()
hosts = [json.loads(line)["destination"]["address"] for line in text.splitlines()]
assert 5 < len(hosts) < 20, hosts
assert {f"after-{number}.test" for number in range(4)} <= set(hosts), hosts
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of a few bytes needs root")
def test_a_full_disk_stops_no_traffic(softhsm_module: str, tmp_path: Path) -> None:
    """Records are dropped, and the log says so; every request is answered, every line is whole, and when there is room
    again records go on."""
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, "-c", _FULL, str(tmp_path / "s")],
        capture_output=True, text=True, timeout=90, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
