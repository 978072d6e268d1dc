"""Whether the HSM is in service, as the signer last told, and what the operator wants while it is not.

`hsm.unavailable`: "fail" refuses every new inspected connection, also one whose leaf is in the cache, because an
operator who takes the HSM away means to stop what it allows; "cached-only" and "queue:MS" go on with leaves that exist.
Names that need a new leaf wait in the signer, in all three. A signer that is away, to be restarted say, tells nothing
about the HSM: its last word holds.
"""

from __future__ import annotations

from addons.policy.settings import OnOutage
from hsm.errors import HsmitmError, UnavailableError
from hsm.wire.client import SignerClient
from hsm.wire.frames import Ready
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

    def check_cached(self, wanted: OnOutage | None = None) -> None:
        """Raise UnavailableError where even a leaf from the cache must not be presented now. `wanted` is what the rule
        says that the connection goes by, if it says anything."""
        if (wanted or self._told.unavailable) == "fail" and not self._told.in_service:
            says = "the rule's hsm_unavailable" if wanted else "hsm.unavailable"
            raise UnavailableError(f"no member of the HSM is in service, and {says} is 'fail'")

    def check(self, wanted: OnOutage | None, *, cached: bool) -> None:
        """Raise UnavailableError where no leaf must be presented now, one from the cache or one that the signer might
        make after a while; `wanted` as in `check_cached`."""
        if cached:
            self.check_cached(wanted)
        elif wanted is not None and not self._told.in_service:
            raise UnavailableError(f"no member of the HSM is in service, and the rule's hsm_unavailable is '{wanted}'")

    async def away(self, signer: SignerClient, timeout_s: float) -> bool:
        """Whether no member serves: what was told, and where that is good the signer's own word now."""
        if not self._told.in_service or not signer.connected:
            return True
        try:
            await signer.call(Ready(), timeout_s)
        except HsmitmError:
            return True
        return False
