"""Between a server's handshake and its use: what OpenSSL and others say of it, and what the profile makes of that.

`demand` says before the handshake what is demanded, `Judging.judge` afterwards what becomes of it. A server of whom the
profile has "untrusted" may be used only where the client is shown so: its leaf is yet to be chosen, or is of the
untrust CA for that very server. Any other connection, a later one to a server that a trusted leaf vouches for above
all, is for servers that are trusted, or is refused.
"""

from __future__ import annotations

import datetime
import functools
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Literal, cast

from mitmproxy import connection, ctx, tls
from mitmproxy.proxy import context
from msgspec import structs

from addons.edge.answers import Sentence
from addons.edge.connecting.errands import OUTSIDE
from addons.modes import Modes
from addons.policy.addon import exclude, policy_of
from addons.policy.settings import Accept, Profile
from addons.records.connections import facts_of
from addons.records.facts import Facts
from addons.revocation.answers import Answer
from addons.revocation.status import Status
from addons.upstream import repeated
from addons.upstream.connection import Demand, ServerConnection
from addons.upstream.faults import BESIDE_THE_CHAIN, KINDS, is_ca, is_root
from addons.upstream.issuers import Certificates, Issuers
from addons.upstream.judge import (
    GOOD,
    ORDER,
    Judgement,
    Outcome,
    alone,
    judge,
    may_stay_untold,
)
from addons.upstream.repeated import Roots
from hsm import names

logger = logging.getLogger("hsmitm.upstream")

_SHOWN = "_hsmitm_shown"
"""An attribute of mitmproxy's object for the client, as its facts are: which leaf it was shown, for which server."""
_OF_OPENSSL = 2048
"""Bits of an RSA key that OpenSSL demands itself at its security level 2."""
_ON_THE_WAY = Profile(
    untrusted="block", self_signed="block", name_mismatch="block", weak_key="block", client_certificate="without"
)
_HYBRID = frozenset({0x11EB, 0x11EC, 0x11ED, 0x6399, 0x639A})
"""Groups with ML-KEM or Kyber: SecP256r1MLKEM768, X25519MLKEM768, SecP384r1MLKEM1024, and two drafts (IANA)."""


def show(client: connection.Client, server: connection.Address | None, kind: Literal["trust", "untrust"]) -> None:
    """The client's leaf is of that CA, and for that server."""
    client.__dict__[_SHOWN] = (server, kind)


def demand(data: tls.TlsData, profile: Profile, host: str, roots: Roots, *, strict: bool) -> Demand:
    """What is demanded of the server `data.conn`, whose certificate must have `host` and lead to `roots`."""
    client, server = data.context.client, data.conn
    assert isinstance(server, connection.Server)
    accepts = accepts_for(facts_of(client), host)
    if ctx.options.ssl_insecure:
        profile = _loosened(profile)
    return Demand(host, profile, accepts, _most(data.context, server), roots, strict)


def profile_for(made: context.Context, server: connection.Connection) -> Profile:
    """What is demanded of the server: by the rule of the client's connection. A proxy on the way to it is the
    operator's own, whatever a rule allows of sites."""
    return policy_of(facts_of(made.client)) if server is made.server else _ON_THE_WAY


def accepts_for(facts: Facts, host: str) -> Sequence[Accept]:
    """The exceptions of the policy in force that are for `host`."""
    found: Sequence[Accept] = getattr(facts.policy, "accepts", ())
    return tuple(one for one in found if _same(one.host, host)) if found else ()


def _same(one: str, other: str) -> bool:
    with suppress(ValueError):
        return names.to_ascii(one) == names.to_ascii(other)
    return one == other


def is_vouched(data: tls.TlsData) -> bool:
    """Whether the client was shown a trusted leaf for this very server: then it must prove itself each time."""
    address, kind = data.context.client.__dict__.get(_SHOWN, (None, None))
    return kind == "trust" and isinstance(data.conn, connection.Server) and data.conn.address == address


