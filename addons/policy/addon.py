"""The decryption policy in the data path: one decision for each connection, from the facts that are known of it.

It is asked at each step at which more is known: at CONNECT or SOCKS5's request, at a redirected connection's beginning,
at the ClientHello, or with each request where there is none. What a decision waits for that can be found out is: the
addresses of a host, and whether a destination is the name that a client says. A connection is decided upon by the
policy that was in force when it was asked first; a reload puts another in the place of the whole.

A block that is known at CONNECT is a page. One that only the ClientHello brings is an alert, and no page under a leaf:
the HSM is not to be asked for what is blocked, so that a page could be had for names whose leaf happens to be cached
alone; the client would have to be handed an inspected connection to a destination that nobody has connected to, and
programs that speak no HTTP would get HTTP. An alert is the same for all, at once, and costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from mitmproxy import connection, ctx, http
from mitmproxy.utils import human
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from addons.pages import pages
from addons.policy import asked
from addons.policy.asked import Deciding
from addons.policy.case import Case
from addons.policy.criteria import Honest
from addons.policy.decision import decide
from addons.policy.demands import demanded
from addons.policy.exclusions import FOR_S, Exclusions
from addons.policy.hits import Hits
from addons.policy.rules import Compiled, compiled
from addons.policy.settings import OnOutage, Policy, Profile
from addons.records.connections import facts_of
from addons.records.facts import Decision, Facts

logger = logging.getLogger("hsmitm.policy")

Prove = Callable[[connection.Client, Facts], Awaitable[None]]
"""Find out whether the destination is the SNI's, and note it in `Facts.sni_proved`."""
Away = Callable[[], Awaitable[bool]]
"""Whether no member of the HSM serves now."""
_BUILT_IN = Profile()


