"""A worker's policy over time: what the signer tells of a reload, and a file that is right or wrong."""

from __future__ import annotations

import datetime as dt

import pytest
from prometheus_client import CollectorRegistry

from addons.policy.addon import PolicyAddon
from addons.policy.over_time import PolicyOverTime
from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Accept, Policy
from hsm.errors import MisconfiguredError
from hsm.wire.worker import Reported
from tests.addons.policy.policies import policy, rule


class _File:
    """The configuration."""

    def __init__(self, now: Compiled) -> None:
        self.now: Compiled | str = now
        self.read = 0

    async def __call__(self) -> Compiled:
        self.read += 1
        if isinstance(self.now, str):
            raise MisconfiguredError(self.now)
        return self.now


def _told(configuration: int) -> Reported:
    return Reported(True, "fail", 7, configuration)


class _Worker:
    """One, whose file says this."""

    def __init__(self, first: Compiled) -> None:
        self.registry = CollectorRegistry()
        self.addon, self.file = PolicyAddon(first, self.registry), _File(first)
        self.over_time = PolicyOverTime(self.addon, self.file, self.registry)

    async def hear(self, configuration: int) -> None:
        await self.over_time.hear(_told(configuration))

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


async def test_another_policy_takes_its_place_as_a_whole() -> None:
    """With a reload, and not before: an edit is nobody's wish until then."""
    first, second = policy(), policy(rule("games", "block", "games.test"))
    worker = _Worker(first)
    await worker.hear(3)
    worker.file.now = second
    for _ in range(3):
        await worker.hear(3)
    assert worker.addon.policy is first
    assert worker.sample("hsmitm_policy_version", version=first.version) == 1
    await worker.hear(4)
    assert worker.addon.policy is second
    assert worker.sample("hsmitm_policy_version", version=first.version) is None
    assert worker.sample("hsmitm_policy_version", version=second.version) == 1
    assert worker.file.read == 2


async def test_a_reload_that_the_worker_has_missed() -> None:
    """What was reloaded between the worker's start and its first report is read with that."""
    worker = _Worker(policy())
    worker.file.now = second = policy(rule("games", "block", "games.test"))
    await worker.hear(9)
    assert worker.addon.policy is second


async def test_a_wrong_file_leaves_the_old_policy(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, a metric shows it, and the file is tried again with each report."""
    worker = _Worker(first := policy(rule("games", "block", "games.test")))
    await worker.hear(1)
    worker.file.now = "hsmitm.toml: policy.rules[0]: unknown field"
    for _ in range(3):
        await worker.hear(2)
    assert worker.addon.policy is first
    assert worker.sample("hsmitm_policy_reload_failed") == 1
    assert caplog.messages == ["the policy stays as it was: hsmitm.toml: policy.rules[0]: unknown field"]
    worker.file.now = second = policy()
    await worker.hear(2)
    assert worker.addon.policy is second
    assert worker.sample("hsmitm_policy_reload_failed") == 0


async def test_what_ends_soon_is_said_once_a_day(caplog: pytest.LogCaptureFixture) -> None:
    """An accepted certificate that ends within 30 days: the log says so at the start, and not with each report."""
    ends = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=10)
    accepted = Accept(host="nas.test", spki_sha256="0" * 64, reason="CHG-1", expires=ends)
    worker = _Worker(compiled(Policy(), accepts=[accepted]))
    for configuration in (1, 1, 2, 2):
        await worker.hear(configuration)
    assert caplog.text.count(f"upstream.accept[0] 'nas.test': expires: it ends with {ends.isoformat()}") == 1
