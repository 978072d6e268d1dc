"""A connection's facts as a record of the decryption log, and back: who decides on it again has the same to go by."""

from __future__ import annotations

import datetime
import time
from typing import Literal, cast

from addons.records.facts import CertificateFacts, Decision, Facts, Failure, Leg, Verification
from addons.records.record import (
    Client,
    Destination,
    Directions,
    Ecs,
    Error,
    EventPart,
    Hash,
    Hsm,
    Leaf,
    Network,
    Ours,
    Record,
    ServerCertificate,
    Source,
    Tls,
    TlsClient,
    Upstream,
    User,
    Verify,
)

_ECS = Ecs(version="8.17.0")
_GOOD = frozenset(("decrypted", "bypassed", "plain", "passed"))


def to_record(facts: Facts, ended: float, *, worker: int = 0) -> Record:
    """What is told of a connection that ended at `ended` (seconds since the epoch) at the worker of that number."""
    client, server = facts.client_leg, facts.server_leg
    return Record(
        timestamp=_time(ended),
        ecs=_ECS,
        event=EventPart(
            action=facts.event,
            id=facts.id,
            duration=max(0, int((time.monotonic() - facts.began_monotonic) * 1e9)),
            start=_time(facts.began),
            outcome="success" if facts.event in _GOOD else "failure",
            sequence=facts.sequence,
            kind="event",
            category=("network",),
            type=("connection", "end"),
            dataset="hsmitm.decryption",
        ),
        source=Source(ip=facts.client_ip, port=facts.client_port, bytes=client.bytes_in),
        user=User(name=facts.user) if facts.user else None,
        destination=Destination(
            address=facts.host or facts.sni or facts.destination,
            ip=facts.destination,
            port=facts.port,
            bytes=client.bytes_out,
        ),
        network=Network(bytes=client.bytes_in + client.bytes_out, transport="tcp"),
        tls=_tls(client, TlsClient(server_name=facts.sni, ja4=facts.ja4) if facts.hello else None),
        hsmitm=_ours(facts, server, worker),
    )


def _ours(facts: Facts, server: Leg, worker: int) -> Ours:
    decision, failure, verification = facts.decision, facts.failure, server.verification
    told = server.bytes_in or server.bytes_out or server.version or server.certificate
    return Ours(
        listener=facts.listener,
        mode=facts.mode,
        worker=worker,
        host=facts.host,
        plain=facts.plain,
        addresses=facts.addresses,
        sni_proved=facts.sni_proved,
        groups=facts.user_groups,
        rule=decision.rule if decision else "",
        action=decision.action if decision else "",
        profile=decision.profile if decision else "",
        reason=decision.reason if decision else "",
        enforced=decision.enforced if decision else True,
        decided=facts.at if int(facts.at.timestamp()) // 60 != int(facts.began) // 60 else None,
        categories=facts.categories,
        policy_version=facts.policy_version,
        requests=facts.requests,
        client=Client(hello=True, alpn=facts.alpn, groups=facts.groups, ech=facts.ech) if facts.hello else None,
        upstream=Upstream(
            tls=_tls(server, None),
            bytes=Directions(in_=server.bytes_in, out=server.bytes_out),
            pq_downgrade=facts.pq_downgrade,
        )
        if told
        else None,
        authority=facts.authority,
        leaf=Leaf(serial=facts.leaf_serial, cache=facts.leaf_cache) if facts.leaf_serial or facts.leaf_cache else None,
        hsm=Hsm(member=facts.member, sign_ms=round(facts.sign_ms, 3)) if facts.member or facts.sign_ms else None,
        verify=Verify(result=verification.words, code=verification.code, depth=verification.depth)
        if verification
        else None,
        error=Error(class_=failure.kind, side=failure.side, alert=failure.alert, text=failure.text)
        if failure
        else None,
    )


def _tls(leg: Leg, client: TlsClient | None) -> Tls | None:
    shown = leg.certificate
    if not leg.version and client is None and shown is None:
        return None
    return Tls(
        version=leg.version.removeprefix("TLSv"),
        version_protocol="tls" if leg.version else "",
        cipher=leg.cipher,
        curve=leg.group,
        next_protocol=leg.alpn,
        resumed=leg.resumed,
        client=client,
        server=ServerCertificate(
            subject=shown.subject, issuer=shown.issuer, not_after=shown.not_after, hash=Hash(sha256=shown.sha256)
        )
        if shown
        else None,
    )


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def to_facts(of: Record) -> Facts:
    """What a record tells of a connection, for whoever decides on it again."""
    ours, client, tls = of.hsmitm, of.hsmitm.client or Client(), of.tls or Tls()
    greeting = tls.client or TlsClient()
    return Facts(
        id=of.event.id,
        began=of.event.start.timestamp(),
        began_monotonic=0.0,
        at=ours.decided or of.event.start,
        sequence=of.event.sequence,
        listener=ours.listener,
        mode=ours.mode,
        client_ip=of.source.ip,
        client_port=of.source.port,
        user=of.user.name if of.user else "",
        user_groups=ours.groups,
        host=ours.host,
        port=of.destination.port,
        destination=of.destination.ip,
        addresses=ours.addresses,
        plain=ours.plain,
        hello=client.hello,
        sni=greeting.server_name,
        sni_proved=ours.sni_proved,
        ja4=greeting.ja4,
        alpn=client.alpn,
        groups=client.groups,
        ech=client.ech,
        pq_downgrade=bool(ours.upstream and ours.upstream.pq_downgrade),
        decision=_decision(ours),
        policy_version=ours.policy_version,
        categories=ours.categories,
        event=of.event.action,
        failure=Failure(ours.error.class_, ours.error.side, ours.error.text, ours.error.alert) if ours.error else None,
        client_leg=_leg(tls, of.source.bytes, of.destination.bytes, None),
        server_leg=_server_leg(ours),
        requests=ours.requests,
        authority=ours.authority,
        leaf_serial=ours.leaf.serial if ours.leaf else "",
        leaf_cache=ours.leaf.cache if ours.leaf else "",
        member=ours.hsm.member if ours.hsm else "",
        sign_ms=ours.hsm.sign_ms if ours.hsm else 0.0,
    )


def _decision(ours: Ours) -> Decision | None:
    if not ours.rule:
        return None
    action = cast(Literal["decrypt", "bypass", "block"], ours.action)
    return Decision(ours.rule, action, ours.profile, ours.reason, enforced=ours.enforced)


def _server_leg(ours: Ours) -> Leg:
    upstream, verify = ours.upstream or Upstream(), ours.verify
    passed = upstream.bytes or Directions()
    verification = Verification(verify.code, verify.depth, verify.result) if verify else None
    return _leg(upstream.tls or Tls(), passed.in_, passed.out, verification)


def _leg(tls: Tls, bytes_in: int, bytes_out: int, verification: Verification | None) -> Leg:
    shown = tls.server
    return Leg(
        version=f"TLSv{tls.version}" if tls.version else "",
        cipher=tls.cipher,
        group=tls.curve,
        alpn=tls.next_protocol,
        resumed=tls.resumed,
        certificate=CertificateFacts(shown.subject, shown.issuer, shown.not_after, shown.hash.sha256)
        if shown
        else None,
        verification=verification,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
    )
