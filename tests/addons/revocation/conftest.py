"""A responder, a site, a clock, and what is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tests.addons.revocation.asking import Asking
from tests.addons.revocation.ocsp_responder import (
    Responder,
    responding,
)
from tests.addons.revocation.stapled import Site, Time


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def responder() -> Iterator[Responder]:
    with responding() as one:
        yield one


@pytest.fixture
def site(responder: Responder) -> Site:
    return Site(responder.url)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """What was logged since it was last asked: level and text."""
    caplog.set_level(logging.INFO, "hsmitm.ocsp")

    def taken() -> list[tuple[str, str]]:
        found = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "hsmitm.ocsp"]
        caplog.clear()
        return found

    return taken


@pytest.fixture
def asking(responder: Responder, time: Time) -> Asking:
    return Asking(responder, time)
