"""A supervised process's life, with small real processes; and the guard that only one supervisor holds."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest

from hsm.backoff import Backoff
from hsm.errors import MisconfiguredError
from proxy.processes import child
from proxy.processes.child import EX_CONFIG, Child, Guard
from tests.waiting import until

_READY = """
import os, sys
os.write(int(sys.argv[sys.argv.index("--ready-fd") + 1]), b"1")
"""
_SERVE = "sys.stdin.read()\n"
"""Until the supervisor ends."""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A file where children write what they saw."""
    path = tmp_path / "notes"
    path.touch()
    return path


def _child(code: str, *, environment: dict[str, str] | None = None, first_line: str = "") -> Child:
    argv = [sys.executable, "-I", "-S", "-c", code]
    return Child("worker 1", argv, dict(os.environ) if environment is None else environment, first_line)


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


# the guard


async def test_one_supervisor_for_each_configuration(tmp_path: Path) -> None:
    """A second `hsmitm run` with the same file is refused, one with another file is not, and the next one may run."""
    guard = Guard(tmp_path / "hsmitm.toml")
    assert guard.holder() == 0
    with guard.hold():
        assert guard.holder() == Guard(tmp_path / "hsmitm.toml").holder() == os.getpid()
        assert Guard(tmp_path / "other.toml").holder() == 0
        with pytest.raises(MisconfiguredError, match="hsmitm runs already with this configuration; stop"):
            Guard(tmp_path / "hsmitm.toml").hold()
        with Guard(tmp_path / "other.toml").hold():
            pass
    assert guard.holder() == 0
    guard.hold().close()


_SUPERVISOR = """
import sys
from pathlib import Path
from proxy.processes.child import Guard

held = Guard(Path(sys.argv[1])).hold()
print("held", flush=True)
sys.stdin.read()
"""
_ORPHAN = """
import asyncio, sys
from pathlib import Path
from proxy.processes.child import orphaned

async def main():
    leave = asyncio.Event()
    print(await orphaned(Path(sys.argv[-1]), leave.set), flush=True)
    await leave.wait()
    print("left", flush=True)

asyncio.run(main())
"""


@contextmanager
def _started(code: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """Another process of ours, killed afterwards."""
    command = [sys.executable, "-P", "-c", code, *argv]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().rstrip("\n")


@contextmanager
def _orphan(config: Path) -> Iterator[subprocess.Popen[str]]:
    """A supervised child that has its first line; we are its supervisor until we close its standard input."""
    with _started(_ORPHAN, "--supervised", str(config)) as process:
        assert process.stdin is not None
        process.stdin.write("first line\n")
        process.stdin.flush()
        assert _line(process.stdout) == "first line"
        yield process


def _stays(process: subprocess.Popen[str], polls: float = 3) -> bool:
    """Whether the process is still there after a number of its looks at the guard."""
    try:
        process.wait(polls * child._GUARD_POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def test_a_killed_supervisor_holds_nothing(tmp_path: Path) -> None:
    """After a SIGKILL of the supervisor `hsmitm run` can start at once: no lock file stays behind."""
    path = tmp_path / "hsmitm.toml"
    with _started(_SUPERVISOR, str(path)) as other:
        assert _line(other.stdout) == "held"
        assert Guard(path).holder() == other.pid
        other.kill()
        other.wait()
        assert Guard(path).holder() == 0
        Guard(path).hold().close()
    assert list(tmp_path.iterdir()) == []


# in the child


def test_a_child_outlives_its_supervisor_until_there_is_a_new_one(tmp_path: Path) -> None:
    """A killed supervisor stops nobody's traffic: its children serve on, are seen as orphans, and make room for the
    next supervisor."""
    path = tmp_path / "hsmitm.toml"
    with _orphan(path) as orphan:
        assert child.orphans(path)
        assert not child.orphans(tmp_path / "other.toml")
        assert orphan.stdin is not None
        orphan.stdin.close()
        assert _line(orphan.stderr) == "the supervisor is gone; serving on until 'hsmitm run' is started again"
        assert _stays(orphan)
        with _started(_SUPERVISOR, str(path)) as following:
            assert _line(following.stdout) == "held"
            assert _line(orphan.stdout) == "left"
            assert orphan.wait(10) == 0
    assert not child.orphans(path)


def test_a_supervisor_on_its_way_out_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    """The kernel closes a killed supervisor's files one by one: children that see their pipe end while its guard is
    still there must serve on."""
    path = tmp_path / "hsmitm.toml"
    guard = Guard(path).hold()
    with guard, _orphan(path) as orphan:
        assert orphan.stdin is not None
        orphan.stdin.close()
        assert _line(orphan.stderr) == "the supervisor is gone; serving on until 'hsmitm run' is started again"
        assert _stays(orphan, 0.5), "it left though nobody takes over"
        guard.close()
        assert _stays(orphan), "it left though nobody takes over"


def test_serving_is_told_once() -> None:
    """A child that serves tells its supervisor with one byte and closes the line; without a supervisor it is silent."""
    reading, writing = os.pipe()
    child.tell_ready(None)
    child.tell_ready(writing)
    assert os.read(reading, 10) == b"1"
    assert os.read(reading, 10) == b"", "the line is still open"
    os.close(reading)
