"""What a profile demands of the client itself: that its ClientHello is for the host it has asked for, and in the open.

The rule is decided by then; this can only make a block of it. Pure.
"""

from __future__ import annotations

from msgspec import structs
from msgspec.structs import replace

from addons.policy import domains, networks
from addons.policy.decision import decide
from addons.policy.settings import Profile
from addons.records.facts import Decision, ErrorClass, Facts


def demanded(facts: Facts, decision: Decision, profile: Profile) -> Decision:
    """`decision`, or the block that the profile makes of it now that the ClientHello is known."""
    if decision.action == "block" or not facts.hello:
        return decision
    if profile.sni_mismatch == "block" and differs(facts):
        why = f"the client asked for {facts.host}, and its SNI is {facts.sni}; sni_mismatch is block"
        return _blocked(decision, why, "sni-mismatch")
    # In a bypass the name that matters would be the hidden one: another site at the same address.
    if profile.ech == "block" and facts.ech:
        return _blocked(decision, "the client offers Encrypted Client Hello, and ech is block", "blocked-by-policy")
    return decision


def elsewhere(facts: Facts, name: str) -> Decision | None:
    """What would become of a connection like this one to the host `name`, for a request that names it in this one; None
    where that is what this one is for. What would have to be proved first is no yes."""
    policy = facts.policy
    if policy is None or domains.met(name) == domains.met(facts.sni or facts.host or facts.destination):
        return None
    by_name = facts.host and networks.number(facts.host.strip("[]")) is None
    other = structs.replace(facts, host=name if by_name else facts.host, sni=name)
    return decide(other, policy)


def differs(facts: Facts) -> bool:
    """Whether the client asked the proxy for one name, and says another in its ClientHello. Who asked for an address
    has named nobody; and an SNI that is no host name (some programs put a port into it) counts as none."""
    host = facts.host.strip("[]")
    if not host or not facts.sni or facts.mode in ("transparent", "inbound") or networks.number(host) is not None:
        return False
    said = domains.met(facts.sni)
    return bool(said.text) and said != domains.met(host)


def _blocked(decision: Decision, why: str, kind: ErrorClass) -> Decision:
    return replace(decision, action="block", reason=f"{why} (profile '{decision.profile}')", error=kind)
