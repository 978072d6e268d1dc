"""A program that a module talks to, as a child that ends with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.integration.harness import descendants
from tests.waiting import wait_until


class Daemon:
    """`command` in an `environment` beside this process's own; what it says goes to `log`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        ready: Callable[[], object],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`ready` is asked until it says something true: then others may come."""
        self._command = [str(one) for one in command]
        self._log, self._ready, self._environment = log, ready, dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self._environment,
            )  # fmt: skip
        name = Path(self._command[0]).name
        process = self._process

        def there() -> object:
            assert process.poll() is None, f"{name} ended with {process.returncode}: {self.said}"
            return self._ready()

        wait_until(there, f"{name} is ready")

    @property
    def said(self) -> str:
        """What it said so far."""
        return self._log.read_text(errors="replace")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, and what it started, if it runs."""
        if self._process is None:
            return
        children = list(descendants(self._process.pid))
        self._process.send_signal(number)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process = None

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        self.end(signal.SIGKILL)
