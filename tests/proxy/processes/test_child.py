"""A supervised process's life, with small real processes: its start, its hanging, its end."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hsm.backoff import Backoff
from proxy.config.operation import RunSection
from proxy.processes import child, supervisor
from proxy.processes.child import Child
from proxy.processes.supervised import EX_CONFIG
from tests.waiting import until

_READY = """
import os, sys
os.write(int(sys.argv[sys.argv.index("--ready-fd") + 1]), b"1")
"""
_SERVE = "sys.stdin.read()\n"
"""Until the supervisor ends."""
_BEAT = """
import os, sys, threading
fd = int(sys.argv[sys.argv.index("--ready-fd") + 1])
stopped = threading.Event()
def beat():
    while True:
        os.write(fd, b".")
        stopped.wait(0.05)
os.write(fd, b".")
threading.Thread(target=beat, daemon=True).start()
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A file where children write what they saw."""
    path = tmp_path / "notes"
    path.touch()
    return path


def _child(code: str, *, environment: dict[str, str] | None = None, first_line: str = "", hang_s: float = 0.0) -> Child:
    argv = [sys.executable, "-I", "-S", "-c", code]
    return Child("worker 1", argv, dict(os.environ) if environment is None else environment, first_line, hang_s)


def _noting(notes: Path, text: str = "x") -> str:
    """Code that adds `text` to the notes."""
    return f"open({str(notes)!r}, 'a').write({text!r})\n"


@asynccontextmanager
async def _running(one: Child) -> AsyncIterator[asyncio.Task[None]]:
    """`one.run()` as the supervisor runs it; whatever is left of the process is gone afterwards."""
    task = asyncio.create_task(one.run())
    try:
        yield task
    finally:
        await one.stop(0.1)
        await asyncio.wait([task], timeout=1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if one.process is not None and one.process.returncode is None:
            one.process.kill()
            await one.process.wait()


async def _ready(one: Child) -> int:
    """Wait until the child says that it serves. Returns its pid."""
    await until(one.ready.is_set, "the child did not become ready")
    assert one.process is not None
    return one.process.pid


def _open_pipes() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that reads this directory
            found += descriptor.readlink().name.startswith("pipe:")
    return found


# its life


async def test_a_child_says_when_it_serves() -> None:
    """`hsmitm run` waits for each process: a child is ready when it says so, not when it was started."""
    one = _child(_READY + _SERVE)
    assert not one.ready.is_set()
    async with _running(one):
        pid = await _ready(one)
        assert os.getsid(pid) == pid, "a Ctrl-C of the terminal must not reach it past the supervisor"


async def test_a_child_that_only_lives_is_not_ready(notes: Path) -> None:
    """A process that was started and closes its line without a word does not count as serving."""
    close = 'import os, sys\nos.close(int(sys.argv[sys.argv.index("--ready-fd") + 1]))\n'
    one = _child(close + _noting(notes) + _SERVE)
    async with _running(one) as running:
        await until(notes.read_text, "the child did not begin")
        assert not one.ready.is_set()
        assert not running.done()


async def test_what_a_prompt_got_goes_through_standard_input_alone(notes: Path) -> None:
    """A PIN is the first line of the child's standard input; its command line and its environment do not have it."""
    code = f"import sys\nopen({str(notes)!r}, 'w').write(sys.stdin.readline())\n"
    one = _child(code + _READY + _SERVE, environment={"ONLY": "this"}, first_line='{"m1": "4711"}')
    async with _running(one):
        process = Path(f"/proc/{await _ready(one)}")
        assert notes.read_text() == '{"m1": "4711"}\n'
        argv, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        assert b"--supervised" in argv.split(b"\0")
        assert b"ONLY=this" in environment.split(b"\0")
        assert b"4711" not in argv + environment


