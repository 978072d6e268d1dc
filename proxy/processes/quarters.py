"""Where workers live: as whom they run, and what keeps them from the keys. Decided at start, and tried before.

As root, workers get a user of their own, who cannot read what leads to a key. Otherwise they are of the signer's user,
and Landlock keeps them from its files. Every cage is tried with a real process: a container, an old kernel or a Python
in somebody's home can make any part of it impossible, and then the next best is taken, and said.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, structs

from hsm.errors import MisconfiguredError
from hsm.wire.run_directory import gid_of, user_name
from proxy.config.file import Config
from proxy.processes import landlock, reach
from proxy.processes.cage import Cage

PACKAGE_USER, ANYBODY = "hsmitm-proxy", "nobody"
"""The user that deploy/ has workers run as, where it exists; else one that owns nothing."""
_TRY_S = 20.0
_ETC = "/etc"
"""Where a PIN is in it, it is given entry by entry, and a resolv.conf that is replaced is another file than the one
that was given. A user of their own cannot read the PIN anyway."""
_LOW = 1024


class Quarters(Struct, frozen=True):
    """The cage of workers, in words, too. `strong` is whether a worker that is taken over is kept from the keys."""

    cage: Cage
    words: str
    strong: bool

    @property
    def user(self) -> str:
        """The user of workers, where they have one of their own; else empty."""
        return user_name(self.cage.uid) if self.cage.uid is not None else ""

    @property
    def hint(self) -> str:
        """For an operator whose script or option was refused a file."""
        whom = f" and '{self.user}' may, too" if self.user else ""
        return f"Where a file was refused to it: it reads and writes where [run] worker_paths says so{whom}"


def choose(config: Config, environment: dict[str, str], *, with_signer: bool) -> Quarters:
    """The strongest cage that this machine allows. Without the signer, which then stands elsewhere on this machine,
    workers become only a user whom it admits. Raises MisconfiguredError where the configuration asks for a user whom
    workers cannot be."""
    why = ""
    run = config.file.run
    user = worker_user(config) if os.geteuid() == 0 else None
    if user is not None and not with_signer and run.worker_user is None and user.pw_name not in run.users:
        user = None
    apart = not with_signer and _another_owns(config.run.path)
    for quarters in _candidates(config, environment, user, apart=apart):
        fault = _try(quarters.cage, environment)
        if not fault:
            return structs.replace(quarters, words=f"{quarters.words}{why}")
        if quarters.user and run.worker_user is not None:
            raise MisconfiguredError(
                f"run.worker_user: a worker cannot run as '{quarters.user}': {fault}. Let that user read what stands "
                "there, or leave worker_user away"
            )
        why = why or f" ({quarters.words.partition(',')[0]} is not possible: {fault})"
    raise MisconfiguredError(f"no worker can be started{why}")


def _candidates(
    config: Config, environment: dict[str, str], user: pwd.struct_passwd | None, *, apart: bool
) -> Iterator[Quarters]:
    """From the strongest to none. `apart` is whether the signer is another user's than we are."""
    version = landlock.abi()
    known = f"Landlock ABI {version}" if version else "no Landlock (not on this kernel, or not in this container)"
    plain = _cage(config, environment)
    ours = f"user {user_name(os.geteuid())}, who is not the signer's" if apart else "the signer's user"
    if user is not None and user.pw_uid != os.geteuid():
        groups = [gid_of(config.file.run.group)] if config.file.run.group else []
        own = structs.replace(plain, uid=user.pw_uid, gid=user.pw_gid, groups=groups, reads=[*plain.reads, _ETC])
        if version:
            yield Quarters(own, f"user {user.pw_name} of their own, no new privileges, {known}", strong=True)
        own = structs.replace(own, confined=False)
        yield Quarters(own, f"user {user.pw_name} of their own, no new privileges, {known}", strong=True)
    if version:
        yield Quarters(plain, f"{ours}, no new privileges, {known}", strong=True)
    plain = structs.replace(plain, confined=False)
    yield Quarters(plain, f"{ours}, no new privileges, {known}", strong=apart)


def _another_owns(directory: Path) -> bool:
    try:
        return directory.stat().st_uid != os.geteuid()
    except OSError:
        return False


def of_page(config: Config, environment: dict[str, str], workers: Cage | None = None) -> Cage:
    """The cage of the status page's process: as `[status] user`, else as the user of `workers`, if we may choose."""
    found = reach.of_page(config, environment)
    cage = Cage(
        reads=sorted(reach.through(found.reads)),
        lists=found.lists,
        reaches=[str(config.run.path)],
        low_ports=config.status_listen is not None and 0 < config.status_listen.port < _LOW,
        confined=landlock.abi() > 0,
    )
    if workers is not None and workers.uid is not None:
        cage = structs.replace(cage, uid=workers.uid, gid=workers.gid, groups=workers.groups)
    if config.file.status.user is not None and os.geteuid() == 0:
        user = pwd.getpwnam(config.file.status.user)  # looked up when the configuration was read
        groups = [gid_of(config.run.group)] if config.run.group else []
        cage = structs.replace(cage, uid=user.pw_uid, gid=user.pw_gid, groups=groups)
    if workers is not None and cage.uid == workers.uid:  # that one was tried
        return structs.replace(cage, confined=workers.confined)
    return structs.replace(cage, confined=False) if _try(cage, environment) else cage


def worker_user(config: Config) -> pwd.struct_passwd | None:
    """Whom workers become when we are root; None where that is root itself. Raises MisconfiguredError."""
    for name in (config.file.run.worker_user,) if config.file.run.worker_user else (PACKAGE_USER, ANYBODY):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    if config.file.run.worker_user:
        raise MisconfiguredError(f"run.worker_user: there is no user '{config.file.run.worker_user}' on this machine")
    return None


def _cage(config: Config, environment: dict[str, str]) -> Cage:
    found = reach.of_worker(config, environment)
    writes = [str(config.base / one) for one in config.file.run.worker_paths]
    listening = [*config.inbound, *([config.listen] if config.listen else [])]
    return Cage(
        reads=sorted(reach.through(found.reads)),
        lists=found.lists,
        writes=writes,
        reaches=[str(config.run.path)],
        low_ports=any(0 < one.port < _LOW for one in listening),
        confined=landlock.abi() > 0,
    )


def _try(cage: Cage, environment: dict[str, str]) -> str:
    """Why nothing runs in it; empty where it does. What a worker imports is imported, but for what costs time."""
    program = [sys.executable, "-P", "-c", "import ssl, msgspec, proxy.processes.supervised"]
    try:
        done = subprocess.run(
            cage.command(program), env=environment, capture_output=True, text=True, timeout=_TRY_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.strip().rpartition("\n")[2].removeprefix("hsmitm cage: ")
    return "" if done.returncode == 0 else said or f"it ended with status {done.returncode}"
