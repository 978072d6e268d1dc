"""What an HSM takes for a signature, measured, and the settings that fit it."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.secrets.settings import PinSource
from hsm.wire.member import Selector
from proxy.commands.init.place import Place
from proxy.commands.init.text import text
from proxy.commands.init.wanted import Wanted
from proxy.commands.pace import AT_ONCE, Fitting, Measured, fitting, measure
from proxy.config.file import parse
from tests.proxy.config.made_keys import made_keys


@pytest.mark.parametrize(
    ("alone_s", "together_s", "said"),
    [
        (0.0006, 0.002, "a signature takes 0.6 ms alone; 8 at once take 2.0 ms"),
        (0.14, 1.12, "a signature takes 140 ms alone; 8 at once take 1,120 ms: it signs one at a time, 7.1 a second"),
        (0.51, 0.52, "a signature takes 510 ms alone; 8 at once take 520 ms: it signs about 8 at a time"),
        (0.25, 0.5, "a signature takes 250 ms alone; 8 at once take 500 ms: it signs about 4 at a time"),
        (2.0, 15.0, "a signature takes 2,000 ms alone; 8 at once take 15,000 ms: it signs one at a time, 0.5 a second"),
    ],
)
def test_what_is_said(alone_s: float, together_s: float, said: str) -> None:
    """An operator reads what one signature takes, what eight do, and whether more sessions help."""
    assert str(Measured(alone_s, together_s)) == said


@pytest.mark.parametrize(
    ("alone_s", "together_s", "fit"),
    [
        (0.0006, 0.002, Fitting()),
        (0.04, 0.32, Fitting()),
        (0.14, 1.12, Fitting(sessions=2, request_budget_ms=3500)),
        (0.25, 2.0, Fitting(2, 800, 6000, 7.0, 34.0)),
        (0.51, 4.08, Fitting(2, 1600, 12500, 14.0, 48.0)),
        (0.51, 0.52, Fitting(attempt_timeout_ms=1600, request_budget_ms=3200)),
        (0.25, 0.5, Fitting(sessions=5, attempt_timeout_ms=800, request_budget_ms=1600)),
        (30.0, 240.0, Fitting(2, 60_000, 60_000, 60.0, 140.0)),
    ],
)
def test_fitting(alone_s: float, together_s: float, fit: Fitting) -> None:
    """A quick HSM fits the defaults; a slow one needs fewer sessions, where they do not help, and more time."""
    assert fitting(Measured(alone_s, together_s)) == fit


@given(st.floats(1e-4, 100), st.floats(0.5, 20))
def test_what_fits_is_a_configuration(alone_s: float, times: float) -> None:
    """Whatever was measured, what init writes for it is read without a complaint, and everybody waits long enough for
    whom it waits for."""
    fit = fitting(Measured(alone_s, times * alone_s))
    wanted = Wanted(directory=Path(), module=None, token=None, listen="127.0.0.1:0", status_listen="")
    place = Place(
        module="m", selector=Selector("l"), environment={}, pin="", pin_source=PinSource(file="pin"), member="m1"
    )
    made = text(wanted, place, made_keys("l"), fit)
    file = parse(made.encode(), Path("/etc/hsmitm.toml")).file
    assert file.hsm.members[0].sessions == fit.sessions
    assert file.hsm.attempt_timeout_ms == fit.attempt_timeout_ms <= file.hsm.request_budget_ms
    assert file.hsm.request_budget_ms <= 1000 * file.proxy.mint_timeout_s
    assert 2 * file.proxy.connect_timeout_s + file.proxy.mint_timeout_s <= file.proxy.client_handshake_timeout_s
    assert tomllib.loads(made)["proxy"]["mint_timeout_s"] == fit.mint_timeout_s


async def test_measure() -> None:
    """One after another first, then as many as there are sessions, at once."""
    running, seen = 0, []

    async def sign() -> None:
        nonlocal running
        running += 1
        seen.append(running)
        await asyncio.sleep(0)
        running -= 1

    measured = await measure(sign)
    assert seen == [1, 1, 1, *range(1, AT_ONCE + 1)]
    assert measured.alone_s > 0
