"""`hsmitm check`: try every part of a configuration without serving. One line for each: right, or wrong and what to do.

It logs in once for each member, as `run` would: a wrong PIN found here is remembered and not tried again by `run`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from mitmproxy import exceptions, options
from mitmproxy.master import Master
from prometheus_client import CollectorRegistry

from addons.edge.http2 import nghttp2
from addons.engine import stock_addons
from addons.upstream import own
from addons.upstream.tls import UpstreamTls
from hsm.certificates.issuer import Issuer, load_issuer, refuse_unfit, spkis_of
from hsm.errors import MisconfiguredError
from hsm.group.group import Group
from hsm.member.member import Member
from hsm.member.states import State
from hsm.secrets.refusals import Refusals
from hsm.signer.members import keys_of
from hsm.signer.sites import load_sites
from hsm.wire.member import worrying_flags
from hsm.wire.worker import Authority
from proxy import listening
from proxy.commands.check_cage import check_cage
from proxy.commands.check_pace import check_pace, check_times
from proxy.commands.check_pages import check_pages
from proxy.commands.check_policy import check_policy
from proxy.commands.check_records import check_records
from proxy.commands.check_schemes import check_schemes
from proxy.commands.check_sites import check_sites
from proxy.commands.findings import EXPIRES_SOON_DAYS, Findings, Say
from proxy.config.file import Config, load
from proxy.config.forward import written
from proxy.processes import logs
from proxy.processes.guard import Guard
from proxy.processes.signer import prompt_pins


async def check(path: Path, say: Say) -> bool:
    """Whether everything is right. Raises nothing but what is a bug."""
    findings = Findings(say)
    try:
        config = load(path)
    except MisconfiguredError as error:
        findings.wrong(str(error))
        return False
    logs.configure("error", "check")
    findings.ok(f"{config.path}: every field is known and in range")
    check_policy(config, findings)
    _check_places(config, findings)
    check_cage(config, findings)
    check_records(config, findings)
    await _check_mitmproxy(config, findings)
    check_pages(config, findings)
    await check_sites(config, findings)
    check_times(config, findings)
    await _check_hsm(config, findings)
    say("everything is right" if findings.right else "something is wrong: see the lines above")
    return findings.right


def _check_places(config: Config, findings: Findings) -> None:
    findings.attempt(f"run directory {config.run.path}: private", config.run.prepare)
    refusals = Refusals(config.base / config.file.run.state)
    findings.attempt(f"state directory {config.base / config.file.run.state}", refusals.prepare)
    if Guard(config.run, config.path).holder():
        findings.ok("hsmitm runs with this configuration now; its addresses are in use by it")
        return
    places = [("proxy.listen", config.listen), ("status.listen", config.status_listen)]
    places += [(f"inbound[{number}].listen", address) for number, address in enumerate(config.inbound)]
    for field, address in places:
        if address:
            findings.attempt(f"{field} {address}: free", functools.partial(listening.check, address, field))


async def _check_mitmproxy(config: Config, findings: Findings) -> None:
    section = config.file.mitmproxy
    try:
        findings.ok(f"nghttp2 {nghttp2.version()}, for HTTP/2")
    except MisconfiguredError as error:
        findings.wrong(str(error))
    for script in section.scripts:
        if (config.base / script).is_file():
            findings.ok(f"mitmproxy.scripts: {script}")
        else:
            findings.wrong(f"mitmproxy.scripts: there is no file {config.base / script}")
    try:
        suites = config.file.proxy.tls_suites
        master = Master(options.Options(), event_loop=asyncio.get_running_loop())
        own.check(config.file.upstream.own(config.base))
        master.addons.add(*stock_addons.choose([UpstreamTls(suites)], section.options, scripts=False, upstream=True))
        stock_addons.set_options(master, section.options)
        master.options.update(mode=[config.file.proxy.mode])
        findings.ok("proxy.mode and mitmproxy.options")
    except exceptions.OptionsError as error:
        findings.wrong(f"proxy.mode: {error}")
    except MisconfiguredError as error:
        findings.wrong(str(error))
    if config.upstream_ca:
        try:
            roots = x509.load_pem_x509_certificates(config.upstream_ca.read_bytes())
            findings.ok(f"proxy.upstream_ca: {len(roots)} certificates in {config.upstream_ca}")
        except (OSError, ValueError) as error:
            findings.wrong(f"proxy.upstream_ca: {config.upstream_ca} is no file of PEM certificates: {error}")


async def _check_hsm(config: Config, findings: Findings) -> None:
    try:
        settings = config.signer()
        pins = prompt_pins(config)
    except MisconfiguredError as error:
        findings.wrong(str(error))
        return
    issuers: dict[Authority, Issuer] = {}
    for name, one in settings.authorities.items():
        try:
            issuers[name] = load_issuer(one.certificate)
        except MisconfiguredError as error:
            findings.wrong(f"forward.{written(name)}: {error}")
        else:
            _say_certificate(name, issuers[name], findings)
    if {"trust", "untrust"} <= issuers.keys():
        apart = functools.partial(refuse_unfit, issuers.items())
        findings.attempt("forward.trust and forward.untrust: nobody who trusts the one trusts the other", apart)
        _warn_of_one_sort(issuers, findings)
    keys = keys_of(settings, issuers)
    try:
        members = [one.name for one in settings.members]
        keys |= load_sites(settings.inbound, spkis_of(issuers.values()), members, anywhere=bool(settings.group)).keys
    except MisconfiguredError as error:
        findings.wrong(str(error))
    group = Group(keys, CollectorRegistry(), settings.failover)
    refusals = Refusals(settings.state)
    group.members = [Member(m, group.keys_for(m.name), refusals, group, pins.get(m.name)) for m in settings.members]
    running = [asyncio.create_task(member.run()) for member in group.members]
    for member in group.members:
        await member.settled.wait()
        _say_member(member, group, findings)
    check_schemes(config, group, findings)
    await check_pace(config, group, findings, in_use=bool(Guard(config.run, config.path).holder()))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _say_certificate(name: str, issuer: Issuer, findings: Findings) -> None:
    left = issuer.certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    text = f"forward.{written(name)}: '{issuer.certificate.subject.rfc4514_string()}' is a CA, {left.days} days left"
    (findings.warn if left.days < EXPIRES_SOON_DAYS else findings.ok)(text)


def _warn_of_one_sort(issuers: dict[Authority, Issuer], findings: Findings) -> None:
    """RSA is verified by every client; ECDSA by all but old ones."""
    if not any(isinstance(one.key, rsa.RSAPublicKey) for name, one in issuers.items() if name.startswith("trust")):
        findings.warn(
            "forward.trust: an EC CA alone. Clients that verify no ECDSA get no connection: make forward.trust a list "
            "of two, with an RSA CA beside it, where there may be such clients"
        )


def _say_member(member: Member, group: Group, findings: Findings) -> None:
    if member.state is not State.UP or member.opened is None:
        # It may be trying again already: then its reason is that, and not why it must.
        findings.wrong(f"member {member.name}: {member.last_error or member.reason}")
        return
    opened = member.opened
    findings.ok(
        f"member {member.name}: {opened.module} ({opened.module_version}), partition {opened.partition}, "
        f"logged in, {opened.sessions} of {member.settings.sessions} sessions"
    )
    for flag in worrying_flags(opened.partition):
        findings.warn(f"member {member.name}: the token says {flag}")
    if opened.sessions < member.settings.sessions:
        findings.warn(f"member {member.name}: the token gives {opened.sessions} sessions, fewer than configured")
    for name, key in group.keys_for(member.name).items():
        problem = member.problem(name)
        if problem:
            findings.wrong(f"member {member.name}: {key.title}: {problem}")
            continue
        findings.ok(f"member {member.name}: {key.uri} is the {key.title}, proved by a signature")
        if key.decrypts and not member.found[name].decrypts:
            findings.wrong(
                f"member {member.name}: {key.uri} does not decrypt, as rsa_key_exchange needs: CKA_DECRYPT is false, "
                "or the partition has or allows no CKM_RSA_PKCS"
            )
        if not member.found[name].guarded:
            findings.warn(f"member {member.name}: {key.uri} is not guarded: {member.found[name].exposure}")
