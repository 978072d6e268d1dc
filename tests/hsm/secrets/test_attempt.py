"""One try of a PIN, noted before it is made: what is left when we are killed, or the disk is full, at any moment."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hsm.errors import LoginError, PinRefusedError, TryLaterError
from hsm.secrets.refusals import Refusals
from tests.hsm.secrets.secret import SECRET
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
TRY = """
import resource, sys, time
from pathlib import Path
from hsm.secrets.refusals import Refusals
from tests.hsm.secrets.secret import SECRET

def full():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

refusals = Refusals(Path(sys.argv[1]))
"""
"""How each child begins. Under `full` no file grows, and none that has content is written again: as on a full disk."""


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    """The signer's memory of refused PINs, new."""
    found = Refusals(tmp_path)
    found.prepare()
    return found


def child(directory: Path, script: str) -> subprocess.Popen[bytes]:
    """A process that does something with a PIN's try."""
    return subprocess.Popen([sys.executable, "-c", TRY + script, str(directory)], cwd=ROOT, stderr=subprocess.PIPE)


def done(directory: Path, script: str) -> str:
    """Wait for a child's end; its error, if it has one."""
    process = child(directory, script)
    _, errors = process.communicate(timeout=20)
    return errors.decode()


def test_who_is_killed_in_a_try_has_noted_it(refusals: Refusals, tmp_path: Path) -> None:
    """A process that is killed in the middle of a login leaves the note, and nobody waits for it any more."""
    process = child(
        tmp_path, "attempt = refusals.begin('m1', SECRET)\nPath(sys.argv[1], 'begun').touch()\ntime.sleep(60)"
    )
    wait_until((tmp_path / "begun").exists, "the PIN is tried")
    with pytest.raises(TryLaterError, match="another process of hsmitm tries this member's PIN"):
        refusals.begin("m1", SECRET)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    refusals.begin("m1", SECRET).close()
    with pytest.raises(LoginError, match="2 logins with"):
        refusals.check("m1", SECRET)


def test_nothing_is_tried_that_cannot_be_noted(refusals: Refusals, tmp_path: Path) -> None:
    """On a full disk, or where we may not write, no PIN is tried; once there is room it is, as for the first time."""
    assert "TryLaterError: the PIN is not tried" in done(tmp_path, "full()\nrefusals.begin('m1', SECRET)")
    assert list(tmp_path.iterdir()) == []
    refusals.check("m1", SECRET)
    with pytest.raises(TryLaterError, match=r"cannot be noted in .*absent/m1.pin-tried before it: No such file"):
        Refusals(tmp_path / "absent").begin("m1", SECRET)


def test_a_refusal_needs_no_room(refusals: Refusals, tmp_path: Path) -> None:
    """A disk that fills up under a login makes nobody forget that the PIN was refused."""
    assert done(tmp_path, "attempt = refusals.begin('m1', SECRET)\nfull()\nattempt.refused()") == ""
    with pytest.raises(PinRefusedError, match="refused this PIN before"):
        refusals.check("m1", SECRET)


def test_an_unclear_answer_on_a_full_disk_is_taken_for_a_refusal(refusals: Refusals, tmp_path: Path) -> None:
    """Where it cannot be noted that an answer was unclear, the PIN is held as strictly as a refused one."""
    assert done(tmp_path, "attempt = refusals.begin('m1', SECRET)\nfull()\nattempt.unclear('why')") == ""
    with pytest.raises(PinRefusedError, match="refused this PIN before"):
        refusals.check("m1", SECRET, asked=True)


def test_success_needs_no_room(refusals: Refusals, tmp_path: Path) -> None:
    """A disk that fills up under a login does not hold a good PIN."""
    assert done(tmp_path, "attempt = refusals.begin('m1', SECRET)\nfull()\nattempt.accepted()") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_that_cannot_be_named_so_is_still_a_try(
    refusals: Refusals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the directory cannot be changed under a login, the note stands: one more try at most."""

    def refuse(_path: Path, _name: Path) -> Path:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "replace", refuse)
    for _ in range(2):
        attempt = refusals.begin("m1", SECRET)
        attempt.refused()
        attempt.close()
    with pytest.raises(LoginError, match="2 logins with"):
        refusals.check("m1", SECRET)


def test_a_note_that_nothing_was_written_into_is_none(refusals: Refusals) -> None:
    """A machine that stopped between making the file and writing it has not tried the PIN."""
    refusals.tried_path("m1").touch(0o600)
    refusals.check("m1", SECRET)
    attempt = refusals.begin("m1", SECRET)
    assert attempt.before is None
    attempt.close()


def test_a_file_system_without_locks_is_good_enough(refusals: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has no locks, or cannot write a directory out, a try is noted all the same."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    attempt = refusals.begin("m1", SECRET)
    attempt.refused()
    attempt.close()
    with pytest.raises(PinRefusedError):
        refusals.check("m1", SECRET)


def test_a_link_is_not_followed(refusals: Refusals, tmp_path: Path) -> None:
    """Whatever stands in the place of the note, no other file is written."""
    (tmp_path / "other").write_text("content")
    refusals.tried_path("m1").symlink_to(tmp_path / "other")
    with pytest.raises(TryLaterError, match="cannot be noted"):
        refusals.begin("m1", "0815")
    assert (tmp_path / "other").read_text() == "content"


def test_the_note_is_our_own(refusals: Refusals) -> None:
    """Others cannot read the note of a try, and it does not have the PIN."""
    attempt = refusals.begin("m1", SECRET)
    path = refusals.tried_path("m1")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "4711" not in path.read_text()
    assert not os.get_inheritable(attempt._file)
    attempt.close()
