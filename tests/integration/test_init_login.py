"""`hsmitm init` and `hsmitm check` log in as the signer does: the same PINs are accepted, and each is tried once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import subprocess
from pathlib import Path

import pytest

from bench.rig.quirks_module import QuirksModule
from tests.integration.harness import HSMITM, hsmitm
from tests.softhsm import MODULE, PIN, Store, make_store

WRONG = "wrong-4711-pin"


@pytest.fixture
def store(softhsm_module: str, tmp_path: Path) -> Store:
    """A partition of the operator's, without keys."""
    return asyncio.run(make_store(tmp_path / "partition", {}))


@pytest.fixture
def hsm(tmp_path: Path) -> QuirksModule:
    """A vendor's module in front of it."""
    return QuirksModule(tmp_path / "hsm")


def arguments(store: Store, hsm: QuirksModule, directory: Path, *more: str) -> list[str]:
    """`init` on that partition with the quickest keys."""
    environment = store.environment | hsm.environment(MODULE)
    named = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
    return [
        "init", "--dir", str(directory), "--key-type", "p256", "--module", str(hsm.path), "--token", store.label,
        "--yes", *named, *more,
    ]  # fmt: skip


def pin_file(path: Path, content: bytes) -> str:
    """A PIN file."""
    path.write_bytes(content)
    path.chmod(0o600)
    return str(path)


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    """`hsmitm check` of what `init` wrote."""
    return hsmitm("check", "--config", str(directory / "hsmitm.toml"))


MISTAKES = {
    "empty": b"\n",
    "two lines": f"{PIN}\n{PIN}\n".encode(),
    "byte order mark": f"\ufeff{PIN}\n".encode(),
    "tab": f"{PIN}\t\n".encode(),
    "Latin-1": "gr\u00fc\u00df-4711\n".encode("latin-1"),
    "UTF-16": f"{PIN}\n".encode("utf-16"),
}


@pytest.mark.parametrize("content", MISTAKES.values(), ids=list(MISTAKES))
def test_init_accepts_no_pin_that_check_does_not(
    store: Store, hsm: QuirksModule, tmp_path: Path, content: bytes
) -> None:
    """A PIN file that is no line of text is refused by `init` with the reason, before a try, and nothing is shown."""
    path = pin_file(tmp_path / "pin", content)
    done = hsmitm(*arguments(store, hsm, tmp_path / "d", "--pin-file", path))
    assert done.returncode == os.EX_CONFIG
    assert f"hsmitm: the file {path} gives" in done.stderr
    assert "internal" not in done.stderr
    assert not any(part in done.stderr for part in ("4711", "fc", "'\\u"))
    assert hsm.calls("C_Login") == 0
    assert not (tmp_path / "d" / "hsmitm.toml").exists()


def test_init_accepts_what_check_accepts(store: Store, hsm: QuirksModule, tmp_path: Path) -> None:
    """A PIN file with a Windows line end is good for `init` and for what runs after it; no memory of it is left."""
    path = pin_file(tmp_path / "pin", f"{PIN}\r\n".encode())
    done = hsmitm(*arguments(store, hsm, tmp_path / "d", "--pin-file", path))
    assert done.returncode == 0, done.stderr
    assert sorted(one.name for one in (tmp_path / "d").iterdir()) == [
        "forward-trust.pem", "forward-untrust.pem", "hsmitm.toml",
    ]  # fmt: skip
    checked = check(tmp_path / "d")
    assert checked.returncode == 0, checked.stdout
    assert list((tmp_path / "d" / "state").iterdir()) == []


def test_init_tries_a_pin_once(store: Store, hsm: QuirksModule, tmp_path: Path) -> None:
    """A PIN that `init` found refused is tried by no second `init`, nor by `check`, in whatever words it was refused;
    the right one is good at once."""
    hsm.quirks("wrong_pin 0x30")
    wrong = pin_file(tmp_path / "wrong", WRONG.encode())
    for why in ("CKR_DEVICE_ERROR (0x30) while logging in", f"remove {tmp_path / 'd' / 'state' / 'hsm1.pin-refused'}"):
        done = hsmitm(*arguments(store, hsm, tmp_path / "d", "--pin-file", wrong))
        assert done.returncode == os.EX_CONFIG
        assert why in done.stderr
        assert "4711" not in done.stderr
        assert hsm.calls("C_Login") == 1
    right = pin_file(tmp_path / "right", PIN.encode())
    assert hsmitm(*arguments(store, hsm, tmp_path / "d", "--pin-file", right)).returncode == 0
    pin_file(tmp_path / "right", WRONG.encode())
    for _ in range(2):
        assert check(tmp_path / "d").returncode == os.EX_CONFIG
        assert hsm.calls("C_Login") == 3


