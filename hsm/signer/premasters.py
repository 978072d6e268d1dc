"""RSA key exchange in the signer: a premaster secret for each ciphertext, and nothing that says whether it was in one.

RFC 5246 section 7.4.7.1. Whoever learns which ciphertexts are well padded has the key's decryptions (Bleichenbacher
1998), so nobody learns it, neither a client by the time of an answer nor a worker that is taken over by its content:
* an answer always has 48 bytes and begins with the version that the client offered. That is 3.3 for whoever ends up
  with TLS 1.2, the only version served that has this key exchange; GnuTLS writes it there itself, too;
* where the plaintext is anything else, the other 46 bytes are made of the ciphertext with a secret of this process: the
  same each time, as a right answer is. So it does not matter whether the token says that a padding is wrong, and how,
  or answers random bytes itself ("implicit rejection", OpenSSL 3.2 and later, for one);
* an answer leaves at a time that was fixed when the request came, twice what the key has taken of late; one that is not
  there by then leaves a whole number of such times later.
"""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections import deque
from collections.abc import Callable

from hsm.errors import HsmitmError, RefusedError
from hsm.group.group import Group
from hsm.signer import punctual
from hsm.signer.quotas import Allowance

SIZE = 48
VERSION = b"\3\3"
_RECENT, _SHARE = 64, 0.9
FLOOR_S, CEILING_S = 0.005, 0.5
"""Of the time of an answer. A software token takes 1 ms; to wait for much longer than the ceiling is a client's own
time-out, and what is slower leaves at a multiple of it."""


class Pace:
    """When the answers of one key leave."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=_RECENT)

    @property
    def step_s(self) -> float:
        """The time of an answer, and of each time more: fixed before anything is known of the request."""
        if not self._took:
            return CEILING_S / 10
        return min(CEILING_S, max(FLOOR_S, 2 * sorted(self._took)[math.ceil(_SHARE * len(self._took)) - 1]))

    def took(self, seconds: float) -> None:
        """The key's answer was there after so long."""
        self._took.append(seconds)


class Premasters:
    """The decryptions of inbound keys. The one place that asks the group for one."""

    def __init__(self, group: Group, allowance: Allowance) -> None:
        """`group` has the keys; `allowance` bounds what a worker may ask for."""
        self._group = group
        self._allowance = allowance
        self._secret = secrets.token_bytes(32)
        self._paces: dict[str, Pace] = {}

    async def decrypt(self, process: int, key: str, ciphertext: bytes, deadline: float) -> bytes:
        """48 bytes for a ciphertext as long as the modulus of `key`, asked for by a worker's process.

        Raises OverloadedError at once for a worker beyond its quota; otherwise, at the same time as an answer, what
        `Group.decrypt` raises for reasons that no ciphertext has.
        """
        came = time.monotonic()
        self._allowance.decrypt(process, key)
        pace = self._paces.setdefault(key, Pace())
        step_s = pace.step_s
        made = hmac.digest(self._secret, key.encode() + b"\0" + ciphertext, "sha512")
        instead = VERSION + made[: SIZE - len(VERSION)]
        failure: HsmitmError | None = None
        found = b""
        try:
            found = await self._plaintext(process, key, ciphertext, deadline)
        except HsmitmError as error:
            failure = error
        took = time.monotonic() - came
        pace.took(took)
        await punctual.until(came + step_s * math.ceil(took / step_s))
        if failure is not None:
            raise failure
        right = len(found) == SIZE and hmac.compare_digest(found[: len(VERSION)], VERSION)
        return (instead, found)[right]

    async def _plaintext(self, process: int, key: str, ciphertext: bytes, deadline: float) -> bytes:
        try:
            return await self._group.decrypt(key, ciphertext, deadline, asker=process)
        except RefusedError as error:
            if not error.code:
                raise
            return b""  # the token refused this one ciphertext in words of its own

    def forget(self, keep: Callable[[str], bool]) -> None:
        """Keys that are not kept are nobody's business any more."""
        self._paces = {key: pace for key, pace in self._paces.items() if keep(key)}
