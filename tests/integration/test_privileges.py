"""What each process can reach: a worker that is taken over finds no PIN, no PKCS#11 module and no CA key."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.integration.harness import HSMITM, System


def memory_holds(pid: int, needle: bytes) -> bool:
    """Whether the bytes stand anywhere in a process's readable memory."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if not found or "[v" in line:
                continue
            begin, end = (int(part, 16) for part in found.groups())
            try:
                memory.seek(begin)
                if needle in memory.read(end - begin):
                    return True
            except OSError:
                continue
    return False


@pytest.fixture
def pin(system: System) -> bytes:
    """The partition's PIN."""
    return (system.directory / "pin").read_bytes().strip()


def test_worker_has_no_pin_and_no_module(system: System, pin: bytes) -> None:
    """A worker's memory, environment and arguments hold no PIN, and it maps no PKCS#11 library; a member does."""
    (worker,) = system.pids("proxy.processes.worker")
    (member,) = system.pids("hsm.token.main")
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert "softhsm" not in maps
    assert "pkcs11" not in maps
    assert not memory_holds(worker, pin)
    assert "softhsm" in Path(f"/proc/{member}/maps").read_text()
    # The member has had the PIN, and may have written over it since: another word that it was sent shows the search.
    assert memory_holds(member, b"hsmitm-forward-untrust"), "the search finds what is there"


def test_supervisor_never_sees_the_pin(system: System, pin: bytes) -> None:
    """The supervisor starts processes and knows no secret; nor does it load a module."""
    assert system.process is not None
    assert not memory_holds(system.process.pid, pin)
    assert "pkcs11" not in Path(f"/proc/{system.process.pid}/maps").read_text()


def test_no_pin_in_arguments_environments_or_logs(system: System, pin: bytes) -> None:
    """No process of ours shows the PIN in argv or environment, and no log line has it."""
    assert system.process is not None
    pids = [system.process.pid, *system.pids("proxy."), *system.pids("hsm.")]
    assert len(pids) >= 4
    for pid in pids:
        assert pin not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert pin not in Path(f"/proc/{pid}/environ").read_bytes()
    assert pin not in system.log_path.read_bytes()


def test_signer_and_member_leave_no_core(system: System) -> None:
    """A crash of a process that knows the PIN writes no core file."""
    for fragment in ("proxy.main signer", "hsm.token.main"):
        (pid,) = system.pids(fragment)
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size\s+0\s+0", limits), limits


def test_pin_from_the_environment_reaches_no_worker(softhsm_module: str, tmp_path: Path) -> None:
    """A PIN that comes in an environment variable is the signer's alone: no worker and no member inherits it."""
    own = System.make(tmp_path / "s", workers="1")
    secret = (own.directory / "pin").read_text().strip()
    own.edit(pin='{ env = "TEST_HSM_PIN" }')
    own.environment = {"TEST_HSM_PIN": secret}
    with own:
        for fragment in ("proxy.processes.worker", "hsm.token.main"):
            (pid,) = own.pids(fragment)
            assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        (worker,) = own.pids("proxy.processes.worker")
        assert not memory_holds(worker, secret.encode())


def test_pin_from_a_prompt(softhsm_module: str, tmp_path: Path) -> None:
    """A PIN that is asked for on the terminal is not echoed, reaches the partition, and no worker."""
    own = System.make(tmp_path / "s", workers="1", pin="{ prompt = true }")
    secret = (own.directory / "pin").read_text().strip()
    terminal, theirs = pty.openpty()
    own.process = subprocess.Popen(
        [*HSMITM, "run", "--config", str(own.toml)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"PIN of member softhsm1: " not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, f"{secret}\n".encode())
    while b"ready: regular proxy" not in said:
        said += os.read(terminal, 4096)
    own.wait_ready()
    (worker,) = own.pids("proxy.processes.worker")
    assert not memory_holds(worker, secret.encode())
    own.process.terminate()
    with contextlib.suppress(OSError):  # the terminal ends with its last process
        while data := os.read(terminal, 4096):
            said += data
    os.close(terminal)
    assert own.stop() == 0
    assert secret.encode() not in said


def test_sockets_are_private(system: System) -> None:
    """Run directory and sockets are their owner's alone; workers and status page with a user of their own reach their
    socket by its group, and read no file there."""
    run = system.config.run.path
    shared = os.geteuid() == 0
    assert stat.S_IMODE(run.stat().st_mode) == (0o710 if shared else 0o700)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in run.iterdir()}
    assert {modes.pop(one) for one in ("signer.sock", "status.sock")} == {0o660 if shared else 0o600}
    assert {"admin.sock", "admin.token"} < modes.keys()
    assert set(modes.values()) == {0o600}


def test_no_file_holds_a_private_key(system: System) -> None:
    """Nothing on disk under the system's directory is a private key in the clear, mitmproxy's own CA included."""
    assert (system.directory / "softhsm").is_dir()
    for path in system.directory.rglob("*"):
        assert not (path.is_file() and b"PRIVATE KEY" in path.read_bytes()), path
