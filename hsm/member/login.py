"""Logs a started member process in: look first, note the try, log in, and say at once what became of it.

`hsm.member.starter` calls it for a member's every start, and whoever else logs in (`hsmitm init`, the bench) calls it,
too: so nobody tries a PIN that the partition refused before, or that only an operator may have tried again.
"""

from __future__ import annotations

import asyncio
import functools
import time
from contextlib import suppress

from msgspec import Struct

from hsm import codes
from hsm.errors import DeadlineError, HsmitmError, LoginError, MemberLostError, MisconfiguredError, PinRefusedError
from hsm.member.process import MemberProcess
from hsm.secrets.attempt import Attempt
from hsm.secrets.refusals import Refusals
from hsm.secrets.settings import PinSource
from hsm.wire.member import Begin, LogIn, Open, Opened, Reply, Request, counts_wrong_pin


class Login(Struct, kw_only=True):
    """A login of one member: its PIN, where that comes from, and where tries are noted.

    `place` is what the PIN is for; `asked` says that an operator asked for a try that is not made otherwise, until it
    is made.
    """

    member: str
    source: PinSource
    secret: str
    place: str
    refusals: Refusals
    asked: bool = False

    def __repr__(self) -> str:
        """Without the PIN."""
        return f"Login({self.member}, {self.source})"

    async def check(self) -> None:
        """Raise LoginError, or PinRefusedError, where this PIN is not to be tried: before a process is started."""
        if self.source.remembered:
            check = self.refusals.check
            await asyncio.to_thread(check, self.member, self.secret, self.place, asked=self.asked)

    async def opened(self, process: MemberProcess, opening: Open, *, quick_s: float, longest_s: float) -> Opened:
        """Open the partition in `process`, within `longest_s` seconds. A login may take all of them, anything else
        `quick_s`: what is killed in the middle of a login may cost a try.

        Raises the member's errors; LoginError and PinRefusedError are never to be followed by another try.
        """
        until = time.monotonic() + longest_s
        looked = await _call(process, opening, min(time.monotonic() + quick_s, until))
        assert isinstance(looked, Opened)
        if self.source.none:
            _refuse_login_required(looked)
        elif self.source.pad:
            await self._log_in_at_pad(process, until)
        else:
            await self._log_in(process, looked, until)
        opened = await _call(process, Begin(), min(time.monotonic() + quick_s, until))
        assert isinstance(opened, Opened)
        return opened

    async def _log_in(self, process: MemberProcess, looked: Opened, until: float) -> None:
        attempt = await self._begun(counted=counts_wrong_pin(looked.partition))
        if process.lost.is_set() or time.monotonic() >= until:  # the PIN would not leave us
            attempt.undo()
            attempt.close()
            raise MemberLostError("its process, or the time that it had, ended before the login")
        self.asked = False
        try:
            await _call(process, LogIn(self.secret), until)
        except PinRefusedError:
            attempt.refused()
            raise
        except LoginError as error:
            if error.code in codes.OF_NO_PIN:
                attempt.undo()
            else:
                attempt.unclear(str(error))
            raise self._left(error) from error
        except (MemberLostError, DeadlineError) as error:  # no answer: nobody knows what the token counts
            attempt.unanswered(str(error))
            if attempt.last:
                raise self._left(error) from error
            raise
        except HsmitmError:
            attempt.undo()  # the member's own word, before it called C_Login
            raise
        else:
            attempt.accepted()
        finally:
            attempt.close()

    async def _begun(self, *, counted: bool) -> Attempt:
        begin = functools.partial(self.refusals.begin, counted=counted, asked=self.asked)
        noting = asyncio.create_task(asyncio.to_thread(begin, self.member, self.secret, self.place))
        try:
            return await asyncio.shield(noting)
        except asyncio.CancelledError:
            with suppress(HsmitmError):
                attempt = await noting
                attempt.undo()
                attempt.close()
            raise

    async def _log_in_at_pad(self, process: MemberProcess, until: float) -> None:
        """Somebody types the PIN, or does not. Whatever goes wrong, nobody is asked again by ourselves."""
        try:
            await _call(process, LogIn(None), until)
        except (LoginError, MemberLostError, DeadlineError) as error:
            raise self._left(error) from error

    def _left(self, error: HsmitmError) -> LoginError:
        return LoginError(
            f"{error}; it is not tried again by itself, because tries lock a partition. See that HSM and PIN are "
            f"right, then run 'hsmitm hsm reset {self.member}'",
            error.code,
            error.calls_for,
        )


def _refuse_login_required(looked: Opened) -> None:
    if "LOGIN_REQUIRED" in looked.partition.flags:
        raise MisconfiguredError(
            f"partition {looked.partition} says that it needs a login (CKF_LOGIN_REQUIRED), and its member has "
            "pin = { none = true }; give the PIN"
        )


async def _call(process: MemberProcess, request: Request, until: float) -> Reply:
    begun = time.monotonic()
    try:
        return await process.call(request, until)
    except DeadlineError as error:
        doing = "log in" if isinstance(request, LogIn) else "start"
        raise DeadlineError(f"it did not {doing} within {until - begun:.1f} s") from error
