"""A member's PIN, read from where the configuration says: a file, a variable, a command, a credential or a prompt.

A PIN is never in the configuration's text, on a command line, in a log or in an error. Nothing here keeps one; those
that a token refused are remembered by `hsm.secrets.refusals`.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import stat
from contextlib import suppress
from pathlib import Path

from hsm.errors import MisconfiguredError, TryLaterError
from hsm.secrets.settings import PinSource

_COMMAND_TIMEOUT_S = 30


async def read(source: PinSource, base: Path, prompted: str | None = None) -> str:
    """The PIN that `source` gives; empty where it is said that there is none. A file's path is relative to `base`;
    `prompted` is what a prompt got at start.

    Raises MisconfiguredError with what is wrong and what would be right; TryLaterError where a command fails, for what
    that asks may be away, or not be there yet.
    """
    if source.empty or not source.remembered:
        return ""
    if source.file is not None:
        pin = _from_file(base / source.file)
    elif source.credential is not None:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise MisconfiguredError("a PIN from a systemd credential needs LoadCredential= in the unit that starts us")
        pin = _from_file(Path(directory) / source.credential)
    elif source.env is not None:
        pin = os.environ.get(source.env, "")
    elif source.command is not None:
        pin = await _from_command(source.command)
    else:
        pin = prompted or ""
    _check(pin, source)
    return pin


def ask(question: str) -> str:
    """What somebody types on the terminal, unseen. It is a prompt's PIN for `read`, which checks it.

    Raises MisconfiguredError.
    """
    try:
        return getpass.getpass(question)
    except UnicodeDecodeError:  # its message shows what could not be decoded
        raise MisconfiguredError("the PIN that was typed is not UTF-8 text") from None
    except EOFError:
        raise MisconfiguredError("no PIN was typed") from None


def _check(pin: str, source: PinSource) -> None:
    """Raise MisconfiguredError for what is no PIN but a mistake of the source: to try it would waste one of the
    partition's tries. Nothing of it is shown."""
    if not pin:
        raise MisconfiguredError(f"the {source} gives no PIN; an empty one is said by pin = {{ empty = true }}")
    if pin.isprintable():  # a lone surrogate, from bytes that are not UTF-8, is not printable
        return
    wrong = next((why for sign, why in _MISTAKES.items() if sign in pin), "it has bytes or characters that are none")
    raise MisconfiguredError(f"the {source} gives a PIN that is not one line of UTF-8 text: {wrong}")


_MISTAKES = {
    "\0": "it looks like UTF-16; save it as UTF-8 without a byte order mark",
    "\ufeff": "it begins with a byte order mark; save it without",
    "\n": "it has more than one line",
    "\r": "it has more than one line",
    "\t": "it has a tab",
}
"""What gives a mistake away, the most telling first."""


def _from_file(path: Path) -> str:
    """The PIN in a file that others cannot read. Raises MisconfiguredError."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise MisconfiguredError(f"the PIN file {path} is not a regular file")
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            raise MisconfiguredError(
                f"the PIN file {path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}); "
                f"run: chmod 600 {path}"
            )
        if found.st_mode & 0o007:
            raise MisconfiguredError(f"the PIN file {path} can be read by everybody; take that right away")
        return path.read_bytes().decode(errors="surrogateescape").strip("\r\n")
    except OSError as error:
        raise MisconfiguredError(f"cannot read the PIN file {path}: {error.strerror}") from error


async def _from_command(command: list[str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise MisconfiguredError(f"cannot run the PIN command {command[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too: they hold the pipe open
        await process.communicate()
        raise TryLaterError(f"the PIN command {command[0]} did not end in {_COMMAND_TIMEOUT_S} s") from error
    if process.returncode:
        raise TryLaterError(f"the PIN command {command[0]} ended with status {process.returncode}")
    return output.decode(errors="surrogateescape").partition("\n")[0].strip("\r")
