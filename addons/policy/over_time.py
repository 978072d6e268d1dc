"""A worker's policy over time: another one takes its place as a whole, when somebody asked for a reload.

The signer's answers to reports tell of that by a number (`hsm.wire.worker.Reported`). What is wrong in the file by then
leaves the policy that is in force, is said once, and is tried again with the next report.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Gauge

from addons.policy.addon import PolicyAddon
from addons.policy.rules import Compiled
from hsm.errors import MisconfiguredError
from hsm.wire.worker import Reported

logger = logging.getLogger("hsmitm.policy")

Reread = Callable[[], Awaitable[Compiled]]
"""The policy as the configuration has it now. Raises MisconfiguredError."""


class PolicyOverTime:
    """What keeps the addon's policy up to date."""

    def __init__(self, addon: PolicyAddon, reread: Reread, registry: CollectorRegistry) -> None:
        self._addon = addon
        self._reread = reread
        self._configuration: int | None = None
        self._complaint = ""
        self._reminded: dt.date | None = None
        self._failed = Gauge(
            "hsmitm_policy_reload_failed", "Workers that go on with an older policy than they were to read",
            registry=registry,
        )  # fmt: skip

    async def hear(self, told: Reported) -> None:
        """The signer answered a report. With the first answer the file is read, too: it may have been reloaded since
        the worker read it."""
        if told.of_configuration == self._configuration:
            self._remind()
            return
        try:
            policy = await self._reread()
        except MisconfiguredError as error:
            self._failed.set(1)
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error("the policy stays as it was: %s", error)  # noqa: TRY400  # an operator's sentence
            return
        self._configuration, self._complaint = told.of_configuration, ""
        self._failed.set(0)
        if policy.version != self._addon.policy.version:
            self._addon.swap(policy)
            self._reminded = None
            logger.info("policy %s is in force, with %d rules", policy.version, len(policy.rules))
        self._remind()

    def _remind(self) -> None:
        """Once a day, and of each new policy: what has ended, ends soon, or hardly matches."""
        now = dt.datetime.now(dt.UTC)
        if self._reminded != now.date():
            self._reminded = now.date()
            for warning in self._addon.policy.warnings(now):
                logger.warning("%s", warning)
