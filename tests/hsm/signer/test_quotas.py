"""A rate with a burst for each worker."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from hsm.errors import OverloadedError
from hsm.signer import quotas as module
from hsm.signer.quotas import Allowance
from hsm.signer.settings import Quotas


class Clock:
    """A time that stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The signer's clock."""
    return Clock(monkeypatch)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Where refusals are counted."""
    return CollectorRegistry()


@pytest.fixture
def allowance(registry: CollectorRegistry, clock: Clock) -> Allowance:
    """Ten mints a second, one decryption."""
    assert clock
    return Allowance(Quotas(mints_per_s=10, decryptions_per_s=1), registry, str)


def mints(allowance: Allowance, process: int, names: int = 1) -> int:
    """How many leaves a worker gets before it is refused one."""
    for number in range(10_000):
        try:
            allowance.mint(process, names, 0)
        except OverloadedError:
            return number
    raise AssertionError("there is no end of it")


def test_a_burst_and_a_rate(allowance: Allowance, clock: Clock) -> None:
    """A worker gets a burst at once, then what its rate gives, and never more than a burst."""
    assert mints(allowance, 1) == 100
    assert mints(allowance, 1) == 0
    clock.now += 1
    assert mints(allowance, 1) == 10
    clock.now += 3600
    assert mints(allowance, 1) == 100


def test_each_worker_has_its_own(allowance: Allowance) -> None:
    """What one worker wants is no other's loss."""
    assert mints(allowance, 1) == 100
    assert mints(allowance, 2) == 100


@pytest.mark.parametrize(("names", "leaves"), [(1, 100), (10, 100), (11, 90), (100, 10), (1_000_000, 10)])
def test_names_count(allowance: Allowance, names: int, leaves: int) -> None:
    """A leaf of many names counts as several."""
    assert mints(allowance, 1, names) == leaves


def test_each_key_has_its_own(allowance: Allowance) -> None:
    """An attack on one site's key leaves the other sites'."""
    for key in ("one", "other"):
        for _ in range(10):
            allowance.decrypt(1, key)
        with pytest.raises(OverloadedError, match="quota of decryptions"):
            allowance.decrypt(1, key)


def test_other_numbers(allowance: Allowance, clock: Clock) -> None:
    """After a reload the new numbers are in force."""
    assert mints(allowance, 1) == 100
    allowance.apply(Quotas(mints_per_s=1000))
    clock.now += 1
    assert mints(allowance, 1) == 1000


def test_one_line_in_a_while(
    allowance: Allowance, clock: Clock, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusals are counted each, and told once in ten seconds with how many there were."""
    assert mints(allowance, 7) == 100
    for _ in range(99):
        assert mints(allowance, 7) == 0
    clock.now += module.ALARM_EVERY_S
    mints(allowance, 7)
    assert caplog.messages == [
        f"worker process 7 asks for more than its quota: mints refused {number}; is it taken over?"
        for number in (1, 100)
    ]
    assert registry.get_sample_value("hsmitm_quota_refused_total", {"quota": "mints", "worker": "7"}) == 101


def test_what_is_remembered_is_bounded(allowance: Allowance) -> None:
    """However many processes come, those that asked lately are remembered, and no more."""
    for process in range(3000):
        allowance.mint(process, 1, 0)
    assert len(allowance._accounts) == module._ASKERS
    assert mints(allowance, 2999) == 99
