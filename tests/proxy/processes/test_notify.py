"""What the service manager that started us hears, over a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.processes import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_systemd_hears_that_we_are_ready(manager: socket.socket) -> None:
    """A unit of Type=notify is started when hsmitm serves, not when it was executed."""
    notify.tell("READY=1")
    assert manager.recv(100) == b"READY=1"


def test_an_abstract_address_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service manager may give an address in the abstract namespace, written with an @."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0hsmitm-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@hsmitm-test-{os.getpid()}")
        notify.tell("STOPPING=1")
        assert listening.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1"])
def test_nobody_who_listens_is_no_fault(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started from a shell, or under a service manager that is gone, hsmitm says nothing and goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.tell("READY=1")


async def test_signs_of_life_come_in_time(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """With WatchdogSec systemd hears of us several times within it, and a hung event loop is silent."""
    monkeypatch.setenv("WATCHDOG_USEC", "90000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    task = asyncio.create_task(notify.keep_alive())
    manager.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        heard = [await loop.sock_recv(manager, 100) for _ in range(3)]
    task.cancel()
    assert heard == [b"WATCHDOG=1"] * 3


async def test_another_process_watchdog_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that has inherited the variables does not speak for its parent; nor does anybody where nobody watches."""
    monkeypatch.setenv("WATCHDOG_USEC", "90000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_s() == 0
    await notify.keep_alive()
    monkeypatch.setenv("WATCHDOG_PID", "not a number")
    assert notify.watchdog_s() == 0
