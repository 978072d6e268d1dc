"""Where a PIN comes from, and the PINs that a token refused."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hsm.errors import MisconfiguredError, PinRefusedError
from hsm.secrets import pin
from hsm.secrets.refusals import Refusals
from hsm.secrets.settings import PinSource

SECRET = "q4711-\u00fc\u00df z"


def pin_file(path: Path, content: bytes = f"{SECRET}\n".encode(), mode: int = 0o600) -> Path:
    """A file with a PIN."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def shell(script: str) -> PinSource:
    """A PIN command."""
    return PinSource(command=["sh", "-c", script])


def told(error: BaseException) -> str:
    """All that a log could show of `error`: its message, its causes' and the traceback."""
    return "".join(traceback.format_exception(error))


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that holds the PIN as a file and as a credential; the environment holds it too."""
    pin_file(tmp_path / "pin")
    pin_file(tmp_path / "read-only", mode=0o400)
    pin_file(tmp_path / "windows", f"{SECRET}\r\n".encode())
    pin_file(tmp_path / "bare", SECRET.encode())
    (tmp_path / "link").symlink_to("pin")
    (tmp_path / "credentials").mkdir()
    pin_file(tmp_path / "credentials" / "hsm-pin", mode=0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    monkeypatch.setenv("TEST_PIN", SECRET)
    return tmp_path


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        PinSource(file="pin"),
        PinSource(file="read-only"),
        PinSource(file="windows"),
        PinSource(file="bare"),
        PinSource(file="link"),
        PinSource(env="TEST_PIN"),
        PinSource(credential="hsm-pin"),
        PinSource(command=["printenv", "TEST_PIN"]),
        shell('printf "%s" "$TEST_PIN"'),
        shell('printf "%s\\r\\nanother line\\n" "$TEST_PIN"'),
        shell('cat; echo "$TEST_PIN"'),
        PinSource(prompt=True),
    ],
    ids=str,
)
async def test_reads(source: PinSource, base: Path) -> None:
    """Each source gives the PIN without its line end, spaces and letters beyond ASCII included."""
    assert await pin.read(source, base, SECRET if source.prompt else None) == SECRET


async def test_an_absolute_path_needs_no_base(base: Path) -> None:
    """A PIN file may be anywhere; only a relative path starts at the configuration."""
    assert await pin.read(PinSource(file=str(base / "pin")), Path("/nowhere")) == SECRET


BROKEN: dict[str, tuple[PinSource, Callable[[Path, pytest.MonkeyPatch], Any], str]] = {
    "mode 0644": (
        PinSource(file="pin"),
        lambda base, _: (base / "pin").chmod(0o644),
        r"can be read by others \(mode 0644\); run: chmod 600 .*/pin$",
    ),
    "mode 0640": (PinSource(file="pin"), lambda base, _: (base / "pin").chmod(0o640), r"mode 0640.*chmod 600"),
    "mode 0602": (PinSource(file="pin"), lambda base, _: (base / "pin").chmod(0o602), r"mode 0602.*chmod 600"),
    "another's, for everybody": (
        PinSource(file="pin"),
        lambda base, patch: (pin_file(base / "pin", mode=0o644), patch.setattr(os, "geteuid", lambda: os.getuid() + 1)),
        "can be read by everybody",
    ),
    "missing file": (PinSource(file="absent"), lambda *_: None, "cannot read the PIN file .*/absent: No such file"),
    "not a directory": (PinSource(file="pin/pin"), lambda *_: None, "cannot read the PIN file .*: Not a directory"),
    "directory": (PinSource(file="credentials"), lambda *_: None, "not a regular file"),
    "pipe": (PinSource(file="pipe"), lambda base, _: os.mkfifo(base / "pipe", 0o600), "not a regular file"),
    "not UTF-8": (
        PinSource(file="pin"),
        lambda base, _: pin_file(base / "pin", SECRET.encode("latin-1")),
        "UTF-8 text",
    ),
    "empty file": (PinSource(file="pin"), lambda base, _: pin_file(base / "pin", b""), "file pin gives no PIN"),
    "empty line": (PinSource(file="pin"), lambda base, _: pin_file(base / "pin", b"\r\n"), "file pin gives no PIN"),
    "no variable": (
        PinSource(env="TEST_PIN"),
        lambda _, patch: patch.delenv("TEST_PIN"),
        "environment variable TEST_PIN gives no PIN",
    ),
    "empty variable": (PinSource(env="TEST_PIN"), lambda _, patch: patch.setenv("TEST_PIN", ""), "gives no PIN"),
    "variable not UTF-8": (
        PinSource(env="TEST_PIN"),
        lambda *_: os.environb.update({b"TEST_PIN": SECRET.encode("latin-1")}),
        "UTF-8",
    ),
    "no credentials": (
        PinSource(credential="hsm-pin"),
        lambda _, patch: patch.delenv("CREDENTIALS_DIRECTORY"),
        "needs LoadCredential=",
    ),
    "other credentials": (PinSource(credential="other"), lambda *_: None, "credentials/other: No such file"),
    "no command": (PinSource(command=["no-such-program"]), lambda *_: None, "no-such-program: No such file"),
    "no permission": (PinSource(command=["/"]), lambda *_: None, "PIN command /: Permission denied"),
    "command fails": (shell('echo "$TEST_PIN"; exit 3'), lambda *_: None, "PIN command sh ended with status 3"),
    "command is killed": (shell('echo "$TEST_PIN"; kill -9 $$'), lambda *_: None, "ended with status -9"),
    "command is silent": (shell("exit 0"), lambda *_: None, "command sh gives no PIN"),
    "PIN on the second line": (shell('echo; echo "$TEST_PIN"'), lambda *_: None, "command sh gives no PIN"),
    "output not UTF-8": (shell(r"printf 'q4711-\374\337 z\n'"), lambda *_: None, "UTF-8"),
    "no answer": (PinSource(prompt=True), lambda *_: None, "prompt gives no PIN"),
}


@pytest.mark.parametrize(("source", "spoil", "why"), BROKEN.values(), ids=list(BROKEN))
async def test_refuses(
    source: PinSource,
    spoil: Callable[[Path, pytest.MonkeyPatch], object],
    why: str,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A source that gives no usable PIN stops the member with what to do, before a try is wasted; no PIN is shown."""
    spoil(base, monkeypatch)
    with pytest.raises(MisconfiguredError, match=why) as caught:
        await pin.read(source, base)
    assert "4711" not in told(caught.value)


