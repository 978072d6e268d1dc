"""A configuration that is read again while the signer serves: what can change is taken over, the rest is named."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec import structs

from hsm.errors import HsmitmError, MisconfiguredError, RefusedError
from hsm.group.group import Group
from hsm.member.states import State
from hsm.signer.inbound import InboundService
from hsm.signer.members import Members
from hsm.signer.settings import SignerSettings
from hsm.signer.sites import Sites, load_sites

logger = logging.getLogger("hsmitm.signer")

_AT_START = {
    "group": "[hsm] high_availability or group",
    "authorities": "[forward.trust] or [forward.untrust]",
    "holders": "[forward.trust] or [forward.untrust]",
    "profile": "[forward] leaf_days",
    "run": "[run]",
    "state": "[run]",
    "users": "[run]",
}
"""Settings that are read once, and where the configuration has them."""

Reread = Callable[[], SignerSettings]
"""The settings as the configuration has them now. Raises MisconfiguredError."""


class Reloading:
    """The settings that are in force, and how others take their place."""

    def __init__(
        self,
        settings: SignerSettings,
        reread: Reread | None,
        cas: frozenset[bytes],
        group: Group,
        members: Members,
        inbound: InboundService,
    ) -> None:
        """`cas` are the CAs' public keys (DER SPKI), which no site may have."""
        self.settings = settings
        """In force now. Only `reload` writes it."""
        self._reread = reread
        self._cas = cas
        self._group = group
        self._members = members
        self._inbound = inbound
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> list[str]:
        """Take over what changed in the configuration and can change at runtime: members, their sessions, retry counts,
        times, what happens without a member, and inbound sites. In lines, what was done.

        Raises MisconfiguredError, with nothing changed, where the new configuration is wrong.
        """
        if self._reread is None:
            raise RefusedError("this signer has no configuration to read again")
        async with self._one_at_a_time:
            new = self._reread()
            sites = self._load_sites(new)
            self._refuse_prompts(new)
            self._inbound.expect(sites)
            lines = await self._take_members(new)
            lines += self._inbound.take(sites, await self._group.learn())
            group, old = self._group, self.settings
            if new.failover != old.failover or new.outage_grace_s != old.outage_grace_s:
                group.failover, group.outage_grace_s = new.failover, new.outage_grace_s
                lines.append(f"[hsm] now: auto_recovery_retry {new.failover.auto_recovery_retry}, "
                             f"attempt_timeout_ms {1000 * new.failover.attempt_timeout_s:.0f}, "
                             f"request_budget_ms {1000 * new.failover.budget_s:.0f}, "
                             f"keep_alive_s {new.failover.keep_alive_s:g}")  # fmt: skip
            if new.unavailable != old.unavailable:
                lines.append(f"[hsm] now: unavailable {new.unavailable}")
            changeable = structs.replace(
                old, members=new.members, failover=new.failover, unavailable=new.unavailable,
                outage_grace_s=new.outage_grace_s, inbound=new.inbound, for_workers=new.for_workers,
            )  # fmt: skip
            if new.for_workers != old.for_workers:
                lines.append("[[inbound]] changed: each worker takes it over with its next report, within seconds")
            stale = {where for name, where in _AT_START.items() if getattr(new, name) != getattr(changeable, name)}
            stale |= {where for where, text in new.at_start.items() if text != old.at_start.get(where)}
            lines += [f"{where} changed, and takes effect when hsmitm is started again" for where in sorted(stale)]
            self.settings = changeable
            for line in lines:
                logger.info("reload: %s", line)
            return lines or ["nothing changed"]

    def _load_sites(self, new: SignerSettings) -> Sites:
        names = [one.name for one in new.members]
        return load_sites(new.inbound, self._cas, names, anywhere=bool(self.settings.group))

    def _refuse_prompts(self, new: SignerSettings) -> None:
        present = {member.name for member in self._group.members}
        for one in new.members:
            if one.name not in present and one.pin.prompt:
                raise MisconfiguredError(f"member {one.name}: a PIN from a prompt needs a start on a terminal")

    async def _take_members(self, new: SignerSettings) -> list[str]:
        lines: list[str] = []
        wanted = {one.name: one for one in new.members}
        present = {member.name: member for member in self._group.members}
        added = self._members.make(one for name, one in wanted.items() if name not in present)
        self._members.start(added)
        for member in added:
            await member.settled.wait()
            lines.append(f"member {member.name} added: {member.state}, {member.reason}")
        for name, member in present.items():
            if name in wanted and (wanted[name] != member.settings or member.state is State.QUARANTINED):
                try:
                    lines.append(f"member {name}: {await member.reset(wanted[name])}")
                except HsmitmError as error:
                    lines.append(f"member {name}: not changed: {error}")
        for name in [one for one in present if one not in wanted]:
            await self._members.remove(present[name])
            lines.append(f"member {name} removed")
        return lines
