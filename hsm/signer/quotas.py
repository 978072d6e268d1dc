"""How much each worker may have: a rate with a burst for each process, and an alarm where one wants more.

What a worker of ours needs is far below; what a worker that is taken over gets is bounded by it: certificates in other
names, and answers to ciphertexts of its choice (RFC 5246 section 7.4.7.1). One event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter

from hsm.errors import OverloadedError
from hsm.names import MAX_NAMES
from hsm.signer.settings import Quotas

logger = logging.getLogger("hsmitm.signer")

What = Literal["mints", "decryptions", "leaf keys", "reports"]

NAMES_PER_MINT = 10
"""A leaf of so many names counts as one mint, one of 100 names as ten: what is to be bounded are the names."""
BURST_S = 10.0
"""A burst is what comes in so many seconds: a worker that starts has no leaf in its cache."""
LEAF_KEYS_PER_S, LEAF_KEYS_BURST = 0.2, 8.0
"""RSA keys that are new, of 2048 bits: a worker makes one in its life, and to look at one takes the signer 30 ms."""
REPORTS_PER_S, REPORTS_BURST = 50.0, 200.0
"""A worker reports once a second. A report of so many hundred samples counts as so many more."""
ALARM_EVERY_S = 10.0
_ASKERS = 1024


class _Account(Struct):
    """What one asker has left of one quota, when that was so, and what it was refused since it was last told of."""

    left: float
    at: float
    refused: int = 0
    told_at: float = float("-inf")


class Allowance:
    """The quotas in force, and what is left of them."""

    def __init__(self, quotas: Quotas, registry: CollectorRegistry, name: Callable[[int], str]) -> None:
        """`registry` gets the counter; `name` is what a worker's process is called in it."""
        self._quotas = quotas
        self._name = name
        self._accounts: dict[tuple[What, int, str], _Account] = {}
        self._refused = Counter(
            "hsmitm_quota_refused", "Requests of a worker beyond its quota", ("quota", "worker"), registry=registry
        )

    def apply(self, quotas: Quotas) -> None:
        """These are in force from now on."""
        self._quotas = quotas

    def mint(self, process: int, names: int, key_cost: float) -> None:
        """A leaf of so many names, for a key that costs so much to look at. Raises OverloadedError."""
        rate = self._quotas.mints_per_s
        self._take("mints", process, "", max(1.0, min(names, MAX_NAMES) / NAMES_PER_MINT), rate, rate * BURST_S)
        if key_cost:
            self._take("leaf keys", process, "", key_cost, LEAF_KEYS_PER_S, LEAF_KEYS_BURST)

    def decrypt(self, process: int, key: str) -> None:
        """A decryption by this key. Raises OverloadedError."""
        rate = self._quotas.decryptions_per_s
        self._take("decryptions", process, key, 1.0, rate, rate * BURST_S)

    def report(self, process: int, samples: int) -> None:
        """A report of so many samples. Raises OverloadedError."""
        self._take("reports", process, "", min(1 + samples / 100, REPORTS_BURST), REPORTS_PER_S, REPORTS_BURST)

    def _take(self, what: What, process: int, key: str, cost: float, rate: float, burst: float) -> None:
        now = time.monotonic()
        account = self._accounts.pop((what, process, key), None) or _Account(burst, now)
        if len(self._accounts) >= _ASKERS:
            del self._accounts[next(iter(self._accounts))]  # who has asked for nothing the longest time
        self._accounts[what, process, key] = account
        account.left = min(burst, account.left + (now - account.at) * rate)
        account.at = now
        if account.left >= cost:
            account.left -= cost
            return
        self._refused.labels(what, self._name(process)).inc()
        account.refused += 1
        why = f"this worker has used up its quota of {what} ({rate:g} a second, {burst:g} at once)"
        if now - account.told_at >= ALARM_EVERY_S:
            logger.warning(
                "worker process %d asks for more than its quota: %s refused %d; is it taken over?",
                process, what, account.refused,
            )  # fmt: skip
            account.told_at, account.refused = now, 0
        raise OverloadedError(why)