async def test_a_child_that_ends_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that was killed is there again in a moment, not ready in between, and one line says what happened."""
    one = _child(_READY + _SERVE)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one):
            first = await _ready(one)
            os.kill(first, signal.SIGKILL)
            await until(lambda: not one.ready.is_set(), "its end was not noticed")
            assert await _ready(one) != first
    assert caplog.messages[0] == "worker 1 was killed by SIGKILL; starting it again in 0.1 s"


async def test_a_child_that_keeps_ending_is_started_less_and_less_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that crashes at once is tried again after longer and longer pauses, up to a limit."""
    monkeypatch.setattr(child, "_BACKOFF", Backoff(0.1, 0.3))
    one = _child("raise SystemExit(3)")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one):
            await until(lambda: len(caplog.messages) == 3, "it was not started a third time")
    assert caplog.messages == [
        f"worker 1 ended with status 3; starting it again in {pause} s" for pause in (0.1, 0.2, 0.3)
    ]


async def test_a_child_that_served_for_long_is_started_again_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crashes that are far apart do not add up to longer and longer pauses."""
    monkeypatch.setattr(child, "_BACKOFF_RESET_S", 0.0)
    one = _child("raise SystemExit(3)")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one):
            await until(lambda: len(caplog.messages) == 3, "it was not started a third time")
    assert caplog.messages == ["worker 1 ended with status 3; starting it again in 0.1 s"] * 3


async def test_a_wrong_configuration_ends_it_for_good(notes: Path) -> None:
    """A child that finds its configuration wrong is not started again: `hsmitm run` ends with its reason."""
    one = _child(_noting(notes) + f"raise SystemExit({EX_CONFIG})")
    async with _running(one) as running:
        async with asyncio.timeout(10):
            assert await one.ended_for_good == EX_CONFIG
            await running
    assert notes.read_text() == "x"


async def test_a_configuration_that_became_wrong_does_not(caplog: pytest.LogCaptureFixture) -> None:
    """A child that served before is started again, whatever status it ends with: the fault may pass."""
    one = _child(_READY + f"raise SystemExit({EX_CONFIG})")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one):
            await until(lambda: len(caplog.messages) == 2, "it was not started again")
            assert not one.ended_for_good.done()


async def test_a_child_that_ended_at_once_had_served(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a child may have ended before anybody looks; what it said before counts all the same."""
    start = asyncio.create_subprocess_exec

    async def start_late(*argv: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*argv, **options)
        await process.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_late)
    one = _child(_READY + f"raise SystemExit({EX_CONFIG})")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one) as running:
            await until(lambda: caplog.messages or running.done(), "its end was not noticed")
    assert caplog.messages[0] == f"worker 1 ended with status {EX_CONFIG}; starting it again in 0.1 s"


@pytest.mark.parametrize("at_once", [False, True], ids=["soon", "at once"])
async def test_lives_leave_nothing_open(
    at_once: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that starts a crashing child a thousand times keeps no descriptor of it, however soon it ends."""
    monkeypatch.setattr(child, "_BACKOFF", Backoff(0.0, 5.0))
    really = asyncio.create_subprocess_exec

    async def start(*argv: Any, **more: Any) -> asyncio.subprocess.Process:
        process = await really(*argv, **more)
        if at_once:  # as it comes about by chance with a program that ends in a millisecond
            await process.wait()
        return process

    monkeypatch.setattr(child.asyncio, "create_subprocess_exec", start)
    one = _child("")
    before, of_one_life = _open_pipes(), 6
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one):
            await until(lambda: len(caplog.messages) >= 20, "it was not started again", timeout_s=30)
            monkeypatch.setattr(child, "_BACKOFF", Backoff(5.0, 5.0))
            await until(lambda: caplog.messages[-1].endswith("in 5.0 s"), "it did not end once more")
            await until(lambda: _open_pipes() <= before + of_one_life, "pipes of ended lives stay open", timeout_s=2)


# its end


async def test_stop_lets_a_child_end_by_itself(notes: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is told to stop finishes what it has begun, and is not started again."""
    finishing = (
        f"import signal\nsignal.signal(signal.SIGTERM, lambda *_: (open({str(notes)!r}, 'a').write('bye'), exit()))\n"
    )
    one = _child(finishing + _READY + _SERVE)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one) as running:
            await _ready(one)
            await one.stop(10)
            async with asyncio.timeout(10):
                await running
    assert notes.read_text() == "bye"
    assert caplog.messages == []


