"""Whether the HSM is in service, as the signer last told, and what the operator wants while it is not.

`hsm.unavailable`: "fail" refuses every new inspected connection, also one whose leaf is in the cache, because an
operator who takes the HSM away means to stop what it allows; "cached-only" and "queue:MS" go on with leaves that exist.
Names that need a new leaf wait in the signer, in all three. A signer that is away, to be restarted say, tells nothing
about the HSM: its last word holds.
"""

from __future__ import annotations

from hsm.errors import UnavailableError
from hsm.wire.worker import Reported


class Availability:
    """One worker's knowledge of the HSM."""

    def __init__(self) -> None:
        """Until the signer tells, the HSM is in service: what else is to be done comes with the same word."""
        self._told = Reported(in_service=True, unavailable="fail")
        self._failed = False

    def hear(self, told: Reported) -> None:
        """The signer answered a report."""
        self._told = told
        self._failed = False

    def note_signature(self) -> None:
        """A leaf was minted: the HSM is in service, whatever the last report said."""
        if not self.in_service:
            self._told = Reported(in_service=True, unavailable=self._told.unavailable)
            self._failed = False

    def note_failure(self) -> None:
        """A leaf could not be minted, for want of the HSM. It may be an outage that no report told of yet."""
        self._failed = True

    @property
    def in_service(self) -> bool:
        """Whether a new leaf can be had, as far as is known: then the mint itself is the question."""
        return self._told.in_service and not self._failed

    def check_cached(self) -> None:
        """Raise UnavailableError where even a leaf from the cache must not be presented now."""
        if self._told.unavailable == "fail" and not self._told.in_service:
            raise UnavailableError("no member of the HSM is in service, and hsm.unavailable is 'fail'")
