"""The decryption policy in the data path: one decision for each connection, from the facts that are known of it.

It is asked at each step at which more is known: at CONNECT or SOCKS5's request, at a redirected connection's beginning,
at the ClientHello. The first settled answer is kept; what becomes of it is the business of who asked. A connection is
decided upon by the policy that was in force when it was asked first.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from mitmproxy import connection, http

from addons.policy import asked
from addons.policy.settings import Profile
from addons.records.connections import facts_of
from addons.records.facts import Decision, Facts

_NO_POLICY = Decision("default", "decrypt")
_BUILT_IN = Profile()
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}


class PolicyAddon:
    """The addon that `DecideHook` asks."""

    name = asked.NAME

    def __init__(self, policy: Any = None) -> None:
        """`policy` is None where the operator has none: everything is decrypted."""
        self._policy = policy

    def policy_decide(self, client: connection.Client) -> Awaitable[None] | None:
        """Note the decision in the client's facts, if there is none yet that holds."""
        facts = facts_of(client)
        if facts.decision is None or not facts.decision.settled:
            self.decided(facts)
        return None

    def http_connect(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Where the answer is settled already, a client that is blocked gets its page here."""
        facts = facts_of(flow.client_conn)
        facts.host, facts.port = flow.request.host, flow.request.port
        decision = self.decided(facts)
        if decision.settled and decision.acts == "block" and flow.response is None:
            flow.response = http.Response.make(403, f"hsmitm: {decision.reason}\n", _TEXT)
        return None

    def decided(self, facts: Facts) -> Decision:
        """The decision on these facts, as it is noted."""
        facts.decision = _NO_POLICY
        return facts.decision


def policy_of(facts: Facts) -> Profile:
    """What is demanded of the server of this connection: the profile of its rule, the built-in one without a policy,
    and where it only warns."""
    if facts.policy is None or facts.decision is None or not facts.decision.enforced:
        return _BUILT_IN
    found: Profile = facts.policy.profile(facts.decision.profile)
    return found
