"""What an HSM takes for a signature, as `check` and `init` measure it, and the settings that fit it.

Alone, and several at once: together they tell whether more sessions help. An HSM that is quick needs no other settings
than the defaults.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct

from hsm.member.settings import Failover, MemberSettings
from hsm.member.slots import QUICK_S
from proxy.config.operation import ProxySection
from proxy.config.section import default, default_ms

AT_ONCE = 8
"""Signatures that are asked for together: as many as there are sessions by default."""
_ALONE = 3
_LINE = 3 * AT_ONCE
"""So many requests may stand before the last one that is served in time."""
_HELPS = 0.75


class Measured(Struct, frozen=True):
    """Seconds for one signature alone, and for `at_once` of them that were asked for together."""

    alone_s: float
    together_s: float
    at_once: int = AT_ONCE

    @property
    def at_a_time(self) -> float:
        """How many signatures it works on at a time: 1 to `at_once`."""
        return min(float(self.at_once), max(1.0, self.at_once * self.alone_s / self.together_s))

    @property
    def quick(self) -> bool:
        """Whether the defaults fit it."""
        return self.alone_s < QUICK_S

    def __str__(self) -> str:
        text = f"a signature takes {_ms(self.alone_s)} alone; {self.at_once} at once take {_ms(self.together_s)}"
        if self.quick:
            return text
        at_a_time = round(self.at_a_time)
        works = "one at a time" if at_a_time == 1 else f"about {at_a_time} at a time"
        rate = self.at_a_time / self.alone_s
        return f"{text}: it signs {works}, {rate:.1f} a second" if rate < 10 else f"{text}: it signs {works}"


async def measure(sign: Callable[[], Awaitable[object]], at_once: int = AT_ONCE) -> Measured:
    """Have `sign` make a few signatures alone, and so many at once. Raises what it raises."""
    alone = sorted([await _took_s(sign()) for _ in range(_ALONE)])
    return Measured(alone[_ALONE // 2], await _took_s(asyncio.gather(*(sign() for _ in range(at_once)))), at_once)


async def _took_s(signing: Awaitable[object]) -> float:
    begun = time.monotonic()
    await signing
    return time.monotonic() - begun


class Fitting(Struct, frozen=True):
    """Settings by their names in hsmitm.toml, the defaults at first."""

    sessions: int = default(MemberSettings, "sessions")
    attempt_timeout_ms: int = default_ms(Failover, "attempt_timeout_s")
    request_budget_ms: int = default_ms(Failover, "budget_s")
    mint_timeout_s: float = ProxySection().mint_timeout_s
    client_handshake_timeout_s: float = ProxySection().client_handshake_timeout_s

    def __str__(self) -> str:
        """Those that are not the defaults."""
        least = Fitting()
        named = {name: getattr(self, name) for name in self.__struct_fields__}
        return ", ".join(f"{name} = {value:g}" for name, value in named.items() if value != getattr(least, name))


def fitting(measured: Measured) -> Fitting:
    """What fits an HSM: the defaults, or more time.

    An attempt has three times what a signature takes. A request may stand behind a few others: twenty-four, as it is
    served then. A client waits a little longer than that, and its handshake contains the server's, its turn and that.
    """
    least = Fitting()
    if measured.quick:
        return least
    helps = measured.at_a_time >= _HELPS * measured.at_once
    attempt_ms = max(least.attempt_timeout_ms, _up(3000 * measured.alone_s, 100))
    line_ms = _up(1000 * _LINE * measured.alone_s / measured.at_a_time, 500)
    budget_ms = min(60_000, max(least.request_budget_ms, 2 * attempt_ms, line_ms))
    mint_s = min(60.0, max(least.mint_timeout_s, float(math.ceil(budget_ms / 1000) + 1)))
    handshake_s = max(least.client_handshake_timeout_s, 2 * (ProxySection().connect_timeout_s + mint_s))
    sessions = least.sessions if helps else round(measured.at_a_time) + 1
    return Fitting(sessions, min(60_000, attempt_ms), budget_ms, mint_s, handshake_s)


def _up(number: float, step: int) -> int:
    return math.ceil(number / step) * step


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 0.01 else f"{1000 * seconds:,.0f} ms"
