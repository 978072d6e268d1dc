"""The members that hold the same keys. The door of this room: what is asked of the group, what members tell it, what
can be said of it and of a key, and what an operator does to it.

The way of one request stands in `hsm.group.dispatch`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence, Set

from prometheus_client import CollectorRegistry

from hsm.errors import BadNews, HsmitmError, MisconfiguredError
from hsm.group.dispatch import Dispatch, Want
from hsm.group.signature import Signature
from hsm.group.states import GroupState, group_state
from hsm.group.waiting_line import Asker
from hsm.member.key import DECRYPTION, Key
from hsm.member.member import Member
from hsm.member.metrics import MemberMetrics
from hsm.member.settings import Failover, MemberSettings
from hsm.member.slots import RAMP_S
from hsm.member.states import State
from hsm.member.turn import Turn
from hsm.schemes import Scheme
from hsm.wire.member import Decrypt

logger = logging.getLogger("hsmitm.group")


class Group:
    """Members and the keys that they hold."""

    def __init__(self, keys: dict[str, Key], registry: CollectorRegistry, failover: Failover | None = None) -> None:
        """`registry` gets the signature counters."""
        self.keys = keys
        self.authorities = [name for name, key in keys.items() if not key.inbound]
        """The CAs' keys: those that forward proxying needs. They stay the same."""
        self.members: Sequence[Member] = ()
        """Written by the signer, as `failover` and `outage_grace_s` are: at start, and by a reload."""
        self.failover = failover or Failover()
        self.metrics = MemberMetrics(registry)
        self.state = GroupState.OUTAGE
        self.since = time.time()
        self.outage_grace_s = 0.0
        """How long a request without a member in service waits for one, if that is longer than its budget."""
        self.changes = 0
        """Grows whenever a member's state or the keys that it proved changed."""
        self._made: dict[str, Set[str]] = {}
        self._dispatch = Dispatch(self, self.metrics)
        self._out_since = dict.fromkeys(self.authorities, time.monotonic())
        self.turn = Turn()
        """Of the member whose sessions are built anew. Members take it too, to replace themselves."""

    def keys_for(self, member: str) -> dict[str, Key]:
        """The keys that a member may hold."""
        return {name: key for name, key in self.keys.items() if key.members is None or member in key.members}

    # what members call (`hsm.member.member.Peers`)

    def freed(self) -> None:
        """A slot is free."""
        self._dispatch.freed()

    def changed(self, member: Member) -> None:
        """A state changed, or the keys that a member proved."""
        self.changes += 1
        self.freed()
        self._note_outages()
        state = group_state(one.state for one in self.members)
        if state is not self.state:
            self._move(state, member)

    def _move(self, state: GroupState, member: Member) -> None:
        before, self.state, self.since = self.state, state, time.time()
        self.metrics.group_moved(before, state)
        worse = member.state not in (State.UP, State.STOPPED)
        level = {GroupState.OUTAGE: logging.ERROR, GroupState.LAST: logging.WARNING}.get(state, logging.INFO)
        level = level if worse else logging.INFO
        logger.log(level, "group: %s -> %s: member %s is %s", before, state, member.name, member.state)
        if state is GroupState.OUTAGE:
            for one in self.members:
                one.reconsider()

    def outage(self) -> bool:
        """Whether no member is in service."""
        return not any(member.serving for member in self.members)

    def alone(self, member: Member) -> bool:
        """Whether no other member is in service."""
        return not any(one.serving for one in self.members if one is not member)

    def others_bear(self, member: Member, keys: Set[str]) -> bool:
        """Whether others have served each of `keys` long enough to bear the load a moment longer."""
        others = [one for one in self.members if one is not member and one.up_for_s >= RAMP_S]
        return all(any(one.serves(key) for one in others) for key in keys)

    # what can be said of a key

    def proved_by(self, key: str, scheme: str = "") -> list[str]:
        """Names of the members that proved `key`, and `scheme` with it where it is given, and are in service."""
        return [member.name for member in self.members if member.serves(key, scheme)]

    def problems(self, key: str, scheme: str = "") -> dict[str, str]:
        """For each member that should serve `key`, in `scheme` where it is given, and does not, why not."""
        return {one.name: problem for one in self.holders(key) if (problem := one.problem(key, scheme))}

    def schemes(self, key: str) -> list[Scheme]:
        """The schemes that some member in service makes with `key`, the preferred one first. Where none is in service
        those that were made last, and before any was, all: the members come back, and are what they were."""
        made = set[str]().union(*(member.schemes(key) for member in self.members))
        if made:
            self._made[key] = made
        known = self._made.get(key)
        return [one for one in self.keys[key].schemes if known is None or one.name in known]

    def hopeless(self, key: str) -> bool:
        """Whether no member serves `key`, and none will before an operator acts or the key appears: an HSM that is away
        may have it."""
        return not any(
            one.serves(key) or one.state in (State.DOWN, State.STARTING) for one in self.holders(key)
        )  # fmt: skip

    def holders(self, key: str) -> list[Member]:
        """The members that should serve `key`."""
        if key not in self.keys:
            return []
        names = self.keys[key].members
        return [one for one in self.members if names is None or one.name in names]

    @property
    def waiting(self) -> int:
        """Requests that wait for a free slot."""
        return self._dispatch.waiting

    def in_service(self) -> bool:
        """Whether each CA's key has a member in service, or had one within the time that a request may wait for it."""
        self._note_outages()
        now, patience = time.monotonic(), self._patience_s()
        return all(now - since <= patience for since in self._out_since.values())

    def _note_outages(self) -> None:
        for name in self.authorities:
            if any(member.serves(name) for member in self.members):
                self._out_since.pop(name, None)
            else:
                self._out_since.setdefault(name, time.monotonic())

    # requests

    async def sign(
        self,
        name: str,
        message: bytes | None,
        digest: bytes,
        deadline: float,
        purpose: str,
        scheme: Scheme | None = None,
        asker: Asker = 0,
    ) -> Signature:
        """A verified signature of `message` by the key `name`: of its `digest`, which stands alone where the message is
        None, in `scheme` or else the key's own. Where members are busy, askers are served in turn.

        Raises UnavailableError, OverloadedError or RefusedError; at the latest when the request's budget is spent.
        """
        request = self.keys[name].request(message, digest, scheme)

        async def ask(member: Member, until: float, patience_s: float) -> Signature:
            began = time.monotonic()
            made = await member.sign(request, until, purpose, patience_s)
            return Signature(made, member.name, 1000 * (time.monotonic() - began))

        return await self._dispatch.request(Want(name, request.scheme), deadline, ask, asker)

    async def decrypt(self, name: str, ciphertext: bytes, deadline: float, asker: Asker = 0) -> bytes:
        """The plaintext of `ciphertext` (as long as the RSA key's modulus) by the key `name`, empty for wrong padding.

        Raises as `sign`. A client's bad ciphertext is one call at one member, and changes nothing there.
        """
        request = Decrypt(name, ciphertext)
        return await self._dispatch.request(
            Want(name, DECRYPTION),
            deadline,
            lambda member, until, patience_s: member.decrypt(request, until, patience_s),
            asker,
        )

    async def wait_for_member(self, name: str, deadline: float, asker: Asker = 0) -> None:
        """Return once a member serves the key `name`. Raises UnavailableError, saying why there is none."""
        want = Want(name)
        patience_s = max(self._patience_s(), self._dispatch.budget_s(want))
        await self._dispatch.free_member(want, set(), min(deadline, time.monotonic() + patience_s), {}, asker)

    def _patience_s(self) -> float:
        return max(self.failover.budget_s, self.outage_grace_s)

    # what an operator does

    def assign(self, keys: dict[str, Key]) -> None:
        """These are the keys from now on, the CAs' as before. Members forget those that are gone; new ones: `learn`."""
        self.keys = keys
        self._made = {name: made for name, made in self._made.items() if name in keys}
        for member in self.members:
            member.assign(self.keys_for(member.name))
        self.freed()  # whoever waits for a key that is gone is told

    async def learn(self) -> dict[str, HsmitmError]:
        """Have the members look for the keys that they do not know: one after another, each by a new life beside the
        old one. For each member that could not, why."""
        failed: dict[str, HsmitmError] = {}
        for member in self.members:
            async with self.turn.taken():
                try:
                    await member.learn()
                except HsmitmError as error:
                    failed[member.name] = error
        return failed

    async def change(self, member: Member, settings: MemberSettings) -> str:
        """`Member.reset` of one of the members with other settings, in its turn."""
        async with self.turn.taken():
            return await member.reset(settings)

    async def reset(self, name: str | None) -> list[str]:
        """`Member.reset` of one member, or of each in turn: never two at a time. In lines, what came of it."""
        chosen = [one for one in self.members if name in (None, one.name)]
        if not chosen:
            known = ", ".join(one.name for one in self.members)
            raise MisconfiguredError(f"there is no member '{name}'; known are {known}")
        lines = []
        for member in chosen:
            async with self.turn.taken():
                try:
                    lines.append(f"{member.name}: {await member.reset(asked=name is not None)}")
                except HsmitmError as error:
                    if name is not None:
                        raise
                    lines.append(BadNews(f"{member.name}: not reset: {error}", error))
                else:
                    lines += self.unserved(member)
        return lines

    def unserved(self, member: Member) -> list[str]:
        """A line for each key that a member which is in service should serve and does not."""
        return [
            BadNews(f"{member.name}: it does not serve the {key.title}: {problem}", lasting=True)
            for name, key in self.keys_for(member.name).items()
            if member.serving and (problem := member.problem(name))
        ]
