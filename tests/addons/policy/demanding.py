"""Clients whose servers are judged by a profile of the test's."""

from __future__ import annotations

from collections.abc import Sequence

from mitmproxy import connection

from addons.policy.rules import compiled
from addons.policy.settings import Accept, ClientCertificate, Policy, Profile
from addons.records.connections import facts_of
from addons.records.facts import Decision


def demanding(
    client: connection.Client,
    profile: Profile,
    accepts: Sequence[Accept] = (),
    certificates: Sequence[ClientCertificate] = (),
) -> None:
    """What the policy in force demands of this client's servers."""
    facts = facts_of(client)
    facts.policy = compiled(Policy(), {"wanted": profile}, accepts, certificates)
    facts.decision = Decision("test", "decrypt", profile="wanted")
