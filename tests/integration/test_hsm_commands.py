"""What an operator does with the members of a running hsmitm, word for word, while clients come and go."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.ha_system import DEAD, HaSystem, Visits
from tests.integration.harness import OriginThread, alive, hsmitm
from tests.waiting import wait_until

EX_USAGE, EX_UNAVAILABLE, EX_CONFIG = 2, 69, 78


@pytest.fixture(scope="module")
def running(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaSystem]:
    """A group of m1 and m2 that runs. Each test leaves it as it found it."""
    with HaSystem.make_ha(tmp_path_factory.mktemp("commands") / "s", origin_ca.pem) as system:
        yield system


@pytest.fixture
def load(running: HaSystem, origin: OriginThread) -> Iterator[Visits]:
    """Clients that visit new hosts during the test: none of them may fail."""
    with Visits(running, origin.port, clients=3) as visits:
        yield visits
        visits.more(10)


class OpenConnection:
    """One TLS connection through the proxy, over which request follows request. A context manager."""

    def __init__(self, system: HaSystem, port: int, host: str = "kept.test") -> None:
        proxy, _, proxy_port = system.proxy.rpartition(":")
        self._plain = socket.create_connection((proxy, int(proxy_port)), timeout=10)
        self._plain.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        assert b" 200 " in self._plain.recv(4096)
        self._tls = ssl.create_default_context(cafile=str(system.ca)).wrap_socket(self._plain, server_hostname=host)
        self._host = host

    def __enter__(self) -> OpenConnection:
        self.request()
        return self

    def __exit__(self, *_: object) -> None:
        self._tls.close()

    def request(self) -> None:
        """A request and its whole answer."""
        self._tls.sendall(f"GET /kept HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"path /kept\n"):
            more = self._tls.recv(4096)
            assert more, answer
            answer += more
        assert answer.startswith(b"HTTP/1.1 200")


@pytest.fixture
def kept(running: HaSystem, origin: OriginThread) -> Iterator[OpenConnection]:
    """A connection that was open before, and is after."""
    with OpenConnection(running, origin.port) as connection:
        yield connection
        connection.request()


@contextmanager
def edited(system: HaSystem, **lines: str) -> Iterator[None]:
    """hsmitm.toml with other lines; at the end it is as before, and the signer knows."""
    before = system.toml.read_text()
    system.edit(**lines)
    try:
        yield
    finally:
        system.toml.write_text(before)
        system.hsmitm("reload")


def option(member: dict[str, Any], pin_file: str = "pin") -> list[str]:
    """How `hsm add` is told of a member that is meant to work."""
    options = ["--pin-file", pin_file, "--token", member["token"], "--module", member["module"]]
    return options + [part for name, value in member["environment"].items() for part in ("--env", f"{name}={value}")]


@pytest.fixture
def third(running: HaSystem) -> Iterator[dict[str, Any]]:
    """A third HSM with the same keys, not yet a member; afterwards it is none again."""
    before = running.toml.read_text()
    yield running.member("m3")
    running.toml.write_text(before)
    running.hsmitm("reload")
    shutil.rmtree(running.directory / "m3")
    del running.hsms["m3"]
    assert set(running.states()) == {"m1", "m2"}


# --- looking ----------------------------------------------------------------------------------------------------------


def test_status(running: HaSystem) -> None:
    """`hsm status` shows the group and of each member its state, partition, serial number, library and sessions."""
    said = running.hsmitm("hsm", "status")
    assert re.match(r"HA group hsmitm: healthy \w+ \d+ (s|min), auto-recovery retries 0, unavailable: fail\n", said)
    for name in ("m1", "m2"):
        assert re.search(rf"  {name} +up \w+ \d+ (s|min) +hsmitm, serial number [0-9a-f]{{16}} +\d/4", said), said
    assert str(running.hsms["m1"].path)[:60] in said


def test_status_as_json(running: HaSystem) -> None:
    """`hsm status --json` has the same for a program."""
    found = json.loads(running.hsmitm("hsm", "status", "--json"))
    assert set(found) == {"group", "members"}
    group = {name: found["group"][name] for name in ("name", "state", "high_availability", "unavailable", "waiting")}
    assert group == {
        "name": "hsmitm", "state": "healthy", "high_availability": True, "unavailable": "fail", "waiting": 0,
    }  # fmt: skip
    for member, name in zip(found["members"], ("m1", "m2"), strict=True):
        assert (member["name"], member["state"], member["sessions_total"]) == (name, "up", 4)
        assert member["keys"] == {"trust": "", "untrust": ""}
        assert alive(member["pid"])


def test_status_of_a_member_in_trouble(running: HaSystem, load: Visits) -> None:
    """`hsm status` says of a member that is down why, how often it was tried and when it is next; nobody notices."""
    with running.hsms["m1"].fault(DEAD):
        os.kill(running.pid("m1"), signal.SIGKILL)
        wait_until(lambda: running.of("m1").attempts > 2, "it is tried again")
        said = running.hsmitm("hsm", "status")
        assert said.startswith("HA group hsmitm: last ")
        found = json.loads(running.hsmitm("hsm", "status", "--json"))["members"][0]
        assert found["state"] in ("down", "starting")
        assert "CKR_DEVICE_ERROR (0x30)" in found["last_error"]
        assert found["attempts"] > 2
        assert found["keys"]["trust"].startswith(f"member is {found['state']}: ")
        info = running.hsmitm("hsm", "info")
        assert re.search(r"m1: member is (down|starting): ", info)
        assert "m2: " in info
    running.hsmitm("hsm", "reset", "m1")


def test_info(running: HaSystem) -> None:
    """`hsm info` shows what each member's HSM reports of itself: firmware, sessions, memory, mechanisms."""
    said = running.hsmitm("hsm", "info")
    for name in ("m1", "m2"):
        assert f"{name}: {running.hsms[name].path}" in said
    assert said.count("serial number ") == 2
    for fragment in ("firmware 2.6", "sessions ", "public memory ", "flags ", "70 mechanisms", "CKM_ECDSA"):
        assert said.count(fragment) >= 2, fragment
    found = json.loads(running.hsmitm("hsm", "info", "--json"))
    assert found["problems"] == {}
    assert "CKM_RSA_PKCS" in found["modules"]["m2"]["slots"][0]["mechanisms"]


