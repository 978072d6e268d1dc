"""A status page that is attacked costs nobody a signature: real processes, raw connections."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest

from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.integration import test_status
from tests.integration.harness import OriginThread, System, alive, hsmitm
from tests.integration.test_privileges import memory_holds
from tests.waiting import wait_until

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
PAGE, SIGNER = "proxy.processes.status_page", "proxy.main signer"


def with_page(directory: Path, upstream_ca: str = "") -> System:
    """A system of one worker with a status page, not started."""
    made = System.make(directory, upstream_ca=upstream_ca, workers="1")
    made.toml.write_text(made.toml.read_text().replace('listen = ""', f'listen = "127.0.0.1:{free_port()}"'))
    return made


@contextmanager
def open_files(number: int) -> Iterator[None]:
    """So many descriptors for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, number), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def watched(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One that serves, with as many descriptors as a process usually has."""
    made = with_page(tmp_path_factory.mktemp("attacked") / "s", origin_ca.pem)
    with open_files(1024):
        made.start()
    try:
        yield made
    finally:
        made.stop()


def connected(system: System) -> socket.socket:
    """A connection to the page."""
    assert system.config.status_listen is not None
    return socket.create_connection((system.config.status_listen.host, system.config.status_listen.port), timeout=10)


def page(system: System, path: str) -> tuple[int, str]:
    """Status and content of a page; 0 where nobody answers."""
    try:
        return test_status.page(system, path)
    except OSError as error:
        return 0, str(error)


def processes(system: System) -> dict[int, str]:
    """The processes that a status page may harm: all but those of HSMs and workers."""
    assert system.process is not None
    return {pid: name for name in (SIGNER, PAGE) for pid in system.pids(name)}


def memory_kib(pid: int) -> int:
    """The most that a process has held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def a_bystander(system: System, origin: OriginThread, name: str) -> Iterator[None]:
    """Afterwards a host that nobody asked for before is minted for, and the page is right."""
    yield
    assert system.curl(f"https://{name}.test:{origin.port}/").ok
    assert page(system, "/readyz") == (200, "ready\n")


@pytest.mark.parametrize("framing", ["Content-Length: 99000000", "Transfer-Encoding: chunked"])
def test_bodies(watched: System, origin: OriginThread, framing: str) -> None:
    """Bodies of 99 MB to every page are refused before they come, and no process grows."""
    before = {pid: memory_kib(pid) for pid in processes(watched)}
    chunk = (b"10000\r\n" + bytes(65536) + b"\r\n") if "chunked" in framing else bytes(65536)
    with a_bystander(watched, origin, f"body-{len(framing)}"):
        for path in ("/metrics", "/healthz", "/readyz", "/nothing"):
            sent = 0
            with connected(watched) as one, suppress(OSError):
                one.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode())
                while sent < 99_000_000:
                    one.sendall(chunk)
                    sent += len(chunk)
            assert sent < 20_000_000, f"{sent} bytes were taken"
    grown = {name: memory_kib(pid) - before[pid] for pid, name in processes(watched).items()}
    assert max(grown.values()) < 16_000, grown


def test_a_crowd(watched: System, origin: OriginThread) -> None:
    """Behind 1,100 connections that say nothing `status` answers, the page does, and a killed member comes back."""
    (member,) = watched.pids("hsm.token.main")
    held = []
    with open_files(4096):
        for _ in range(1100):
            with suppress(OSError):
                held.append(connected(watched))
        with a_bystander(watched, origin, "crowd"):
            os.kill(member, signal.SIGKILL)
            wait_until(lambda: watched.pids("hsm.token.main") not in ([], [member]), "a member is started again")
            assert hsmitm("status", "--config", str(watched.toml)).returncode == 0
            wait_until(lambda: page(watched, "/readyz") == (200, "ready\n"), "the page knows")
        for one in held:
            one.close()


@pytest.mark.alone
def test_pipelined_requests(watched: System, origin: OriginThread) -> None:
    """A client that sends requests without end for two seconds costs the signer next to nothing."""
    before = {pid: cpu_s(pid) for pid in processes(watched)}
    until = time.monotonic() + 2
    while time.monotonic() < until:
        with connected(watched) as one, suppress(OSError):
            one.settimeout(0.2)
            while time.monotonic() < until:
                one.sendall(GET * 50)
                while len(one.recv(65536)) == 65536:
                    pass
    used = {name: cpu_s(pid) - before[pid] for pid, name in processes(watched).items()}
    assert used[SIGNER] < 0.3, used
    with a_bystander(watched, origin, "pipelined"):
        pass


