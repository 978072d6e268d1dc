"""The members as the signer runs them: made, started, waited for, added and taken away; and the CAs' keys they hold.

What a member does between its start and its end is its own business (`hsm.member`), and which of them gets a request
is the group's (`hsm.group`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping

from hsm.certificates.issuer import Issuer
from hsm.errors import MisconfiguredError
from hsm.group.group import Group
from hsm.member.key import Key
from hsm.member.member import Member
from hsm.member.settings import MemberSettings
from hsm.member.states import State
from hsm.secrets.refusals import Refusals
from hsm.signer.settings import SignerSettings
from hsm.wire.worker import Authority

logger = logging.getLogger("hsmitm.signer")

_SLOW_START_S = 2.0
"""How long the start waits for members that are not needed to serve every key."""
_LONGEST_START_S = 90.0
"""And for those that are: then it serves without them, as it does without an HSM that answers that it is away. The
unit's TimeoutStartSec is longer."""


class Members:
    """The members of `group`, each with the task that drives it. Nobody else writes `Group.members`."""

    def __init__(self, group: Group, refusals: Refusals, prompted: Mapping[str, str]) -> None:
        """`prompted` are PINs that were asked for on a terminal, by member."""
        self._group = group
        self._refusals = refusals
        self._prompted = prompted
        self._runs: dict[str, asyncio.Task[None]] = {}

    def make(self, settings: Iterable[MemberSettings]) -> list[Member]:
        """New members of the group, which do not run yet."""
        group = self._group
        made = [
            Member(one, group.keys_for(one.name), self._refusals, group, self._prompted.get(one.name))
            for one in settings
        ]
        group.members = [*group.members, *made]
        return made

    def start(self, members: Iterable[Member]) -> None:
        """Run them until `remove` or `stop`."""
        for member in members:
            self._runs[member.name] = asyncio.create_task(member.run())

    async def settled(self) -> None:
        """Until every member is in service or known not to be; a member that takes long is not waited for once each
        key is served by another, and none for ever."""
        group = self._group
        settling = {asyncio.create_task(member.settled.wait()) for member in group.members}
        begun = time.monotonic()
        while settling:
            served = all(group.proved_by(name) for name in group.keys)
            until = begun + (_SLOW_START_S if served else _LONGEST_START_S)
            left = max(0.0, until - time.monotonic())
            done, settling = await asyncio.wait(settling, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
        for task in settling:
            task.cancel()

    def refuse_bad_world(self) -> None:
        """Raise MisconfiguredError where a CA's key, or every key that there is, is served by no member for reasons
        that only an operator can mend. An HSM that cannot be reached is no such reason, and a site whose key is missing
        is refused to its clients and no concern of the others."""
        group = self._group
        hopeless = [name for name in group.keys if group.hopeless(name)]
        fatal = [name for name in hopeless if name in group.authorities or len(hopeless) == len(group.keys)]
        for name in fatal:
            if all(member.state is State.QUARANTINED for member in group.members):
                raise MisconfiguredError("; ".join(f"member {m.name}: {m.reason}" for m in group.holders(name)))
            raise MisconfiguredError(f"the {group.keys[name].title} is on no member: {self._problems(name)}")

    def tell_of_the_missing(self) -> None:
        """Say at the start which keys of CAs no member serves yet: we serve without, as `unavailable` says."""
        for name in self._group.authorities:
            if not self._group.proved_by(name):
                title = self._group.keys[name].title
                logger.warning("no member serves the %s yet; tried again: %s", title, self._problems(name))

    def _problems(self, key: str) -> str:
        return "; ".join(f"{member}: {why}" for member, why in self._group.problems(key).items())

    async def remove(self, member: Member) -> None:
        """Let it answer what it has, then end it and its process."""
        await member.stop(drain=True)
        task = self._runs.pop(member.name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await member.stop()
        self._group.members = [one for one in self._group.members if one is not member]
        self._group.changed(member)

    def arrange(self, names: Iterable[str]) -> None:
        """Put the members in the order of `names`, which has them all."""
        places = {name: place for place, name in enumerate(names)}
        self._group.members = sorted(self._group.members, key=lambda member: places[member.name])

    def cancel(self) -> None:
        """No member begins anything new; `stop` comes next."""
        for task in self._runs.values():
            task.cancel()

    async def stop(self) -> None:
        """End every member and its process."""
        self.cancel()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        await asyncio.gather(*(member.stop() for member in self._group.members))


def keys_of(settings: SignerSettings, issuers: Mapping[Authority, Issuer]) -> dict[str, Key]:
    """The CAs' keys that members hold. In an HA group the URI's place is no matter: each member has a partition of its
    own, and the public key tells. Otherwise a key is the business of the one member whose partition the URI names."""
    keys = {}
    for name, issuer in issuers.items():
        stated = settings.authorities[name].key
        if settings.group:
            keys[str(name)] = Key(name, stated.anywhere(), issuer.key, issuer.scheme, others=issuer.schemes[1:])
        else:
            holders = (
                frozenset({settings.holders[name]})
                if name in settings.holders
                else frozenset(one.name for one in settings.members)
            )
            keys[str(name)] = Key(name, stated, issuer.key, issuer.scheme, holders, issuer.schemes[1:])
    return keys
