"""What `hsmitm check` finds, said line by line."""

from __future__ import annotations

from collections.abc import Callable

from hsm.errors import MisconfiguredError

Say = Callable[[str], object]

EXPIRES_SOON_DAYS = 30
"""Certificates that have fewer days left are worth a warning."""


class Findings:
    """What was tried, said line by line."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.right = True
        self._faults: set[str] = set()

    def ok(self, text: str) -> None:
        """It is right."""
        self._say(f"ok     {text}")

    def warn(self, text: str) -> None:
        """It works, and an operator should know."""
        self._say(f"WARN   {text}")

    def wrong(self, text: str) -> None:
        """It does not work. Said once, whoever meets it again."""
        self.right = False
        if text not in self._faults:
            self._faults.add(text)
            self._say(f"WRONG  {text}")

    def attempt(self, text: str, act: Callable[[], object]) -> None:
        """`text` is right if `act` raises no MisconfiguredError."""
        try:
            act()
        except MisconfiguredError as error:
            self.wrong(str(error))
        else:
            self.ok(text)