def _most(made: context.Context, server: connection.Server) -> Outcome:
    """The worst that a connection to this server may be, for there to be a use for it."""
    client = made.client
    loose: Outcome = "untrust" if ctx.options.ssl_insecure else "trust"
    if isinstance(client.proxy_mode, Modes):
        return loose
    shown, kind = client.__dict__.get(_SHOWN, (None, None))
    if shown is not None and shown == server.address:
        return cast(Outcome, kind)
    to_be_shown = server is made.server and client.tls and client.timestamp_tls_setup is None
    return "untrust" if to_be_shown else loose


class Judging:
    """Judges servers, with what others know of them: the worker's addons "issuers" and "status", where it has them."""

    def judge(self, data: tls.TlsData) -> Awaitable[None] | None:
        """Judge the server of `data` after its handshake: its connection has a judgement then. What that needs others
        for is waited for."""
        made = data.ssl_conn
        assert isinstance(made, ServerConnection)
        assert made.demand is not None
        issuers: Issuers | None = ctx.master.addons.get("issuers")
        if issuers is None or not made.incomplete or made.demand.profile.incomplete_chain != "fetch":
            return self._asked(data, made)
        enough = functools.partial(repeated.leads, made.sent, roots=made.demand.roots)
        more = issuers.above(made.sent, _place(data.conn), enough)
        return self._completed(data, made, more) if isinstance(more, tuple) else self._fetched(data, made, more)

    async def _fetched(self, data: tls.TlsData, made: ServerConnection, more: Awaitable[Certificates]) -> None:
        waiting = self._completed(data, made, await more)
        if waiting is not None:
            await waiting

    def _completed(self, data: tls.TlsData, made: ServerConnection, more: Certificates) -> Awaitable[None] | None:
        if more:
            assert made.demand is not None
            made.complaints, made.completed = repeated.complaints(made.complaints, made.sent, more, made.demand.roots)
        return self._asked(data, made)

    def _asked(self, data: tls.TlsData, made: ServerConnection) -> Awaitable[None] | None:
        """Ask for the revocation status of a chain that leads to a root, and judge: what has expired, or is for other
        names, may be revoked besides."""
        assert made.demand is not None
        statuses: Status | None = ctx.master.addons.get("status")
        within_s = made.demand.profile.status_wait_s
        if statuses is None or within_s is None or any(one.code not in BESIDE_THE_CHAIN for one in made.complaints):
            return self._judge(data, made, None)
        status = statuses.of(made.whole, made.staple, within_s)
        if isinstance(status, Answer):
            return self._judge(data, made, status)
        return self._awaited(data, made, status)

    async def _awaited(self, data: tls.TlsData, made: ServerConnection, status: Awaitable[Answer]) -> None:
        self._judge(data, made, await status)

    @staticmethod
    def _judge(data: tls.TlsData, made: ServerConnection, status: Answer | None) -> None:
        wanted = made.demand
        assert wanted is not None
        if status is not None and may_stay_untold(status.status, wanted.profile):
            status = None
        if _is_good(data, made, status):
            judgement = GOOD
        else:
            now = datetime.datetime.now(datetime.UTC)
            judgement = judge(
                made.complaints, made.completed or made.built, wanted.profile, wanted.accepts, now,
                host=wanted.host, status=status,
            )  # fmt: skip
            judgement = _bearable(judgement, wanted)
        if judgement.outcome != "block":
            judgement = _asked_of_us(data, made, judgement)
        _note(data, made, judgement)


def _is_good(data: tls.TlsData, made: ServerConnection, status: Answer | None) -> bool:
    """Whether there is nothing to judge, seen without another look at the chain: OpenSSL has nothing against it at its
    own security level, which is the profile's."""
    wanted = made.demand
    assert wanted is not None
    if made.complaints or status is not None or not wanted.strict or wanted.profile.min_rsa > _OF_OPENSSL:
        return False
    listed = data.conn.certificate_list
    return bool(listed) and (not is_ca(leaf := listed[0].to_cryptography()) or is_root(leaf))