# --- reset ------------------------------------------------------------------------------------------------------------


def test_reset_all(running: HaSystem, load: Visits, kept: OpenConnection) -> None:
    """F34: `hsm reset` gives each member new sessions in turn, and says so of each; no connection fails or ends."""
    before = {name: running.pid(name) for name in ("m1", "m2")}
    begun = len(running.log)
    done = hsmitm("hsm", "reset", "--config", str(running.toml))
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    for name, line in zip(("m1", "m2"), said, strict=True):
        new = running.pid(name)
        assert line == f"{name}: new sessions in process {new}, 4 of them; the old ones are gone"
        assert new != before[name]
        assert not alive(before[name])
    assert "member m1: up -> " not in running.log[begun:]
    assert " group: " not in running.log[begun:]


def test_reset_one(running: HaSystem, load: Visits, kept: OpenConnection) -> None:
    """`hsm reset m2` leaves m1 alone; a name that no member has is told with those that are."""
    before = {name: running.pid(name) for name in ("m1", "m2")}
    assert running.hsmitm("hsm", "reset", "m2").startswith("m2: new sessions in process ")
    assert running.pid("m1") == before["m1"]
    assert running.pid("m2") != before["m2"]
    said = running.hsmitm("hsm", "reset", "m9", status=EX_CONFIG)
    assert said == "hsmitm: there is no member 'm9'; known are m1, m2\n"


def test_reset_of_a_member_that_is_down(running: HaSystem, load: Visits) -> None:
    """`hsm reset` of a member whose HSM is away says that it is down and why, and starts it at once when it is back."""
    with running.hsms["m1"].fault(DEAD):
        os.kill(running.pid("m1"), signal.SIGKILL)
        wait_until(lambda: running.of("m1").attempts > 2, "it is tried again")
        said = running.hsmitm("hsm", "reset", "m1", status=EX_UNAVAILABLE)
        assert said.startswith("hsmitm: member m1 is down: ")
        assert "CKR_DEVICE_ERROR (0x30) at C_Initialize" in said
    said = running.hsmitm("hsm", "reset", "m1")
    assert re.match(r"m1: it was (down|starting) and is up again\n|m1: new sessions", said)
    running.until_up("m1", "m2")


def test_check_says_why_a_member_is_down(running: HaSystem) -> None:
    """`check` says of a member what keeps it from starting, also where it is being tried again when that is said."""
    once = f"{DEAD} n=1", "C_Initialize delay 5000"
    with running.hsms["m1"].fault("C_Initialize delay 1000"), running.hsms["m2"].fault(*once):
        done = hsmitm("check", "--config", str(running.toml))
    assert done.returncode == EX_CONFIG
    (wrong,) = (line for line in done.stdout.splitlines() if line.startswith("WRONG"))
    assert wrong.startswith("WRONG  member m2: CKR_DEVICE_ERROR (0x30) at C_Initialize")


