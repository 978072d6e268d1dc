"""Ports for programs that listen later."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing

import pytest

from bench.rig import port
from bench.rig.port import free_port
from hsm.errors import MisconfiguredError


def narrowed(monkeypatch: pytest.MonkeyPatch, first: int, number: int = 1) -> None:
    """Let there be so few ports."""
    monkeypatch.setattr(port, "_PORTS", range(first, first + number))


def test_a_port_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program listens late on the port that it was given; until then nobody else is given it, in no process."""
    first = free_port()
    narrowed(monkeypatch, first)
    with pytest.raises(MisconfiguredError, match=rf"no port of 127\.0\.0\.1 from {first} to {first} is free"):
        free_port()
    another = f"from bench.rig import port; port._PORTS = range({first}, {first + 1}); port.free_port()"
    done = subprocess.run([sys.executable, "-c", another], capture_output=True, text=True, timeout=30, check=False)
    assert "is free" in done.stderr
    with closing(socket.create_server(("127.0.0.1", first))):
        pass


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody listens on who never asked here is passed over."""
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        narrowed(monkeypatch, theirs.getsockname()[1], 20)
        assert free_port() > theirs.getsockname()[1]
