"""A worker that is taken over, in each way that workers are kept: a script in a real worker tries all it can.

As root, workers have a user of their own; or they are told to stay root, which leaves Landlock alone, as for anybody
who does not start hsmitm as root, which is the third way here.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.cage import kept
from proxy.demo.origin import OriginCA
from proxy.processes import quarters, reach
from proxy.processes.cage import Cage
from tests.integration.harness import HSMITM, OriginThread, System
from tests.waiting import wait_until

_ATTEMPTS = Path(__file__).with_name("attempts.py")
_SOMEBODY = 65432
"""A user who is not root and owns what the test gives it."""
_WAYS = ["own user", "root without a user", "somebody"] if os.geteuid() == 0 else ["somebody"]


class _Somebodys(System):
    """hsmitm of a user who is not root. Where we are root we become that user, in a view that shows it Python."""

    def start(self, *, wait: bool = True) -> System:
        if os.geteuid() != 0:
            return super().start(wait=wait)
        subprocess.run(["chown", "-R", str(_SOMEBODY), str(self.directory)], check=True)
        python = [str(one) for one in reach._python()]
        user = Cage(
            uid=_SOMEBODY, gid=_SOMEBODY, reads=[*reach.through(python), str(self.directory)], confined=False
        )  # fmt: skip
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                user.command([*HSMITM, self.command, "--config", str(self.toml)]),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.surroundings,
            )  # fmt: skip
        if wait:
            self.wait_ready()
        return self


@pytest.fixture(scope="module", params=_WAYS)
def caged(
    request: pytest.FixtureRequest, softhsm_module: str, tmp_path_factory: pytest.TempPathFactory, origin_ca: OriginCA
) -> Iterator[tuple[str, System]]:
    """How its workers are kept, and a running system whose worker has been taken over."""
    way = request.param
    directory = tmp_path_factory.mktemp("caged") / "s"
    place = directory / "flows"
    made = (_Somebodys if way == "somebody" else System).make(
        directory, workers="1", upstream_ca=origin_ca.pem, scripts='["attempts.py"]',
        worker_paths='["flows"]', worker_environment='["LD_PRELOAD", "TARGETS"]',
        **({"worker_user": '"root"'} if way == "root without a user" else {}),
    )  # fmt: skip
    (directory / "attempts.py").write_text(_ATTEMPTS.read_text())
    (directory / "sibling.py").write_text("WORD = 'imported'\n")
    (directory / "so-pin").write_text("left by an init of before\n")
    (directory / "so-pin").chmod(0o600)
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    made.environment = {"TARGETS": str(place / "targets.json"), "SECRET_TOKEN": "of the signer"}
    with made:
        yield way, made


def _targets(system: System) -> dict[str, Any]:
    base = system.directory
    (signer,) = system.pids("proxy.main signer")
    (member,) = system.pids("hsm.token.main")
    assert system.process is not None
    tokens = [one for one in (base / "softhsm").rglob("*") if one.is_file()]
    assert tokens
    code = Path(reach.__file__)
    return {
        "place": str(base / "flows"),
        "secrets": [str(one) for one in (base / "pin", base / "so-pin", base / "run" / "admin.token", *tokens[:2])],
        "hidden": ["/tmp", "/root", "/run"],
        "files": [str(base / "hsmitm.toml"), str(base / "attempts.py"), str(code), "/etc/hosts"],
        "directories": [str(base), str(base / "run"), str(base / "state"), str(code.parent), "/etc", "/dev/shm"],
        "processes": {"signer": signer, "member": member, "supervisor": system.process.pid},
        "admin": str(base / "run" / "admin.sock"),
        "disk": "/dev/mem",
    }


@pytest.fixture(scope="module")
def outcome(caged: tuple[str, System], origin: OriginThread) -> dict[str, Any]:
    """What the taken-over worker got."""
    _, system = caged
    targets = system.directory / "flows" / "targets.json"
    targets.write_text(json.dumps(_targets(system)))
    targets.chmod(0o644)
    reply = system.curl(f"http://cage.test:{origin.port}/")
    assert reply.ok, (reply, system.log)
    return json.loads(reply.body)


def test_a_worker_that_is_taken_over_gets_nothing(outcome: dict[str, Any]) -> None:
    """PINs, token files, others' memory, the admin socket, its own configuration and code: all that is refused."""
    got = {name: what for name, what in outcome["got"].items() if what}
    assert got == {}
    assert len(outcome["got"]) > 60


