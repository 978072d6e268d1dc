"""A real `hsmitm signer` with one member on an HSM that fails on command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.rig.faulty_module import FaultyModule
from hsm.errors import HsmitmError
from hsm.wire.admin import CODEC
from hsm.wire.client import ask
from hsm.wire.frames import Ready
from hsm.wire.run_directory import ADMIN_SOCKET
from tests.integration.harness import System, killed_at_end
from tests.softhsm import MODULE
from tests.waiting import wait_until


@contextmanager
def signer_on(hsm: FaultyModule, directory: Path) -> Iterator[System]:
    """The service, started; `until_ready` waits for it. Whatever happens, it ends with the test."""
    system = System.make(directory / "hsmitm")
    system.command = "signer"
    (member,) = system.config.members()
    environment = dict(member.environment) | hsm.environment(MODULE)
    lines = ", ".join(f"{name} = {json.dumps(value)}" for name, value in environment.items())
    system.edit(module=json.dumps(str(hsm.path)), environment=f"{{ {lines} }}")
    system.start(wait=False)
    process = system.process
    assert process is not None
    with killed_at_end(lambda: [process.pid, *system.pids("hsm.token.main")]):
        try:
            yield system
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def ready(system: System) -> bool:
    """Whether the signer serves: each key has a member in service."""
    try:
        asyncio.run(ask(system.config.run.socket(ADMIN_SOCKET), CODEC, Ready(), 5))
    except HsmitmError:
        return False
    return True


def until_ready(system: System, timeout_s: float = 15) -> None:
    """Return once the signer serves."""
    wait_until(lambda: ready(system), "the signer serves", timeout_s)
