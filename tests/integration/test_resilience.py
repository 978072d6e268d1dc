"""Any process may be killed, any socket deleted, any half restarted: the system serves again without an operator."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.rig.port import free_port
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET
from proxy.demo.origin import OriginCA
from tests.integration.decryption_records import Records
from tests.integration.harness import HSMITM, OriginThread, System, alive, hsmitm, killed_at_end
from tests.waiting import wait_until


@pytest.fixture
def own(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> Iterator[System]:
    """A system of two workers that a test may break, on a fixed port as an operator's is."""
    listen = f'"127.0.0.1:{free_port()}"'
    with System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="2", listen=listen) as running:
        yield running


def serves(system: System, origin: OriginThread, host: str) -> bool:
    """Whether a new host is answered now."""
    report = system.try_status()
    return bool(report and report.listeners and system.curl(f"https://{host}:{origin.port}/").ok)


def test_killed_worker_is_replaced(own: System, origin: OriginThread) -> None:
    """kill -9 of a worker: the other one serves, and a new one takes its place."""
    victim = min(own.worker_pids())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: serves(own, origin, "after-worker.test"), "the other worker serves")
    wait_until(lambda: len(own.worker_pids() - {victim}) == 2, "a new worker listens")
    wait_until(lambda: re.search("worker [12] was killed by SIGKILL", own.log), "it is told")


def test_killed_member_is_replaced_unseen(own: System, origin: OriginThread) -> None:
    """kill -9 of the member process: the very next new host is served, late by no more than its restart."""
    (member,) = own.pids("hsm.token.main")
    os.kill(member, signal.SIGKILL)
    assert own.curl(f"https://after-member.test:{origin.port}/").ok
    (status,) = own.status().members
    assert (status.state, status.starts) == ("up", 2)


def test_killed_signer_is_replaced(own: System, origin: OriginThread) -> None:
    """kill -9 of the signer: known hosts go on meanwhile, new ones as soon as it is back; workers are not restarted."""
    assert own.curl(f"https://known.test:{origin.port}/").ok
    proxy, workers = own.proxy, own.worker_pids()
    (signer,) = own.pids("proxy.main signer")
    (member,) = own.pids("hsm.token.main")
    os.kill(signer, signal.SIGKILL)
    wait_until(lambda: not alive(member), "the orphaned member ends itself")
    assert own.curl(f"https://after-signer.test:{origin.port}/", proxy=proxy).ok
    wait_until(lambda: own.worker_pids() == workers, "both workers have found the new signer")


def test_killed_supervisor_stops_no_traffic(own: System, origin: OriginThread) -> None:
    """kill -9 of the supervisor: its processes serve on; the next `hsmitm run` takes over and ends them."""
    assert own.process is not None
    proxy = own.proxy
    orphans = [*own.pids("proxy.processes.worker"), *own.pids("proxy.main signer")]
    with killed_at_end(lambda: orphans):
        own.process.kill()
        own.process.wait()
        wait_until(lambda: "the supervisor is gone" in own.log, "the orphans notice")
        assert own.curl(f"https://after-supervisor.test:{origin.port}/", proxy=proxy).ok
        own.start(wait=False)
        wait_until(lambda: not any(alive(pid) for pid in orphans), "the orphans leave")
        own.wait_ready()
        assert own.curl(f"https://after-takeover.test:{origin.port}/").ok


def test_second_run_is_refused(own: System) -> None:
    """Starting the same configuration twice fails at once and hurts nobody."""
    pids = own.worker_pids()
    done = hsmitm("run", "--config", str(own.toml))
    assert done.returncode == 78
    assert "hsmitm runs already with this configuration" in done.stderr
    assert own.worker_pids() == pids


def test_deleted_sockets_come_back(own: System, origin: OriginThread) -> None:
    """Both sockets deleted: the signer makes them again, and a worker that starts then finds it."""
    run = own.config.run.path
    for name in (WORKER_SOCKET, ADMIN_SOCKET):
        (run / name).unlink()
    wait_until(lambda: own.try_status() is not None, "the admin socket is back")
    victim = min(own.worker_pids())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(own.worker_pids() - {victim}) == 2, "a new worker finds the new socket")
    assert own.curl(f"https://after-sockets.test:{origin.port}/").ok


