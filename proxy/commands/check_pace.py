"""`hsmitm check` for times: what the HSM takes, and whether everybody who waits for it waits long enough."""

from __future__ import annotations

import time

from hsm.errors import HsmitmError
from hsm.group.group import Group
from hsm.member.member import Member
from proxy.commands.findings import Findings
from proxy.commands.pace import Measured, fitting, measure
from proxy.config.file import Config

_LONGEST_S = 90.0


def check_times(config: Config, findings: Findings) -> None:
    """Times of the configuration that cannot all be meant."""
    proxy, hsm = config.file.proxy, config.file.hsm
    if hsm.request_budget_ms > 1000 * proxy.mint_timeout_s:
        findings.warn(
            f"hsm.request_budget_ms: {hsm.request_budget_ms} is longer than a client waits (proxy.mint_timeout_s "
            f"{proxy.mint_timeout_s:g}): the rest of it is of no use"
        )
    contained_s = 2 * proxy.connect_timeout_s + proxy.mint_timeout_s
    if contained_s > proxy.client_handshake_timeout_s:
        findings.warn(
            f"proxy.client_handshake_timeout_s: {proxy.client_handshake_timeout_s:g} is shorter than what a client's "
            f"handshake contains: twice proxy.connect_timeout_s ({proxy.connect_timeout_s:g}) and proxy.mint_timeout_s "
            f"({proxy.mint_timeout_s:g})"
        )


async def check_pace(config: Config, group: Group, findings: Findings, *, in_use: bool) -> None:
    """Measure each member that is in service; not where `in_use`: clients would wait for that, and it for them."""
    for member in group.members:
        if not member.serving:
            continue
        if in_use:
            findings.ok(f"member {member.name}: how long a signature takes is not measured while hsmitm uses it")
            continue
        try:
            measured = await _measured(group, member)
        except HsmitmError as error:
            findings.wrong(f"member {member.name}: its signatures cannot be measured: {error}")
        else:
            _say(config, member, measured, findings)


async def _measured(group: Group, member: Member) -> Measured:
    """By the slowest of its keys."""
    names = sorted((name for name in group.keys if member.serves(name)), key=member.alone_s)
    key, until = group.keys[names[-1]], time.monotonic() + _LONGEST_S
    scheme = next(one for one in key.schemes if member.serves(key.name, one.name))
    return await measure(lambda: member.sign(key.challenge(scheme), until, "test", _LONGEST_S))


def _say(config: Config, member: Member, measured: Measured, findings: Findings) -> None:
    fit, proxy, hsm = fitting(measured), config.file.proxy, config.file.hsm
    more = ""
    if not measured.quick and member.settings.sessions > fit.sessions:
        more = f"; more sessions than {fit.sessions} are of no use to it"
    findings.ok(f"member {member.name}: {measured}{more}")
    eight_s = measured.at_once * measured.alone_s / measured.at_a_time
    if proxy.mint_timeout_s > eight_s or measured.quick:
        return
    wanted = [f"proxy.mint_timeout_s = {fit.mint_timeout_s:g}"]
    if proxy.client_handshake_timeout_s < fit.client_handshake_timeout_s:
        wanted.append(f"proxy.client_handshake_timeout_s = {fit.client_handshake_timeout_s:g}")
    if hsm.request_budget_ms < fit.request_budget_ms:
        wanted.append(f"hsm.request_budget_ms = {fit.request_budget_ms}")
    told = f"and proxy.mint_timeout_s lets a client wait {proxy.mint_timeout_s:g} s; set {', '.join(wanted)}"
    if proxy.mint_timeout_s <= measured.alone_s:
        findings.wrong(f"member {member.name}: a signature takes {measured.alone_s:.1f} s, {told}")
    else:
        findings.warn(f"member {member.name}: {measured.at_once} new names at once take {eight_s:.1f} s, {told}")