# --- add and remove ---------------------------------------------------------------------------------------------------


def test_add_and_remove(running: HaSystem, load: Visits, kept: OpenConnection, third: dict[str, Any]) -> None:
    """`hsm add` and `hsm remove` change hsmitm.toml and the running group; no connection fails or ends, and the file's
    comments stay."""
    comments = [line for line in running.toml.read_text().splitlines() if line.startswith("#")]
    written, added = running.hsmitm("hsm", "add", "m3", *option(third), "--sessions", "3").splitlines()
    assert written == f"{running.toml} is written"
    assert re.fullmatch(
        r"member m3 added: up, process \d+, partition 'hsmitm' \(serial \w+, slot \d+\), 3 sessions", added
    )
    assert running.states() == {"m1": "up", "m2": "up", "m3": "up"}
    wait_until(lambda: running.hsms["m3"].calls("C_Sign") > 10, "it has its part of the work")
    assert running.hsms["m3"].calls("C_Login") == 1
    said = running.hsmitm("hsm", "add", "m3", *option(third), status=EX_CONFIG)
    assert said == "hsmitm: a member 'm3' exists already; known are m1, m2, m3\n"
    load.more(10)
    process = running.pid("m1")
    assert running.hsmitm("hsm", "remove", "m1").splitlines() == [written, "member m1 removed"]
    assert running.states() == {"m2": "up", "m3": "up"}
    assert not alive(process)
    load.more(10)
    said = running.hsmitm("hsm", "remove", "m1", status=EX_CONFIG)
    assert said == "hsmitm: there is no member 'm1'; known are m2, m3\n"
    said = running.hsmitm("hsm", "remove", "m2", status=EX_CONFIG)
    assert said.endswith("high_availability: an HA group has at least two members; add one, or set it to false\n")
    assert running.states() == {"m2": "up", "m3": "up"}
    assert [line for line in running.toml.read_text().splitlines() if line.startswith("#")] == comments


def test_add_with_a_wrong_pin(running: HaSystem, load: Visits, third: dict[str, Any]) -> None:
    """F21, F22: A member that is added with a wrong PIN is quarantined after one login, whatever is asked of it, and is
    up after a reload once the file has the right one."""
    wrong = running.directory / "pin3"
    wrong.write_text("a-wrong-pin\n")
    wrong.chmod(0o600)
    done = hsmitm("hsm", "add", "m3", *option(third, "pin3"), "--config", str(running.toml))
    said = done.stdout
    assert done.returncode == EX_CONFIG
    assert "member m3 added: quarantined, CKR_PIN_INCORRECT (0xa0) while logging in to partition 'hsmitm' (" in said
    reset = running.hsmitm("hsm", "reset", "m3", status=EX_CONFIG)
    assert "the partition refused this PIN before; it is not tried again" in reset
    for command, told in ((["hsm", "reset"], "m3: not reset: "), (["reload"], "member m3: not changed: ")):
        done = hsmitm(*command, "--config", str(running.toml))
        assert (done.returncode, told in done.stdout) == (EX_CONFIG, True)
    assert running.hsms["m3"].calls("C_Login") == 1
    shutil.copyfile(running.directory / "pin", wrong)
    assert running.hsmitm("reload") == "member m3: it was quarantined and is up again\n"
    assert running.hsms["m3"].calls("C_Login") == 2
    assert running.states()["m3"] == "up"


@pytest.mark.parametrize(
    ("options", "status", "why"),
    [
        (["--pin-file", "pin"], EX_CONFIG, "name the partition by exactly one of token (its label), serial, slot"),
        (["--pin-file", "pin", "--token", "t", "--slot", "1"], EX_CONFIG, "name the partition by exactly one of"),
        (["--pin-file", "pin", "--token", "t", "--env", "X"], EX_CONFIG, "hsmitm: --env X: write NAME=VALUE"),
        (["--pin-file", "pin", "--token", "t", "--env", "=X"], EX_CONFIG, "hsmitm: --env =X: write NAME=VALUE"),
        (["--pin-file", "pin", "--token", "t", "--sessions", "0"], EX_CONFIG, "sessions: expected `int` >= 1"),
        (["--token", "t"], EX_USAGE, "Missing option '--pin-file'"),
    ],
)
def test_add_what_cannot_be(running: HaSystem, options: list[str], status: int, why: str) -> None:
    """A member that the configuration could not have is refused with the reason, and nothing is written."""
    before = running.toml.read_text()
    assert why in running.hsmitm("hsm", "add", "m3", *options, status=status)
    assert running.toml.read_text() == before
    assert set(running.states()) == {"m1", "m2"}


