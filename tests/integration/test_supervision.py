"""What hangs is found and replaced; what a process needs not to know, it is not told. With real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System, alive
from tests.waiting import wait_until

_HANG_S = 5.0

pytestmark = pytest.mark.alone  # who is kept from the processor by a neighbour for seconds hangs, as far as one can see


@pytest.fixture(scope="module")
def own(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory, origin_ca: OriginCA) -> Iterator[System]:
    """A system that soon finds what hangs, whose PIN comes from a command that needs a token of the environment."""
    made = System.make(
        tmp_path_factory.mktemp("hang") / "s", workers="2", upstream_ca=origin_ca.pem,
        run__hang_timeout_s=str(_HANG_S),
    )  # fmt: skip
    secret = (made.directory / "pin").read_text().strip()
    made.edit(pin='{ command = ["sh", "-c", "echo $VAULT_TOKEN"] }', worker_environment='["LD_PRELOAD", "FOR_SCRIPTS"]')
    made.environment = {"VAULT_TOKEN": secret, "FOR_SCRIPTS": "yes", "AWS_SECRET_ACCESS_KEY": "not for workers"}
    with made:
        yield made


def _environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
    return dict(one.partition("=")[::2] for one in pairs)


def test_a_worker_is_told_no_secret_of_the_environment(own: System) -> None:
    """What a PIN command needs is in the signer's environment and in no worker's; what a script needs can be named."""
    (signer,) = own.pids("proxy.main signer")
    assert _environment(signer).keys() >= {"VAULT_TOKEN", "AWS_SECRET_ACCESS_KEY"}
    for worker in own.pids("proxy.processes.worker"):
        assert _environment(worker)["FOR_SCRIPTS"] == "yes"
        assert not _environment(worker).keys() & {"VAULT_TOKEN", "AWS_SECRET_ACCESS_KEY"}


def test_every_process_has_the_descriptors_that_it_may_have(own: System) -> None:
    """A soft limit of 1,024, as a shell and systemd give it, does not limit what workers carry."""
    for pid in (*own.pids("proxy.processes.worker"), *own.pids("proxy.main signer")):
        (line,) = [one for one in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in one]
        soft, hard = line.split()[3:5]
        assert soft == hard


def test_a_stopped_worker_is_replaced(own: System, origin: OriginThread) -> None:
    """A worker that does not answer any more takes half of all connections with it only for seconds."""
    victim, other = sorted(own.worker_pids())
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    wait_until(lambda: not alive(victim), "it is killed")
    assert _HANG_S - 1.5 < time.monotonic() - began < _HANG_S + 4
    wait_until(lambda: len(own.worker_pids() - {victim}) == 2, "another takes its place")
    assert other in own.worker_pids(), "its neighbour was not hurt"
    own.until_logged(f"hangs: no sign of life for {_HANG_S:g} s; killing it")
    assert own.curl(f"https://after-hang.test:{origin.port}/").ok


def test_a_stopped_signer_is_replaced(own: System, origin: OriginThread) -> None:
    """A signer that hangs is killed and started again; workers stay, known hosts are served all the while."""
    assert own.curl(f"https://known.test:{origin.port}/").ok
    proxy, workers = own.proxy, own.worker_pids()
    assert len(workers) == 2
    (signer,) = own.pids("proxy.main signer")
    os.kill(signer, signal.SIGSTOP)
    wait_until(lambda: not alive(signer), "it is killed")
    wait_until(lambda: own.worker_pids() == workers, "both workers have found the new signer", 30)
    assert own.curl(f"https://after-signer-hang.test:{origin.port}/", proxy=proxy).ok


def test_a_pause_of_everything_kills_nobody(own: System) -> None:
    """A virtual machine that was suspended goes on as it was: what nobody could do in the meantime is no fault."""
    assert own.process is not None
    pids = [own.process.pid, *own.pids("proxy.processes.worker"), *own.pids("proxy.main signer")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 2 * _HANG_S, "time passes")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 2, "time passes")
    assert all(map(alive, pids))