async def test_a_file_of_another_user_may_be_shared_with_our_group(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PIN file that root owns and gives to the service's group is as good as one of our own."""
    pin_file(base / "pin", mode=0o640)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert await pin.read(PinSource(file="pin"), base) == SECRET


@pytest.mark.parametrize("script", ["exec sleep 9", "sleep 9; echo q4711", "sleep 9 | cat", "sleep 9 & echo q4711"])
async def test_a_command_that_hangs_is_ended(script: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PIN command that does not end in time is killed with all that it started, and holds up nothing longer."""
    monkeypatch.setattr(pin, "_COMMAND_TIMEOUT_S", 0.2)
    alive = base / "alive"  # a pipe that every process of the command holds open
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with asyncio.timeout(4):
            with pytest.raises(MisconfiguredError, match=r"PIN command sh did not end in 0\.2 s") as caught:
                await pin.read(shell(f"exec 9>{alive}; {script}"), base)
        assert "q4711" not in str(caught.value)
        assert select.select([reader], [], [], 4)[0], "a process of the command is still alive"
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"prompt": False},
        {"file": "pin", "env": "TEST_PIN"},
        {"file": "pin", "prompt": True},
        {"env": "TEST_PIN", "command": ["true"]},
        {"command": ["true"], "credential": "hsm-pin"},
        {"file": "pin", "env": "TEST_PIN", "command": ["true"], "credential": "hsm-pin", "prompt": True},
    ],
    ids=" ".join,
)
def test_a_source_is_exactly_one(given: dict[str, Any]) -> None:
    """No source, or two of them, is an error of the configuration that names the choices."""
    with pytest.raises(ValueError, match="exactly one of file, env, command, credential, prompt"):
        PinSource(**given)
    with pytest.raises(msgspec.ValidationError, match="exactly one of"):
        msgspec.convert(given, PinSource)


def test_a_command_needs_a_program() -> None:
    """An empty command is an error of the configuration, not of the member's start."""
    with pytest.raises(ValueError, match="command"):
        PinSource(command=[])


def test_a_pin_itself_is_no_source() -> None:
    """A PIN written into the configuration is refused as an unknown field, and the refusal does not repeat it."""
    with pytest.raises(msgspec.ValidationError, match="unknown field") as caught:
        msgspec.convert({"value": SECRET}, PinSource)
    assert "4711" not in str(caught.value)


# --- refused PINs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    """The signer's memory of refused PINs, new."""
    found = Refusals(tmp_path / "state" / "hsmitm")
    found.prepare()
    return found


def test_a_refused_pin_is_not_tried_again(refusals: Refusals, tmp_path: Path) -> None:
    """A PIN that a token refused is refused by us from then on, after a restart too; another PIN is a new try."""
    refusals.check("m1", SECRET)
    refusals.remember("m1", SECRET)
    for one in (refusals, Refusals(tmp_path / "state" / "hsmitm")):
        with pytest.raises(PinRefusedError, match=f"remove {one.path('m1')}") as caught:
            one.check("m1", SECRET)
        assert "4711" not in told(caught.value)
        one.check("m1", f"{SECRET}x")
        one.check("m2", SECRET)


def test_an_accepted_pin_clears_the_memory(refusals: Refusals) -> None:
    """Once the token accepts a PIN, or the operator removes the file, nothing is held against any PIN."""
    refusals.remember("m1", SECRET)
    refusals.forget("m1")
    refusals.check("m1", SECRET)
    assert not refusals.path("m1").exists()
    refusals.forget("m1")


def test_the_last_refused_pin_counts(refusals: Refusals) -> None:
    """After two wrong PINs the second one is refused; the file does not grow."""
    refusals.remember("m1", SECRET)
    size = refusals.path("m1").stat().st_size
    refusals.remember("m1", "0815")
    assert refusals.path("m1").stat().st_size == size
    refusals.check("m1", SECRET)
    with pytest.raises(PinRefusedError):
        refusals.check("m1", "0815")


def test_the_memory_gives_no_pin_away(refusals: Refusals) -> None:
    """The file is the signer's alone, holds no PIN, and says not even whether two members share one."""
    for member in ("m1", "m2"):
        refusals.remember(member, SECRET)
        assert stat.S_IMODE(refusals.path(member).stat().st_mode) == 0o600
        assert "4711" not in refusals.path(member).read_text()
    assert stat.S_IMODE(refusals.path("m1").parent.stat().st_mode) == 0o700
    assert refusals.path("m1").read_text() != refusals.path("m2").read_text()


def test_a_memory_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    """Without a place to remember refused PINs the signer does not start: a restart loop would lock the partition."""
    (tmp_path / "file").touch()
    with pytest.raises(MisconfiguredError, match=r"cannot make the state directory .*/file/state: Not a directory"):
        Refusals(tmp_path / "file" / "state").prepare()
    with pytest.raises(MisconfiguredError, match="cannot make the state directory"):
        Refusals(tmp_path / "file").prepare()


@pytest.mark.parametrize(
    "content",
    [b"", b"00", b"zz:11", "00:\u00e9".encode(), b"\xff\xfe:\xff", None],
    ids=["empty", "cut off", "no salt", "not ASCII", "binary", "directory"],
)
def test_a_memory_that_cannot_be_read_is_not_taken_for_none(refusals: Refusals, content: bytes | None) -> None:
    """A spoilt file may mean this very PIN: nothing is tried until the operator removed it."""
    path = refusals.path("m1")
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(MisconfiguredError, match=str(path)):
        refusals.check("m1", SECRET)
