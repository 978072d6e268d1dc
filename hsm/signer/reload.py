"""A configuration that is read again while the signer serves: what can change is taken over, the rest is named."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec import structs

from hsm.effect import AtReload, AtStart, EachAtStart, marked
from hsm.errors import BadNews, HsmitmError, MisconfiguredError, RefusedError
from hsm.group.group import Group
from hsm.member.member import Member
from hsm.member.states import State
from hsm.signer.inbound import InboundService
from hsm.signer.members import Members
from hsm.signer.quotas import Allowance
from hsm.signer.settings import SignerSettings
from hsm.signer.sites import Sites, load_sites
from hsm.signer.staples import KeptStaples

logger = logging.getLogger("hsmitm.signer")

_LOOKED_AT = ("members", "inbound")
"""Taken over also where the text is the same: a quarantined member is tried again, certificate files are read again."""

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
        staples: KeptStaples,
        allowance: Allowance,
    ) -> None:
        """`cas` are the CAs' public keys (DER SPKI), which no site may have."""
        self.settings = settings
        """In force now. Only `reload` writes it."""
        self._reread = reread
        self._cas = cas
        self._group = group
        self._members = members
        self._inbound = inbound
        self._staples = staples
        self._allowance = allowance
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> list[str]:
        """Take over what changed in the configuration and can change at runtime: members, their sessions, retry counts,
        times, what happens without a member, and inbound sites. In lines, what was done.

        Raises MisconfiguredError, with nothing changed, where the new configuration is wrong.
        """
        if self._reread is None:
            raise RefusedError("this signer has no configuration to read again")
        async with self._one_at_a_time:
            new = _grouped_as(self.settings, self._reread())
            sites = self._load_sites(new)
            self._refuse_prompts(new)
            self._inbound.expect(sites)
            lines = await self._take_over(self.settings, new, sites)
            for line in lines:
                logger.info("reload: %s", line)
            return lines or ["nothing changed"]

    async def _take_over(self, old: SignerSettings, new: SignerSettings, sites: Sites) -> list[str]:
        """Each field as its type says: taken over and told, or named as waiting for a new start."""
        lines: list[str] = []
        taken: dict[str, object] = {}
        told: dict[str, bool] = {}
        later: set[str] = set()
        for name, effect, value in marked(new):
            before = getattr(old, name)
            match effect:
                case AtReload(where):
                    taken[name] = value
                    found = await self._take(name, new, sites) if value != before or name in _LOOKED_AT else []
                    lines += found
                    if value != before:
                        told[where] = told.get(where, False) or bool(found)
                case AtStart(where) if value != before:
                    later.add(where)
                case EachAtStart():
                    later |= {where for where in before | value if before.get(where) != value.get(where)}
        self.settings = structs.replace(old, **taken)
        lines += [f"{where} changed, and is taken over" for where, said in told.items() if not said]
        return lines + [f"{where} changed, and takes effect when hsmitm is started again" for where in sorted(later)]

    async def _take(self, name: str, new: SignerSettings, sites: Sites) -> list[str]:
        """Bring one field of `new` to where it is used. In lines, what that means."""
        match name:
            case "members":
                return await self._take_members(new)
            case "inbound":
                lines = self._inbound.take(sites, await self._group.learn())
                self._staples.take(sites)
                return lines
            case "failover":
                failover = self._group.failover = new.failover
                now = (
                    f"auto_recovery_retry {failover.auto_recovery_retry}, "
                    f"attempt_timeout_ms {1000 * failover.attempt_timeout_s:.0f}, "
                    f"request_budget_ms {1000 * failover.budget_s:.0f}, keep_alive_s {failover.keep_alive_s:g}"
                )
            case "unavailable":  # each report of a worker is answered with what is in force
                now = f"unavailable {new.unavailable}"
            case "quotas":
                self._allowance.apply(new.quotas)
                now = f"mints_per_s {new.quotas.mints_per_s:g}, decryptions_per_s {new.quotas.decryptions_per_s:g}"
            case "outage_grace_s":
                self._group.outage_grace_s = new.outage_grace_s
                return []
            case "for_workers":
                return ["what workers read has changed: each takes it over with its next report, within seconds"]
            case _:
                raise NotImplementedError(f"SignerSettings.{name} is to be taken over at a reload, and nothing does it")
        return [f"[hsm] now: {now}"]

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
            lines.append(_added(member))
            lines += self._group.unserved(member)
        for name, member in present.items():
            if name in wanted and (wanted[name] != member.settings or member.state is State.QUARANTINED):
                try:
                    lines.append(f"member {name}: {await self._group.change(member, wanted[name])}")
                except HsmitmError as error:
                    lines.append(BadNews(f"member {name}: not changed: {error}", error))
        for name in [one for one in present if one not in wanted]:
            await self._members.remove(present[name])
            lines.append(f"member {name} removed")
        self._members.arrange(wanted)
        return lines


def _added(member: Member) -> str:
    line = f"member {member.name} added: {member.state}, {member.reason}"
    return line if member.serving else BadNews(line, lasting=member.state is State.QUARANTINED)


def _grouped_as(old: SignerSettings, new: SignerSettings) -> SignerSettings:
    """`new`, with keys at the members where `old` has them, if high availability itself changed: that waits for a new
    start, and with it whose a key is."""
    if bool(new.group) == bool(old.group):
        return new
    before = {one.key: one.holder for one in old.inbound}
    inbound = [structs.replace(one, holder=before.get(one.key, "")) for one in new.inbound]
    return structs.replace(new, inbound=inbound, holders=old.holders)