def _place(server: connection.Connection) -> str:
    """The server's address; behind another proxy only that one knows it."""
    assert isinstance(server, connection.Server)
    return server.peername[0] if server.peername and not server.via else OUTSIDE


def _bearable(judgement: Judgement, wanted: Demand) -> Judgement:
    """`judgement`, or that the connection is refused, where there is nobody who could be shown it."""
    if ORDER[judgement.outcome] <= ORDER[wanted.most]:
        return judgement
    return Judgement("block", judgement.kind, judgement.sentence, worst=judgement.worst)


@functools.lru_cache(maxsize=64)
def _loosened(profile: Profile) -> Profile:
    """What mitmproxy's option ssl_insecure has always meant: what would be blocked is inspected, and nothing vouches
    for it."""
    blocked = [name for name in KINDS if getattr(profile, name) == "block"]
    return structs.replace(profile, **dict.fromkeys(blocked, "untrusted"))


def _asked_of_us(data: tls.TlsData, made: ServerConnection, judgement: Judgement) -> Judgement:
    """What the profile says of a server that asks for a certificate of the client's, or that knows no hybrid group."""
    wanted = made.demand
    assert wanted is not None
    proved = judgement.outcome == "trust"
    refused = wanted.profile.client_certificate in ("block", "bypass")
    ours = isinstance(data.context.client.proxy_mode, Modes)  # the server is, and may ask and do without
    if made.certificate_wanted and refused and not ours and made.get_certificate() is None:
        note_wish(data.context, data.conn, wanted.profile)
        return Judgement("block", "server-wants-client-certificate", wishes(wanted.host), proved)
    facts = facts_of(data.context.client)
    if data.conn is data.context.server and not _HYBRID.isdisjoint(facts.groups) and not _is_hybrid(made):
        facts.pq_downgrade = True
        if wanted.profile.pq_downgrade == "block":
            sentence = f"{wanted.host} knows no key exchange that is safe from quantum computers, as the client's is"
            return Judgement("block", "no-common-group", sentence, proved)
    return judgement


def note_wish(made: context.Context, server: connection.Connection, profile: Profile) -> None:
    """The client's own server wants a client certificate: the profile may have it passed by from now on."""
    if server is made.server and profile.client_certificate == "bypass":
        exclude(made.client)


def wishes(host: str) -> str:
    """A sentence for a server that wants a client certificate that it does not get."""
    return (
        f"{host} wants a client certificate, and this proxy has none for it: a profile's client_certificate "
        "says what becomes of such servers"
    )


def _is_hybrid(made: ServerConnection) -> bool:
    return "MLKEM" in (made.get_group_name() or "").upper()


def _note(data: tls.TlsData, made: ServerConnection, judgement: Judgement) -> None:
    made.judgement = judgement
    facts = facts_of(data.context.client)
    facts.server_leg.verification = made.verification
    if judgement.outcome == "block" and judgement.kind is not None:
        facts.fail(judgement.kind, "server", judgement.sentence)
    elif judgement.kind is not None:
        authority = "untrust" if judgement.outcome == "untrust" else "trust"
        told = {"log_class": judgement.kind}
        logger.warning("%s; it is used under the %s CA", judgement.sentence, authority, extra=told)


def cut(made: ServerConnection, facts: Facts, alert: str) -> Sentence:
    """Why OpenSSL's last complaint has ended the handshake, in a sentence, noted in the facts with the `alert`."""
    assert made.demand is not None
    last = made.complaints[-1]
    kind, sentence = alone(made.demand.host, last, incomplete=made.incomplete)
    facts.server_leg.verification = last
    facts.fail(kind, "server", sentence, alert)
    return Sentence(kind, sentence)