# --- reload -----------------------------------------------------------------------------------------------------------


def test_reload(running: HaSystem, load: Visits, kept: OpenConnection) -> None:
    """`hsmitm reload` takes over what was edited, says what it did, and costs no connection."""
    assert running.hsmitm("reload").startswith("nothing changed")
    with edited(running, sessions="6", auto_recovery_retry="3", attempt_timeout_ms="400"):
        members, times = running.hsmitm("reload").splitlines()
        assert re.fullmatch(r"member m1: new sessions in process \d+, 6 of them; the old ones are gone", members)
        assert times.startswith("[hsm] now: auto_recovery_retry 3, attempt_timeout_ms 400, request_budget_ms 1500, ")
        assert (running.of("m1").sessions_total, running.of("m2").sessions_total) == (6, 4)
        assert running.status().group.auto_recovery_retry == 3
        assert running.hsmitm("reload").startswith("nothing changed")
    assert running.status().group.auto_recovery_retry == 0
    assert running.states() == {"m1": "up", "m2": "up"}


def test_reload_of_what_needs_a_start(running: HaSystem) -> None:
    """A reload says of settings that it cannot take over that they wait for a start."""
    with edited(running, leaf_days="20"):
        said = running.hsmitm("reload")
        assert said == "[forward] leaf_days changed, and takes effect when hsmitm is started again\n"


def test_reload_of_a_wrong_configuration(running: HaSystem, load: Visits, kept: OpenConnection) -> None:
    """A reload of a wrong configuration names the field and changes nothing."""
    before = {name: running.pid(name) for name in ("m1", "m2")}
    text = running.toml.read_text()
    running.edit(auto_recovery_retry="900")
    try:
        said = running.hsmitm("reload", status=EX_CONFIG)
        assert said == "hsmitm: hsmitm.toml: hsm.auto_recovery_retry: expected `int` <= 500\n"
        assert running.process is not None
        running.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: "reload: nothing changed: hsmitm.toml: hsm.auto_recovery_retry: " in running.log, "it says so"
        )
    finally:
        running.toml.write_text(text)
    assert {name: running.pid(name) for name in ("m1", "m2")} == before


def test_hangup(running: HaSystem, load: Visits, kept: OpenConnection) -> None:
    """SIGHUP to `hsmitm run` does what `hsmitm reload` does, and the log has its lines; no process of it ends."""
    assert running.process is not None
    workers, (signer,) = running.worker_pids(), running.pids("proxy.main signer")
    running.edit(sessions="5")
    running.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: re.search(r"reload: member m1: new sessions in process \d+, 5 of them", running.log), "it is told"
    )
    running.edit(sessions="4")
    os.kill(signer, signal.SIGHUP)
    wait_until(
        lambda: re.search(r"reload: member m1: new sessions in process \d+, 4 of them", running.log), "and again"
    )
    for worker in workers:
        os.kill(worker, signal.SIGHUP)
    load.more(10)
    assert running.worker_pids() == workers
    assert running.pids("proxy.main signer") == [signer]


# --- without a running hsmitm -----------------------------------------------------------------------------------------


def test_nothing_runs(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> None:
    """Without a running hsmitm commands say so and how to start it; `add` and `remove` change the file all the same."""
    system = HaSystem.make_ha(tmp_path / "s", origin_ca.pem)
    for command in (["hsm", "status"], ["hsm", "info"], ["hsm", "reset"], ["reload"]):
        said = system.hsmitm(*command, status=EX_UNAVAILABLE)
        assert said.startswith(f"hsmitm: no signer listens at {system.config.run.path}/")
        assert said.endswith("; start one with 'hsmitm run'\n")
    written, later = system.hsmitm("hsm", "add", "m3", *option(system.member("m3"))).splitlines()
    assert written == f"{system.toml} is written"
    assert later.startswith("it takes effect at the next start: no signer listens at ")
    assert [one.name for one in system.config.file.hsm.members] == ["m1", "m2", "m3"]
    assert system.hsmitm("hsm", "remove", "m2").splitlines()[0] == written
    assert [one.name for one in system.config.file.hsm.members] == ["m1", "m3"]