def test_a_strange_name(watched: System) -> None:
    """A page in a browser whose name was made to lead here learns nothing."""
    with connected(watched) as one:
        one.sendall(b"GET /metrics HTTP/1.1\r\nHost: rebound.evil.example:9797\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := one.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b"hsmitm_" not in answer


def test_head(watched: System) -> None:
    """HEAD is answered as GET is, without the content."""
    request = urllib.request.Request(f"http://{watched.config.status_listen}/readyz", method="HEAD")
    with urllib.request.urlopen(request, timeout=5) as reply:
        assert (reply.status, reply.headers["Content-Length"], reply.read()) == (200, "6", b"")


def test_a_hung_signer(watched: System) -> None:
    """A signer that hangs makes the page say so in time, and it is ready again when the signer is."""
    (signer,) = watched.pids(SIGNER)
    os.kill(signer, signal.SIGSTOP)
    try:
        wait_until(lambda: page(watched, "/readyz")[0] == 503, "the page knows")
        assert page(watched, "/readyz") == (503, "the signer has not answered within 2 s\n")
        assert page(watched, "/healthz")[0] == 503
        assert page(watched, "/metrics")[0] == 503
    finally:
        os.kill(signer, signal.SIGCONT)
    wait_until(lambda: page(watched, "/readyz") == (200, "ready\n"), "the page is ready again")


def test_a_killed_page(watched: System, origin: OriginThread) -> None:
    """A page that is killed comes back, and neither signer nor workers notice."""
    others = {name: watched.pids(name) for name in (SIGNER, "proxy.processes.worker", "hsm.token.main")}
    (killed,) = watched.pids(PAGE)
    os.kill(killed, signal.SIGKILL)
    assert watched.curl(f"https://page-killed.test:{origin.port}/").ok
    wait_until(lambda: page(watched, "/readyz") == (200, "ready\n"), "the page is back")
    assert watched.pids(PAGE) != [killed]
    assert {name: watched.pids(name) for name in others} == others


def test_the_page_knows_no_secret(watched: System) -> None:
    """The page's process has no PIN in its memory, maps no PKCS#11 library, loads no code of the key side."""
    (pid,) = watched.pids(PAGE)
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "softhsm" not in maps
    assert "pkcs11" not in maps
    assert not memory_holds(pid, (watched.directory / "pin").read_bytes().strip())
    code = "import sys, proxy.processes.status_page; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    rooms = {".".join(name.split(".")[:2]) for name in done.stdout.split() if name.startswith(("hsm.", "addons."))}
    assert "hsm.wire" in rooms
    assert not rooms & {"hsm.token", "hsm.member", "hsm.group", "hsm.signer", "hsm.secrets", "hsm.audit"}


def test_the_page_inherits_no_secret(softhsm_module: str, tmp_path: Path) -> None:
    """Whatever stands in the environment of `hsmitm run`, the page gets the few variables that it needs."""
    own = with_page(tmp_path / "s")
    own.environment = {"TEST_VAULT_TOKEN": "s.tell-nobody"}
    with own:
        (pid,) = own.pids(PAGE)
        assert b"tell-nobody" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_signer_alone_keeps_its_page(softhsm_module: str, tmp_path: Path) -> None:
    """`hsmitm signer` has the page that it always had: it comes back when killed, ends with the signer, and is no
    obstacle to the next one, even where the signer was killed."""
    own = with_page(tmp_path / "s")
    own.command = "signer"

    def serves() -> bool:
        assert own.process is not None
        assert own.process.poll() is None, own.log
        return page(own, "/readyz") == (503, "no worker listens yet\n")

    for ending in (signal.SIGKILL, signal.SIGTERM):
        own.start(wait=False)
        assert own.process is not None
        wait_until(serves, "the page serves")
        (first,) = own.pids(PAGE)
        os.kill(first, signal.SIGKILL)
        (second,) = wait_until(lambda: [pid for pid in own.pids(PAGE) if pid != first], "another page is started")  # noqa: B023
        wait_until(serves, "the page serves again")
        own.process.send_signal(ending)
        assert own.process.wait(20) in (0, -signal.SIGKILL)
        wait_until(lambda: not alive(second), "no page is left")  # noqa: B023
    assert "cannot start" not in own.log


def test_a_signer_alone_names_a_taken_address(softhsm_module: str, tmp_path: Path) -> None:
    """`hsmitm signer` does not start where its page cannot, and says which setting it is."""
    own = with_page(tmp_path / "s")
    assert own.config.status_listen is not None
    with socket.create_server(("127.0.0.1", own.config.status_listen.port)):
        done = hsmitm("signer", "--config", str(own.toml))
    assert done.returncode == os.EX_CONFIG
    assert "status.listen: the address" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_alone(softhsm_module: str, tmp_path: Path) -> None:
    """`hsmitm status-page` serves the page of a signer that has none of its own, before the signer is there, and after
    it was started again."""
    own = System.make(tmp_path / "s", workers="1")
    own.command = "signer"
    with_listen = own.directory / "page.toml"
    address = f"127.0.0.1:{free_port()}"
    with_listen.write_text(own.toml.read_text().replace('listen = ""', f'listen = "{address}"'))
    argv = [sys.executable, "-P", "-m", "proxy.main", "status-page", "--config"]
    serving = subprocess.Popen([*argv, str(with_listen)], stdin=subprocess.DEVNULL, env=own.surroundings)

    def says(status: int) -> bool:
        assert serving.poll() is None
        try:
            with urllib.request.urlopen(f"http://{address}/healthz", timeout=5) as reply:
                return bool(reply.status == status)
        except HTTPError as error:
            with error:
                return error.code == status
        except OSError:
            return False

    wait_until(lambda: says(503), "it serves, without a signer")
    for _ in range(2):
        own.start(wait=False)
        wait_until(lambda: says(200), "it finds the signer")
        own.stop()
        wait_until(lambda: says(503), "it knows that the signer is gone")
    serving.terminate()
    assert serving.wait(10) == 0
    done = hsmitm("status-page", "--config", str(own.toml))
    assert done.returncode == os.EX_CONFIG
    assert "status.listen is empty: there is no status page to serve" in done.stderr