class PolicyAddon:
    """The addon that `DecideHook` asks."""

    name = asked.NAME

    def __init__(
        self,
        policy: Compiled | None = None,
        registry: CollectorRegistry | None = None,
        *,
        prove: Prove | None = None,
        away: Away | None = None,
    ) -> None:
        """Without a `policy` everything is decrypted, as far as the built-in profile has it."""
        self._hits = Hits(registry or CollectorRegistry())
        self.prove = prove
        self._away = away
        self._exclusions = Exclusions()
        self.swap(policy or compiled(Policy()))

    def swap(self, policy: Compiled) -> None:
        """From here on this is the policy; connections that were decided upon keep what they have."""
        self.policy = policy
        self._hits.show(policy)

    # what layers and hooks ask

    def policy_decide(self, data: Deciding) -> Awaitable[None] | None:
        """Note the decision in the client's facts."""
        facts = facts_of(data.client)
        if not facts.decided:
            self.decided(facts)
            if self._can_learn(facts):
                return self._learn(data.client, facts, data.address)
            return self._hold(data.client, facts)
        return None

    def http_connect(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Where the answer is settled already, a client that is blocked gets its page here."""
        client, request = flow.client_conn, flow.request
        facts = facts_of(client)
        asked.begin(client, request.host, request.port)
        self.decided(facts)
        if self._can_learn(facts):
            return self._learn_and_answer(flow, facts)
        self._answer(flow, facts)
        return None

    def client_disconnected(self, client: connection.Client) -> None:
        """A connection that ended before it could be decided upon for good counts with what it had."""
        facts = facts_of(client)
        if facts.decision is not None and not facts.decided:
            self._hits.count(facts.decision)

    def decided(self, facts: Facts) -> Decision:
        """The decision on these facts, as it is noted: it may wait for others still."""
        if facts.policy is None:
            facts.policy = self.policy
            facts.policy_version = self.policy.version
        policy: Compiled = facts.policy
        decision = facts.decision
        if decision is None or not decision.settled:
            decision = decide(facts, policy)
            if policy.mode == "warn":
                decision = replace(decision, enforced=False)
            facts.categories = decision.categories
        facts.decision = decision
        return decision

    # what is found out

    def _can_learn(self, facts: Facts) -> bool:
        missing = facts.decision.missing if facts.decision is not None else ()
        addresses = "addresses" in missing and facts.addresses is None
        return addresses or ("proof" in missing and facts.sni_proved is None)

    async def _learn(
        self, client: connection.Client, facts: Facts, address: connection.Address | None, *, hold: bool = True
    ) -> None:
        while self._can_learn(facts):
            assert facts.decision is not None
            if "addresses" in facts.decision.missing and facts.addresses is None:
                facts.addresses = await _addresses(client, facts, address)
            else:
                await self._proved(client, facts)
            self.decided(facts)
        if hold and (waiting := self._hold(client, facts)) is not None:
            await waiting

    async def _proved(self, client: connection.Client, facts: Facts) -> None:
        if self.prove is not None:
            await self.prove(client, facts)
        if facts.sni_proved is None:
            facts.sni_proved = False

    # what holds

    def _hold(self, client: connection.Client, facts: Facts) -> Awaitable[None] | None:
        """With the ClientHello, or a request that has none, there is nothing more to come: this is the decision."""
        assert facts.decision is not None
        if not (facts.hello or facts.plain):
            if facts.decision.settled and facts.decision.acts == "block":
                self._close(client, facts)
            return None
        facts.decision = self._excluded(facts, demanded(facts, facts.decision, policy_of(facts)))
        passes = on_outage_of(facts) == "bypass" and facts.decision.action == "decrypt" and not facts.plain
        if passes and self._away is not None:
            return self._bypass_in_outage(client, facts, self._away())
        self._close(client, facts)
        return None

    def _excluded(self, facts: Facts, decision: Decision) -> Decision:
        """`decision`, or the bypass of a server that has asked for a client's certificate before."""
        if decision.action != "decrypt" or facts.plain or policy_of(facts).client_certificate != "bypass":
            return decision
        if not self._exclusions.holds(facts, time.monotonic()):
            return decision
        why = f"rule '{decision.rule}' says decrypt, and the server asks clients for a certificate"
        return replace(decision, action="bypass", reason=f"{why} (profile '{decision.profile}')")

    def exclude(self, client: connection.Client) -> None:
        """The client's server has asked for a certificate, and is passed by from its next connection on."""
        facts = facts_of(client)
        if self._exclusions.note(facts, time.monotonic()):
            logger.info(
                "client %s: %s asks for a client certificate, and is not inspected from its next connection on, for "
                "%g h (profile '%s')",
                human.format_address(client.peername), facts.name, FOR_S / 3600,
                facts.decision.profile if facts.decision is not None else "default",
            )  # fmt: skip

    async def _bypass_in_outage(self, client: connection.Client, facts: Facts, away: Awaitable[bool]) -> None:
        """The rule has it that this site is passed while no member serves; not whoever says that it is this site."""
        decision = facts.decision
        assert decision is not None
        if await away:
            rule = facts.policy.rule(decision.rule)
            honest = Honest(named=bool(rule.to.domains or rule.to.categories))
            if honest.holds(Case(facts, facts.policy.categories)) == "proof":
                await self._proved(client, facts)
            case = Case(facts, facts.policy.categories)
            why = f"rule '{decision.rule}' says {decision.action}, no member of the HSM is in service, and "
            if honest.holds(case) is True:
                why += "hsm_unavailable is bypass"
                facts.decision = replace(decision, action="bypass", reason=why)
                logger.info(
                    "client %s: %s is not inspected: %s", human.format_address(client.peername), facts.name, why
                )
            else:
                facts.decision = replace(decision, reason=f"{why}there is no bypass: {honest.told(case)}")
        self._close(client, facts)

    def _close(self, client: connection.Client, facts: Facts) -> None:
        """The decision is made."""
        assert facts.decision is not None
        decision = facts.decision = replace(facts.decision, settled=True, missing=())
        facts.decided = True
        self._hits.count(decision)
        if decision.acts == "block":
            facts.event = "blocked"
            facts.fail(decision.error or "blocked-by-policy", "client", decision.reason)
        elif decision.action != decision.acts:
            logger.info(
                "client %s: %s would be %s, and [policy] mode is warn: %s",
                human.format_address(client.peername), facts.name, _PAST[decision.action], decision.reason,
                extra={"log_class": "policy-warns"},
            )  # fmt: skip

    # CONNECT

    async def _learn_and_answer(self, flow: http.HTTPFlow, facts: Facts) -> None:
        address = flow.request.host, flow.request.port
        await self._learn(flow.client_conn, facts, address, hold=False)
        self._answer(flow, facts)

    def _answer(self, flow: http.HTTPFlow, facts: Facts) -> None:
        decision = facts.decision
        if decision is not None and decision.settled and decision.acts == "block" and flow.response is None:
            self._close(flow.client_conn, facts)
            flow.response = pages.current().page(facts, kind="blocked-by-policy", request=flow.request)


_PAST = {"block": "blocked", "bypass": "passed uninspected", "decrypt": "decrypted"}


async def _addresses(client: connection.Client, facts: Facts, address: connection.Address | None) -> tuple[str, ...]:
    """Those that a connection to `address` will go to. Where another proxy looks the name up, nobody knows."""
    connecting = ctx.master.addons.get("connecting")
    if connecting is None or address is None or facts.mode == "upstream":
        return ()
    inbound = facts.mode == "inbound"
    found: tuple[str, ...] = await connecting.addresses(client, address if inbound else None, *address[:2])
    return found


def policy_of(facts: Facts) -> Profile:
    """What is demanded of the server of this connection: the profile of its rule; without one, and where the policy
    only warns, that which is called "default"."""
    policy: Compiled | None = facts.policy
    if policy is None:
        return _BUILT_IN
    decision = facts.decision
    return policy.profile(decision.profile if decision is not None and decision.enforced else "default")


def exclude(client: connection.Client) -> None:
    """As `PolicyAddon.exclude`, where a worker runs."""
    addon = ctx.master.addons.get(asked.NAME)
    if addon is not None:
        addon.exclude(client)


def on_outage_of(facts: Facts) -> OnOutage | None:
    """What the rule says of times at which no member serves; None where it leaves that to `hsm.unavailable`."""
    decision = facts.decision
    return decision.hsm_unavailable if decision is not None and decision.enforced else None


def will_decrypt(facts: Facts) -> bool:
    """Whether the connection will be decrypted, if it comes to anything, as far as is known by now."""
    decision, policy = facts.decision, facts.policy
    if decision is None:
        return True
    if decision.acts != "decrypt" or on_outage_of(facts) == "bypass":
        return False
    return decision.settled or not decision.enforced or not policy.passes
