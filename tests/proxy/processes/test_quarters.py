"""Whom workers become, and what is taken where that is not possible. Cages are tried with real processes."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable

import pytest
from msgspec import structs

from hsm.errors import MisconfiguredError
from proxy.config.file import Config
from proxy.processes import landlock, quarters
from tests.proxy.processes.test_reach import configured

__all__ = ["configured"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give workers another user")
_PATH = {"PATH": os.environ["PATH"]}


def _with(config: Config, **run: object) -> Config:
    return structs.replace(config, file=structs.replace(config.file, run=structs.replace(config.file.run, **run)))


@as_root
def test_as_root_workers_have_a_user_of_their_own(configured: Callable[[str], Config]) -> None:
    """Nobody has to configure it, and the line at start says who it is."""
    found = quarters.choose(configured("a.py"), _PATH, with_signer=True)
    assert found.user in (quarters.PACKAGE_USER, quarters.ANYBODY)
    assert found.words.startswith(f"user {found.user} of their own, no new privileges, Landlock ABI ")
    assert found.strong


@as_root
def test_a_user_of_their_own_sees_a_name_server_that_changes(configured: Callable[[str], Config]) -> None:
    """With the PIN under /etc, as an operator has it, workers still read a resolv.conf that is replaced."""
    config = configured("a.py")
    (member,) = config.file.hsm.members
    member = structs.replace(member, pin=structs.replace(member.pin, file="/etc/hsmitm-test/pin"))
    moved = structs.replace(
        config, file=structs.replace(config.file, hsm=structs.replace(config.file.hsm, members=[member]))
    )
    assert "/etc" not in quarters._cage(moved, {}).reads
    found = quarters.choose(moved, _PATH, with_signer=True)
    assert found.user
    assert "/etc" in found.cage.reads


@as_root
def test_another_user_can_be_named(configured: Callable[[str], Config]) -> None:
    """`worker_user` is taken; root means that workers stay root; one that does not exist is an error."""
    config = configured("a.py")
    assert quarters.choose(_with(config, worker_user="daemon"), _PATH, with_signer=True).user == "daemon"
    root = quarters.choose(_with(config, worker_user="root"), _PATH, with_signer=True)
    assert root.user == ""
    assert root.words.startswith("the signer's user, no new privileges")
    with pytest.raises(MisconfiguredError, match=r"run\.worker_user: there is no user 'absent' on this machine"):
        quarters.choose(_with(config, worker_user="absent"), _PATH, with_signer=True)


@as_root
def test_where_a_user_of_their_own_is_not_possible(
    configured: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container without the right to mount: the next best is taken and the reason said; who asks for the user gets
    an error that says what to do."""
    really = quarters._try

    def refuse(cage: quarters.Cage, environment: dict[str, str]) -> str:
        return really(cage, environment) if cage.uid is None else "Permission denied: /root"

    monkeypatch.setattr(quarters, "_try", refuse)
    found = quarters.choose(configured("a.py"), _PATH, with_signer=True)
    assert found.user == ""
    assert "of their own is not possible: Permission denied: /root)" in found.words
    with pytest.raises(MisconfiguredError, match="a worker cannot run as 'daemon': Permission denied: /root"):
        quarters.choose(_with(configured("a.py"), worker_user="daemon"), _PATH, with_signer=True)


@as_root
def test_without_the_signer_only_a_user_whom_it_admits(configured: Callable[[str], Config]) -> None:
    """`hsmitm proxy` as root: workers become nobody whom the signer would turn away."""
    config = configured("a.py")
    assert quarters.choose(config, _PATH, with_signer=False).user == ""
    anybody = quarters.worker_user(config)
    assert anybody is not None
    admitted = _with(config, users=[anybody.pw_name])
    assert quarters.choose(admitted, _PATH, with_signer=False).user == anybody.pw_name


def test_without_landlock_and_without_a_user_it_is_said(
    configured: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an old kernel, not as root, nothing keeps workers from the signer's files: the line at start is a warning."""
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    config = _with(configured("a.py"), worker_user=pwd.getpwuid(os.geteuid()).pw_name)
    found = quarters.choose(config, _PATH, with_signer=True)
    assert not found.strong
    assert (
        found.words
        == "the signer's user, no new privileges, no Landlock (not on this kernel, or not in this container)"
    )


def test_low_ports_keep_the_one_right_that_they_need(configured: Callable[[str], Config]) -> None:
    """A proxy below 1024 can be listened on by workers without root's rights."""
    config = configured("a.py")
    assert not quarters._cage(config, {}).low_ports
    low = structs.replace(
        config, file=structs.replace(config.file, proxy=structs.replace(config.file.proxy, listen="127.0.0.1:443"))
    )
    assert quarters._cage(low, {}).low_ports
