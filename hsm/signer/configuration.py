"""The number of the configuration in force: how many reloads have succeeded, over all lives of the signer.

It is kept on disk. A worker compares it with the one that it read its files at: a signer that is killed right after a
reload must not make it miss that, and one that is merely started again must not have it read what nobody reloaded.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger("hsmitm.signer")

_FILE = "configuration-number"


class ConfigurationNumber:
    """Begins at 0 where the state directory does not know better."""

    def __init__(self, state: Path) -> None:
        """`state` is the signer's state directory; until `move` it need not exist."""
        self._path = state / _FILE
        self.current = self._remembered()

    def _remembered(self) -> int:
        try:
            return int(self._path.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            logger.warning("%s, which counts reloads, cannot be read, and begins again at 0: %s", self._path, error)
            return 0

    def move(self) -> None:
        """A reload succeeded. The number is on disk, whole, before anybody is told of it.

        Where it cannot be written it moves all the same: workers then read their files once more after the next start.
        """
        self.current += 1
        unfinished = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{self.current}\n")
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except OSError as error:
            logger.warning("%s, which counts reloads, cannot be written: %s", self._path, error.strerror or error)