def test_init_of_another_partition_may_have_the_same_pin(store: Store, hsm: QuirksModule, tmp_path: Path) -> None:
    """A PIN that one partition refused is another matter on the one that was meant."""
    other = asyncio.run(make_store(tmp_path / "other", {}, "other"))
    wrong = pin_file(tmp_path / "wrong", WRONG.encode())
    for number, one in enumerate((store, other), 1):
        done = hsmitm(*arguments(one, hsm, tmp_path / "d", "--pin-file", wrong))
        assert "CKR_PIN_INCORRECT" in done.stderr
        assert hsm.calls("C_Login") == number


def test_a_token_that_needs_no_login_is_found_by_init(store: Store, hsm: QuirksModule, tmp_path: Path) -> None:
    """On a token that needs no login `init` asks for no PIN, and what it writes runs without one."""
    hsm.quirks(f"no_login {PIN} 0x54")
    done = hsmitm(*arguments(store, hsm, tmp_path / "d"))
    assert done.returncode == 0, done.stderr
    assert "needs no login" in done.stdout
    assert "pin = { none = true }" in (tmp_path / "d" / "hsmitm.toml").read_text()
    assert check(tmp_path / "d").returncode == 0
    assert hsm.calls("C_Login") == 0


def test_an_empty_pin_is_said(store: Store, hsm: QuirksModule, tmp_path: Path) -> None:
    """A partition whose PIN is empty is set up where that is said, and only there."""
    hsm.quirks(f"empty_pin {PIN}", "user_type 0x80000001")
    assert hsmitm(*arguments(store, hsm, tmp_path / "d")).returncode == os.EX_CONFIG
    done = hsmitm(*arguments(store, hsm, tmp_path / "d", "--empty-pin", "--user-type", "crypto-user"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "d" / "hsmitm.toml").read_text()
    assert "pin = { empty = true }" in text
    assert 'user_type = "crypto-user"' in text
    assert check(tmp_path / "d").returncode == 0


def typed(command: list[str], answer: bytes) -> tuple[int, str]:
    """Run a command on a terminal where somebody types `answer`: its status, and all that it said."""
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        [*HSMITM, *command], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the terminal ends with the process
            while data := os.read(terminal, 4096):
                if b"PIN of partition" in data and b"PIN of partition" not in said:
                    os.write(terminal, answer)
                said += data
        status = process.wait(30)
    os.close(terminal)
    return status, said.decode(errors="replace")


def test_a_pin_that_is_typed_has_the_same_checks(store: Store, hsm: QuirksModule, tmp_path: Path) -> None:
    """What is typed is shown by no error, and the right PIN is taken."""
    for answer, why in (
        (b"gr\xfc-4711\n", "UTF-8 text"),
        (b"\x04", "no PIN was typed"),
    ):
        status, said = typed(arguments(store, hsm, tmp_path / "d"), answer)
        assert (status, hsm.calls("C_Login")) == (os.EX_CONFIG, 0), said
        assert why in said
        assert "4711" not in said
        assert "0xfc" not in said
    status, said = typed(arguments(store, hsm, tmp_path / "d"), f"{PIN}\n".encode())
    assert status == 0, said
    assert "pin = { prompt = true }" in (tmp_path / "d" / "hsmitm.toml").read_text()


def test_a_pad_is_offered_where_there_is_one(store: Store, hsm: QuirksModule, tmp_path: Path) -> None:
    """On a terminal an empty answer has the PIN typed at the HSM's own pad, if it has one."""
    hsm.quirks(f"pin_pad {PIN}")
    status, said = typed(arguments(store, hsm, tmp_path / "d"), b"\n")
    assert status == 0, said
    assert "(empty: it is typed at the PIN pad of the HSM)" in said
    assert "pin = { pad = true }" in (tmp_path / "d" / "hsmitm.toml").read_text()
    assert check(tmp_path / "d").returncode == 0