async def test_stop_kills_a_child_that_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    """A hung worker does not keep `hsmitm run` from ending: it is killed when its time is over, and a line says so."""
    one = _child("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + _READY + _SERVE)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one) as running:
            await _ready(one)
            await one.stop(0.1)
            assert one.process is not None
            assert one.process.returncode == -signal.SIGKILL
            async with asyncio.timeout(10):
                await running
    assert caplog.messages == ["worker 1 did not end within 0.1 s; killing it"]


async def test_stop_before_the_start_and_twice_is_nothing() -> None:
    """Ending a child that never began, or that was ended, waits for nothing."""
    never = _child("")
    await never.stop(10)
    one = _child(_READY + _SERVE)
    async with _running(one):
        await _ready(one)
        await one.stop(10)
        await one.stop(10)
        assert one.process is not None
        assert one.process.returncode == -signal.SIGTERM


async def test_stop_between_two_lives_starts_no_third(notes: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that has crashed and waits to be started again is not started any more once hsmitm stops: it would
    serve on without a supervisor."""
    one = _child(_noting(notes) + "raise SystemExit(3)")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one) as running:
            await until(lambda: caplog.messages, "it did not end")
            await one.stop(10)
            await asyncio.wait([running], timeout=1)
            assert notes.read_text() == "x", "it was started after the stop"
            assert running.done()


# its hanging


_STEP_S = 0.05


@asynccontextmanager
async def _watching(*children: Child) -> AsyncIterator[list[float]]:
    """Look at them as the supervisor does. The answer grows by each look."""
    looks: list[float] = []

    async def look() -> None:
        while True:
            await asyncio.sleep(_STEP_S)
            looks.append(_STEP_S)
            for one in children:
                one.watch(_STEP_S)

    task = asyncio.create_task(look())
    try:
        yield looks
    finally:
        task.cancel()


async def test_a_child_that_hangs_is_killed_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is stopped, so that it gives no sign of life, does not keep its connections waiting for ever."""
    one = _child(_BEAT + _READY + _SERVE, hang_s=0.5)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one), _watching(one):
            first = await _ready(one)
            os.kill(first, signal.SIGSTOP)
            await until(lambda: not one.ready.is_set(), "it was not killed")
            assert await _ready(one) != first
    assert caplog.messages[:2] == [
        "worker 1 hangs: no sign of life for 0.5 s; killing it",
        "worker 1 was killed by SIGKILL; starting it again in 0.1 s",
    ]


async def test_a_child_that_lives_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Signs of life keep a process, and so does one that never gave any: it is of a version before."""
    living, silent = _child(_BEAT + _READY + _SERVE, hang_s=0.5), _child(_READY + _SERVE, hang_s=0.5)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(living), _running(silent), _watching(living, silent) as looks:
            pids = await _ready(living), await _ready(silent)
            await until(lambda: sum(looks) > 1.2, "nobody looks")
            assert pids == (await _ready(living), await _ready(silent))
    assert caplog.messages == []


async def test_a_child_with_a_debugger_is_not_killed(caplog: pytest.LogCaptureFixture) -> None:
    """Who looks at a hung worker with a debugger is not robbed of it."""
    one = _child(_BEAT + _READY + _SERVE, hang_s=0.2)
    libc = ctypes.CDLL(None, use_errno=True)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        async with _running(one):
            pid = await _ready(one)
            await until(lambda: one._silent_s >= 0, "it gave no sign of life")
            assert libc.ptrace(0x4206, pid, 0, 0) == 0, os.strerror(ctypes.get_errno())  # PTRACE_SEIZE
            one.watch(1.0)
            assert caplog.messages == ["worker 1 hangs, and is left alone: a debugger looks at it"]
            os.kill(pid, 0)


def test_a_wait_of_the_whole_machine_is_nobodys_fault() -> None:
    """After a virtual machine was suspended for an hour the supervisor has seen a second of it, and kills nobody."""
    assert supervisor.seen_s(100.0, 100.6) == pytest.approx(0.6)
    assert supervisor.seen_s(100.0, 3700.0) <= RunSection().hang_timeout_s / 5
