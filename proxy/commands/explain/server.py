"""The server's certificate as it is seen from here now, and what the policy makes of it: a handshake, no request."""

from __future__ import annotations

import datetime as dt

from cryptography.hazmat.primitives import hashes

from addons.policy.settings import Accept, Profile
from addons.upstream.judge import judge
from addons.upstream.repeated import Roots
from addons.upstream.visit import visit
from hsm.errors import TryLaterError
from proxy.commands.explain.report import Question, ServerPart
from proxy.config.worker import WorkerConfig

_FETCHES = "the proxy fetches what it leaves out, where the certificate says from where, and judges the whole"
VISIT_S = 5.0
"""So long a server may take for all of it."""


def server(config: WorkerConfig, question: Question, profile: Profile, at: dt.datetime) -> ServerPart:
    """Look at it. What it says is judged by `profile`, and by what is accepted of this host."""
    roots = Roots(
        directory=config.mitmproxy.options.get("ssl_verify_upstream_trusted_confdir"),
        file=str(config.upstream_ca) if config.upstream_ca else None,
    )
    try:
        seen = visit(question.host, question.port, roots, profile=profile, within_s=VISIT_S)
    except TryLaterError as error:
        return ServerPart(problem=str(error))
    accepts: list[Accept] = [one for one in config.policy.accepts if one.host == question.host]
    judgement = judge(seen.complaints, seen.chain, profile, accepts, at, host=question.host)
    leaf = seen.chain[0]
    return ServerPart(
        address=seen.address,
        version=seen.version,
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        not_before=f"{leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        not_after=f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        sha256=leaf.fingerprint(hashes.SHA256()).hex(),
        wrong=seen.wrong,
        outcome=judgement.outcome,
        kind=judgement.kind or "",
        note=_FETCHES if judgement.kind == "server-incomplete-chain" and profile.incomplete_chain == "fetch" else "",
    )
