"""A PKCS#11 library, loaded once and safe for threads, and asked for its tokens.

One bad slot is one bad slot: what is wrong with a slot that nobody asked for is said, and hides no other.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping

import pkcs11
from pkcs11 import TokenFlag

from hsm import vendor_codes
from hsm.errors import MisconfiguredError, TryLaterError
from hsm.token import slots, translation
from hsm.token.library import Library
from hsm.token.token import Token
from hsm.token.translation import translated, why_not_loaded
from hsm.wire.member import Inspected, Selector

_PATIENCE_S = 10.0
"""For slots that do not answer, where nobody says how long may be waited."""
_WORDS_S = 0.5
"""What is left of a caller's time to tell which slot used it up."""
_BLANK = "its token is not initialised"
"""Nobody's partition; SoftHSM always shows one more than it has."""


class Module:
    """A loaded module. Once per process; safe for threads."""

    def __init__(self, path: str) -> None:
        """Load the library at `path`. Raises MisconfiguredError where that is not a usable PKCS#11 module, and
        MemberLostError where it says what an HSM or a service that is not there yet explains: that may pass."""
        try:
            self._lib = Library(path)
        except pkcs11.PKCS11Error as error:
            raise why_not_loaded(path, error) from error
        translation.take(vendor_codes.built_in(self._lib.library_description))

    @property
    def description(self) -> str:
        """What the library calls itself (CK_INFO)."""
        return f"{self._lib.library_description} {'.'.join(map(str, self._lib.library_version))}"

    def _token(self, slot: int) -> Token:
        """The token in a slot. Raises HsmitmError, with _BLANK where it is not initialised."""
        with translated("reading its token"):
            token = self._lib.slot(slot).get_token()
        if not token.flags & TokenFlag.TOKEN_INITIALIZED:
            raise MisconfiguredError(_BLANK)
        functions = self._lib.functions
        return Token(token, functions.token_info(slot) if functions else None, functions)

    def inspect(self, until: float | None = None) -> Inspected:
        """Every slot with an initialised token, as its token reports itself now; of other slots what is wrong with
        them. `until` (CLOCK_MONOTONIC) is how long to wait for those that do not answer."""
        until = time.monotonic() + _PATIENCE_S if until is None else until - _WORDS_S
        answers = slots.ask(
            self._lib.slot_numbers(), lambda slot: self._token(slot).inspect(), until, lambda _: False
        )  # fmt: skip
        problems = {slot: problem for slot, problem in answers.problems.items() if problem != _BLANK}
        return Inspected(self._lib.so, self.description, list(answers.found.values()), problems)

    def token(self, selector: Selector, until: float | None = None) -> Token:
        """The one token that `selector` names; only the slot that it names is asked, if it names one. `until` is as for
        `inspect`.

        Raises TryLaterError where it is not there, whatever else is: an HSM that cannot be reached, or not yet, looks
        so. MisconfiguredError where two fit.
        """
        until = time.monotonic() + _PATIENCE_S if until is None else until - _WORDS_S
        numbers = self._lib.slot_numbers()
        fits = functools.partial(_fitting, selector)
        answers = slots.ask([one for one in numbers if one == selector.slot] or numbers, self._token, until, fits)
        chosen = fits(answers.found)
        if len(chosen) > 1:
            listed = ", ".join(str(token.info) for token in chosen)
            raise MisconfiguredError(
                f"{len(chosen)} partitions have {selector}: {listed}. Name one by 'serial' instead"
            )
        if not chosen:
            others = [one for one in numbers if one not in answers.found and one not in answers.problems]
            answers.add(slots.ask(others, self._token, until, lambda _: True))
            raise TryLaterError(self._why_not_there(selector, answers))
        return chosen[0]

    def _why_not_there(self, selector: Selector, answers: slots.Answers[Token]) -> str:
        shown = [str(token.info) for token in answers.found.values()]
        if selector.slot in answers.problems or any(one != _BLANK for one in answers.problems.values()):
            shown += [f"slot {slot}: {problem}" for slot, problem in sorted(answers.problems.items())]
        if not shown:
            return f"{self._lib.so} shows no initialised partition; is the HSM reachable and its client configured?"
        return f"no partition has {selector}. This module shows: {', '.join(shown)}"

    def initialise(self, label: str, so_pin: str, pin: str) -> None:
        """Make a new token in the first free slot, with both PINs (C_InitToken, C_InitPIN). For SoftHSM, at `init`."""
        functions = self._lib.functions
        if functions is None:
            raise MisconfiguredError(f"tokens cannot be made through {self._lib.so}; make it with the HSM's own tool")
        with translated("initialising a token"):
            blank = next((slot for slot in map(self._lib.slot, self._lib.slot_numbers()) if _is_blank(slot)), None)
            if blank is None:
                raise MisconfiguredError(f"{self._lib.so} has no uninitialised slot; name a partition with --token")
            if code := functions.init_token(blank.slot_id, so_pin, label):
                raise translation.of_code(code, "initialising a token")
            with blank.get_token().open(rw=True, so_pin=so_pin) as session:
                session.init_pin(pin)


def _fitting(selector: Selector, found: Mapping[int, Token]) -> list[Token]:
    return [token for token in found.values() if token.matches(selector)]


def _is_blank(slot: pkcs11.Slot) -> bool:
    try:
        return not slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED
    except pkcs11.PKCS11Error:
        return False