def test_a_script_can_still_work(outcome: dict[str, Any]) -> None:
    """Scripts write where the operator lets them, start programs, resolve names and import what stands beside them."""
    assert outcome["work"] == {"note": "x", "program": "1", "name": "127.0.0.1", "sibling": "imported"}


def test_who_a_worker_is(caged: tuple[str, System], outcome: dict[str, Any]) -> None:
    """As root, a worker is another user; one line at start says what keeps it, and which user it is."""
    way, system = caged
    if way == "own user":
        assert outcome["uid"] not in (0, os.geteuid())
        system.until_logged("of their own, no new privileges")
    else:
        assert outcome["uid"] == (os.geteuid() if way != "somebody" or os.geteuid() else _SOMEBODY)
        system.until_logged("workers: the signer's user, no new privileges, Landlock ABI")


def test_the_capabilities_are_gone(caged: tuple[str, System]) -> None:
    """Not even a worker that stays root has a capability; none of our processes gains rights by a program."""
    _, system = caged
    assert system.process is not None
    (worker,) = system.pids("proxy.processes.worker")
    said = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines())
    assert {said[one] for one in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    for pid in (system.process.pid, *system.pids("proxy."), *system.pids("hsm.token.main")):
        assert "\nNoNewPrivs:\t1\n" in Path(f"/proc/{pid}/status").read_text()


def test_a_process_of_the_same_user_sees_no_secret_in_memory(caged: tuple[str, System]) -> None:
    """Where the kernel has no Landlock, what runs as the signer's own user still cannot look into its processes."""
    way, system = caged
    if way != "somebody":
        return
    (signer,) = system.pids("proxy.main signer")
    (member,) = system.pids("hsm.token.main")
    cat = "import sys\nfor path in sys.argv[1:]:\n try: open(path, 'rb'); print(path)\n except PermissionError: pass"
    paths = [f"/proc/{pid}/{one}" for pid in (signer, member) for one in ("mem", "environ", "maps")]
    own = Cage(uid=_SOMEBODY, gid=_SOMEBODY, confined=False) if os.geteuid() == 0 else Cage(confined=False)
    done = subprocess.run(own.command(["/usr/bin/python3", "-c", cat, "/proc/self/mem", *paths]),
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "/proc/self/mem\n"


def test_the_command_line_still_asks(caged: tuple[str, System]) -> None:
    """`hsmitm status` shows the token that a worker cannot read; what was tried without it was logged."""
    way, system = caged
    assert system.status().workers
    if way != "own user":  # who is another user is refused before it can say a word
        wait_until(lambda: "on the admin socket: it has not shown the token" in system.log, "it is logged")


def test_the_demo_proves_it(caged: tuple[str, System], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo claims of a worker is true, and would be seen if it were not."""
    way, system = caged
    if way == "somebody" and os.geteuid() == 0:
        return  # the demo is run by the user who starts hsmitm, and here that is another one
    held, said = asyncio.run(kept(system.config, system.status()))
    assert held, said
    loose = quarters.Quarters(Cage(confined=False), "not kept at all", strong=True)
    monkeypatch.setattr(quarters, "choose", lambda *_, **__: loose)
    held, said = asyncio.run(kept(system.config, system.status()))
    assert not held
    assert f"but it read {system.directory / 'pin'}" in said


def test_a_worker_is_replaced_in_the_same_cage(caged: tuple[str, System], origin: OriginThread) -> None:
    """A worker that ends is started again as it was, and serves."""
    _, system = caged
    (victim,) = system.pids("proxy.processes.worker")
    os.kill(victim, 9)
    wait_until(lambda: system.worker_pids() - {victim}, "another takes its place")
    assert system.curl(f"http://cage.test:{origin.port}/").ok
