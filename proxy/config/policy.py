"""[policy], [profiles.NAME] and [[upstream.accept]] of hsmitm.toml: what becomes of connections and of servers' faults.

Names, defaults and bounds are those of `addons.policy.settings`. The whole is compiled when the file is read, so that
what is wrong in it is said then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from msgspec import structs

from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Accept, ClientCertificate, Policy, Profile, Rule
from addons.upstream.settings import Own
from hsm.effect import AtReload, AtStart
from proxy.config.section import Address, Section

TAKEN_OVER = AtReload("[policy], [profiles] or [[upstream.accept]]")


class PolicySection(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[policy]: which connections are decrypted, bypassed and blocked."""


class UpstreamSection(Section, frozen=True):
    """[upstream]: sites whose broken certificate is accepted, and certificates of ours for servers that ask for one."""

    accept: Annotated[tuple[Accept, ...], TAKEN_OVER] = ()
    client_certificates: Annotated[
        tuple[ClientCertificate, ...], AtStart("[[upstream.client_certificates]]")
    ] = ()  # files, which a worker that is locked in can no longer open

    def own(self, base: Path) -> dict[str, Own]:
        """Certificates of ours, by name. Paths start from `base`."""
        return {
            one.name: Own(base / one.certificate, base / (one.key or one.certificate))
            for one in self.client_certificates
        }


def taken(
    policy: PolicySection, profiles: Mapping[str, Profile], upstream: UpstreamSection, listeners: Collection[str]
) -> Compiled:
    """The policy as it is decided by; `listeners` are the addresses where clients come in, as the file writes them.

    Raises ValueError: the rule, the field, what is wrong, what would be right.
    """
    _check_presented(profiles, upstream)
    known = {str(Address.parse(one)) for one in listeners}
    rules = tuple(_placed(number, rule, known) for number, rule in enumerate(policy.rules))
    return compiled(structs.replace(policy, rules=rules), profiles, upstream.accept, upstream.client_certificates)


def _check_presented(profiles: Mapping[str, Profile], upstream: UpstreamSection) -> None:
    """Raises ValueError: a name twice, or one that is none."""
    there = [one.name for one in upstream.client_certificates]
    for number, name in enumerate(there):
        if name in there[:number]:
            raise ValueError(
                f"upstream.client_certificates[{number}] '{name}': name: another has it; each needs its own"
            )
    for profile, said in profiles.items():
        kind, _, name = said.client_certificate.partition(":")
        if kind == "present" and name not in there:
            raise ValueError(
                f"profiles.{profile}.client_certificate: no [[upstream.client_certificates]] has the name '{name}'; "
                f"there are {', '.join(sorted(there)) or 'none'}"
            )


def _placed(number: int, rule: Rule, known: Collection[str]) -> Rule:
    """The rule with its listener as connections name theirs."""
    if not rule.listener:
        return rule
    where = f"policy.rules[{number}] '{rule.name}': listener"
    try:
        found = str(Address.parse(rule.listener))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if known and found not in known:  # a draft of a policy may have no listener
        raise ValueError(f"{where}: nobody listens on {rule.listener}; there are {', '.join(sorted(known))}")
    return structs.replace(rule, listener=found)
