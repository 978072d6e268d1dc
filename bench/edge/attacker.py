"""One attack in a process of its own: `python -m bench.edge.attacker NAME TARGET`.

It gives way to whoever wants the CPU (nice): what a client that does nothing wrong waits for has to be hsmitm, and not
the attackers' share of this machine.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from contextlib import suppress

import msgspec

from bench.edge.attack import Attack
from bench.edge.target import Seen, Target

_NICE = 10
_LATE_S = 25.0
"""An attacker that has not ended so long after its time is ended."""


class Attacker:
    """The process. Start it, and `end` has what it saw."""

    def __init__(self, attack: Attack, target: Target) -> None:
        """Nothing runs yet."""
        self._attack, self._target = attack, target
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Begin the attack; does not wait."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bench.edge.attacker", self._attack.name,
            msgspec.json.encode(self._target).decode(),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    def stop(self) -> None:
        """End it at once."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> tuple[Seen, str]:
        """Wait for it: what it saw, and why that is not all, or nothing. A fault of its own is told on its stderr."""
        assert self._process is not None
        try:
            async with asyncio.timeout(self._target.seconds + _LATE_S):
                out, errors = await self._process.communicate()
        except TimeoutError:
            self.stop()
            await self._process.wait()
            return Seen(), "the attacker did not end"
        told = errors.decode().strip().rpartition("\n")[2]
        try:
            return msgspec.json.decode(out, type=Seen), told
        except msgspec.DecodeError:
            return Seen(), f"the attacker ended early: {told}"


def main(name: str, target: str) -> None:
    """Attack, and print what was seen; threads that still wait for something end with the process."""
    from bench.edge.scene import Scene  # noqa: PLC0415  # they import this file's neighbours for types
    from bench.edge.table import found  # noqa: PLC0415

    os.nice(_NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    scene = Scene(msgspec.json.decode(target, type=Target))
    found(name).run(scene)
    sys.stdout.buffer.write(msgspec.json.encode(scene.seen))
    sys.stdout.buffer.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
