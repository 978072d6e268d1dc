"""Where a member's PIN comes from, and the PINs that a token refused. Read by the signer alone.

A PIN is never in the configuration's text, on a command line, in a log or in an error. A wrong one is tried exactly
once: `Refusals` remembers it on disk, as a salted scrypt digest, so that no restart of any process tries it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import signal
import stat
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from hsm.errors import MisconfiguredError, PinRefusedError

_COMMAND_TIMEOUT_S = 30
_DIGEST_DIGITS = 128
"""64 bytes of scrypt in hexadecimal."""


class PinSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of: a file of mode 0400 or 0600; an environment variable of the signer; a command whose first line of
    output is the PIN; a systemd credential (`LoadCredential=`); or a prompt on the terminal at start."""

    file: str | None = None
    env: str | None = None
    command: list[str] | None = None
    credential: str | None = None
    prompt: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError unless exactly one source is given."""
        given = [self.file, self.env, self.command, self.credential, self.prompt or None]
        if sum(source is not None for source in given) != 1:
            raise ValueError("give exactly one of file, env, command, credential, prompt")
        if self.command == []:
            raise ValueError("command: name the program to run, then its arguments")

    def __str__(self) -> str:
        """The source, for messages; never the PIN."""
        if self.file is not None:
            return f"file {self.file}"
        if self.env is not None:
            return f"environment variable {self.env}"
        if self.command is not None:
            return f"command {self.command[0]}"
        return f"systemd credential {self.credential}" if self.credential is not None else "prompt"


async def read(source: PinSource, base: Path, prompted: str | None = None) -> str:
    """The PIN that `source` gives; a file's path is relative to `base`. `prompted` is what a prompt got at start.

    Raises MisconfiguredError with what is wrong and what would be right.
    """
    if source.file is not None:
        pin = from_file(base / source.file)
    elif source.credential is not None:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise MisconfiguredError("a PIN from a systemd credential needs LoadCredential= in the unit that starts us")
        pin = from_file(Path(directory) / source.credential)
    elif source.env is not None:
        pin = os.environ.get(source.env, "")
    elif source.command is not None:
        pin = await _from_command(source.command)
    else:
        pin = prompted or ""
    if not pin:
        raise MisconfiguredError(f"the {source} gives no PIN")
    # What is not a line of text is a mistake of the source, and to try it would waste one of the partition's tries.
    if not pin.isprintable():  # a lone surrogate, from bytes that are not UTF-8, is not printable either
        raise MisconfiguredError(f"the {source} gives a PIN that is not one line of UTF-8 text")
    return pin


def from_file(path: Path) -> str:
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
        raise MisconfiguredError(f"the PIN command {command[0]} did not end in {_COMMAND_TIMEOUT_S} s") from error
    if process.returncode:
        raise MisconfiguredError(f"the PIN command {command[0]} ended with status {process.returncode}")
    return output.decode(errors="surrogateescape").partition("\n")[0].strip("\r")


class Refusals:
    """One file for each member whose last PIN was refused, in a directory of the signer's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make the directory. Raises MisconfiguredError."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MisconfiguredError(f"cannot make the state directory {self._directory}: {error.strerror}") from error

    def path(self, member: str) -> Path:
        """The file that remembers this member's refused PIN."""
        return self._directory / f"{member}.pin-refused"

    def check(self, member: str, pin: str) -> None:
        """Raise PinRefusedError where this very PIN was refused before. A different PIN is a new try.

        A file that cannot be read as one of ours raises MisconfiguredError: it may stand for a PIN that was refused.
        """
        path = self.path(member)
        try:
            salt, _, digest = path.read_text().strip().partition(":")
            same = len(digest) == _DIGEST_DIGITS and hmac.compare_digest(bytes.fromhex(digest), _digest(pin, salt))
            spoilt = len(digest) != _DIGEST_DIGITS
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            same, spoilt = False, True
        if spoilt:
            raise MisconfiguredError(
                f"cannot read {path}, which remembers a refused PIN; remove it when the PIN is right"
            )
        if same:
            raise PinRefusedError(
                f"the partition refused this PIN before; it is not tried again, because tries lock a partition. "
                f"Give the right PIN; if it was right after all, remove {path}"
            )

    def remember(self, member: str, pin: str) -> None:
        """Note on disk that the token refused this PIN: whole or not at all, whenever the machine stops."""
        salt = secrets.token_hex(16)
        path = self.path(member)
        unfinished = path.with_suffix(".new")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{salt}:{_digest(pin, salt).hex()}\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    def forget(self, member: str) -> None:
        """The token accepted a PIN."""
        self.path(member).unlink(missing_ok=True)


def _digest(pin: str, salt: str) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1)