def test_run_directory_removed(own: System, origin: OriginThread) -> None:
    """Even the whole run directory may go: it is made again."""
    run = own.config.run.path
    for path in run.iterdir():
        path.unlink()
    run.rmdir()
    wait_until(lambda: own.try_status() is not None, "the admin socket is back")
    assert own.curl(f"https://after-directory.test:{origin.port}/").ok


def start_half(system: System, command: str) -> subprocess.Popen[bytes]:
    """`hsmitm signer` or `hsmitm proxy` on the system's configuration."""
    with system.log_path.open("ab") as log:
        return subprocess.Popen(
            [*HSMITM, command, "--config", str(system.toml)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=system.surroundings,
        )  # fmt: skip


def listening_port(system: System) -> str:
    """The proxy's address as the log tells it: without a signer there is no status."""
    line = wait_until(
        lambda: next((line for line in system.log.splitlines() if " listens on " in line), ""), "a worker listens"
    )
    return line.rpartition(" ")[2]


def test_halves_start_in_any_order(
    softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path
) -> None:
    """`hsmitm proxy` before `hsmitm signer`: new hosts get a 502, and the log says why; with the signer there they are
    served, without it known hosts go on, and nothing is restarted by hand."""
    system = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", mint_timeout_s="2.0")
    proxy_half = start_half(system, "proxy")
    halves = [proxy_half]
    try:
        proxy = listening_port(system)
        early = system.curl(f"https://early.test:{origin.port}/", proxy=proxy)
        assert "response 502" in early.errors
        host, _, port = proxy.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"CONNECT early.test:443 HTTP/1.1\r\nHost: early.test:443\r\n\r\n")
            answer = b""
            while b"\nAsk:" not in answer:
                data = connection.recv(4096)
                assert data, answer
                answer += data
        assert b"early.test cannot be inspected now" in answer
        system.until_logged("is 'hsmitm signer' running?")
        halves.append(start_half(system, "signer"))
        wait_until(lambda: system.try_status() is not None, "the signer serves")
        assert system.curl(f"https://known.test:{origin.port}/", proxy=proxy).ok
        halves[1].terminate()
        assert halves[1].wait(15) == 0
        assert system.curl(f"https://known.test:{origin.port}/", proxy=proxy).ok
        assert "response 502" in system.curl(f"https://new.test:{origin.port}/", proxy=proxy).errors
        halves.append(start_half(system, "signer"))
        wait_until(lambda: system.try_status() is not None, "the signer serves again")
        assert system.curl(f"https://new.test:{origin.port}/", proxy=proxy).ok
        records = Records(system.directory / "decryption.jsonl")
        known = records.where(lambda one: one["destination"].get("address") == "known.test")
        assert [one["event"]["action"] for one in known] == ["decrypted"] * 2
        early = records.where(lambda one: one["destination"].get("address") == "early.test")
        assert [one["hsmitm"]["error"]["class"] for one in early] == ["hsm-unavailable"] * 2
        records.path.rename(records.path.with_suffix(".1"))
        proxy_half.send_signal(signal.SIGHUP)
        wait_until(records.path.exists, "the proxy's half opens the log anew")
        proxy_half.terminate()
        assert proxy_half.wait(15) == 0
    finally:
        for half in halves:
            if half.poll() is None:
                half.kill()
                half.wait()
    assert "Traceback" not in system.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly_in_order(own: System, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end everything within seconds, workers before signer before member, with exit status 0."""
    pids = [*own.pids("proxy."), *own.pids("hsm.")]
    assert len(pids) == 4
    began = time.monotonic()
    assert own.stop(number) == 0
    assert time.monotonic() - began < 8
    assert not any(alive(pid) for pid in pids)
    assert not list(own.config.run.path.glob("*.sock"))
    assert own.log.index("hsmitm stopping") < own.log.index("member softhsm1: up -> stopped")


def test_flow_in_progress_gets_its_grace(own: System, origin_ca: OriginCA, tmp_path: Path) -> None:
    """A download that is under way when hsmitm is told to stop is finished first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = subprocess.Popen(
            ["curl", "--silent", "--max-time", "20", "--proxy", f"http://{own.proxy}", f"http://127.0.0.1:{port}/slow"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        upstream, _ = server.accept()
        with upstream:
            upstream.recv(4096)
            assert own.process is not None
            own.process.terminate()
            wait_until(lambda: "hsmitm stopping" in own.log, "it begins to stop")
            upstream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfinished")
            output, _ = client.communicate(timeout=20)
    assert output == b"finished"
    assert own.stop() == 0
