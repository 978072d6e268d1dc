"""Where a PIN comes from: each source, and what is wrong with one that gives none."""

from __future__ import annotations

import asyncio
import getpass
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsm.errors import MisconfiguredError, TryLaterError
from hsm.secrets import pin
from hsm.secrets.settings import PinSource
from tests.hsm.secrets.secret import SECRET, told


def pin_file(path: Path, content: bytes = f"{SECRET}\n".encode(), mode: int = 0o600) -> Path:
    """A file with a PIN."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def shell(script: str) -> PinSource:
    """A PIN command."""
    return PinSource(command=["sh", "-c", script])


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


@pytest.mark.parametrize("source", [PinSource(empty=True), PinSource(pad=True), PinSource(none=True)], ids=str)
async def test_that_there_is_none_is_said(source: PinSource, base: Path) -> None:
    """Where the configuration says that there is no PIN to read, none is looked for."""
    assert await pin.read(source, base / "absent") == ""


def test_what_is_typed_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no text, or the end of the terminal, are told without any of what was typed."""
    for typed, why in ((SECRET.encode("latin-1"), "not UTF-8 text"), (None, "no PIN was typed")):

        def answer(_question: str, typed: bytes | None = typed) -> str:
            if typed is None:
                raise EOFError
            return typed.decode()

        monkeypatch.setattr(getpass, "getpass", answer)
        with pytest.raises(MisconfiguredError, match=why) as caught:
            pin.ask("PIN: ")
        assert "4711" not in told(caught.value)
        assert "0xfc" not in told(caught.value)


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
    "byte order mark": (
        PinSource(file="pin"),
        lambda base, _: pin_file(base / "pin", f"\ufeff{SECRET}\n".encode()),
        "begins with a byte order mark",
    ),
    "UTF-16": (
        PinSource(file="pin"),
        lambda base, _: pin_file(base / "pin", f"{SECRET}\n".encode("utf-16")),
        "looks like UTF-16; save it as UTF-8",
    ),
    "UTF-16 without a mark": (
        PinSource(file="pin"),
        lambda base, _: pin_file(base / "pin", f"{SECRET}\r\n".encode("utf-16-be")),
        "looks like UTF-16",
    ),
    "two lines": (
        PinSource(file="pin"),
        lambda base, _: pin_file(base / "pin", f"{SECRET}\r\n{SECRET}\n".encode()),
        "more than one line",
    ),
    "a tab": (
        PinSource(credential="hsm-pin"),
        lambda base, _: (
            (base / "credentials" / "hsm-pin").chmod(0o600)
            or pin_file(base / "credentials" / "hsm-pin", f"{SECRET}\t\n".encode())
        ),
        "it has a tab",
    ),
    "a control character": (
        PinSource(file="pin"),
        lambda base, _: pin_file(base / "pin", f"{SECRET}\x1b[0m".encode()),
        "bytes or characters that are none",
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


@pytest.mark.parametrize(("script", "status"), [("exit 3", "3"), ("kill -9 $$", "-9")])
async def test_a_command_that_fails(script: str, status: str, base: Path) -> None:
    """A PIN command that fails is run again later: what it asks may be away, or not be there yet; no PIN is shown."""
    with pytest.raises(TryLaterError, match=f"PIN command sh ended with status {status}") as caught:
        await pin.read(shell(f'echo "$TEST_PIN"; {script}'), base)
    assert "4711" not in told(caught.value)


async def test_a_file_of_another_user_may_be_shared_with_our_group(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PIN file that root owns and gives to the service's group is as good as one of our own."""
    pin_file(base / "pin", mode=0o640)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert await pin.read(PinSource(file="pin"), base) == SECRET


@pytest.mark.parametrize("script", ["exec sleep 9", "sleep 9; echo q4711", "sleep 9 | cat", "sleep 9 & echo q4711"])
async def test_a_command_that_hangs_is_ended(script: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PIN command that does not end in time is killed with all that it started, and run again later."""
    monkeypatch.setattr(pin, "_COMMAND_TIMEOUT_S", 0.2)
    alive = base / "alive"  # a pipe that every process of the command holds open
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with asyncio.timeout(4):
            with pytest.raises(TryLaterError, match=r"PIN command sh did not end in 0\.2 s") as caught:
                await pin.read(shell(f"exec 9>{alive}; {script}"), base)
        assert "q4711" not in str(caught.value)
        assert select.select([reader], [], [], 4)[0], "a process of the command is still alive"
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
