"""The report on a terminal: sentences that somebody at a help desk reads out, one screen of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from proxy.commands.explain.report import Connection, HsmPart, PastPart, PolicyPart, Report, ServerPart

_WIDTH, _LABEL = 80, 11
_LONGEST = 400
"""Characters of one sentence."""
_MISSED = 4
"""Rules that did not match which are shown; `hsmitm policy test` has them all."""
_ACTS = {
    "decrypt": "inspected: the client sees a certificate of this proxy's CA",
    "bypass": "passed on unread: the client sees the server's own certificate",
    "block": "blocked: the client gets a page, or its CONNECT is refused",
}
_OUTCOMES = {
    "trust": "the client sees a certificate of the trusted CA",
    "untrust": "the client is warned: it sees a certificate of the untrusted CA",
    "block": "the client gets an error page",
}


def lines(report: Report) -> Iterator[str]:
    """What is printed."""
    asked = report.question
    who = f"asked for by {asked.client}" if asked.client else "asked for by anybody (--from says by whom)"
    user = f", user {asked.user}" if asked.user else ""
    yield from _flush(f"{asked.host}, port {asked.port}, {who}{user}")
    yield from _flush(report.short)
    yield ""
    yield from _part("Policy", _policy(report.policy))
    yield from _part("Exclusion", report.policy.exclusions or ("nothing excludes it from inspection",))
    yield from _part("Address", _address(report.policy))
    yield from _part("Server", _server(report.server))
    yield from _part("Last seen", _past(report.past))
    yield from _part("Leaf", _leaf(report.past))
    yield from _part("HSM", _hsm(report.hsm))


def _policy(part: PolicyPart) -> Iterator[str]:
    if part.mode == "warn":
        yield "the policy only warns (mode): everything is inspected. It would be:"
    yield f"{part.action}, {part.reason}"
    yield _ACTS[part.action]
    for one in part.missed[:_MISSED]:
        yield f"not the rule {one.rule}: {one.field}: {one.why}"
    if len(part.missed) > _MISSED:
        yield f"nor {len(part.missed) - _MISSED} more rules before it: 'hsmitm policy test' names them"


def _address(part: PolicyPart) -> Iterator[str]:
    if part.problem:
        yield part.problem
    else:
        more = f" and {len(part.addresses) - 4} more" if len(part.addresses) > 4 else ""
        yield f"{', '.join(part.addresses[:4])}{more}"
    if part.denied:
        yield f"denied by '{part.denied}' of [proxy] deny_destinations"


def _server(part: ServerPart) -> Iterator[str]:
    if part.problem:
        yield part.problem
        return
    yield f"its certificate is for {part.subject or 'nobody'}, by {part.issuer or 'nobody'}"
    yield f"from {part.not_before[:10]} to {part.not_after[:10]}; {part.version}"
    for one in part.wrong:
        yield f"WRONG: {one}"
    yield (part.note or _OUTCOMES[part.outcome]) if part.wrong else "nothing is wrong with it"


def _past(part: PastPart) -> Iterator[str]:
    if part.problem:
        yield part.problem
        return
    if not part.connections:
        yield f"never, as far as {part.log} {'tells' if part.whole else 'was read'}"
    for one in part.connections:
        why = f": {one.kind} ({one.side})" if one.kind else ""
        yield f"{one.at[:10]} {one.at[11:19]}  {one.client}  {one.action}{why}"
    newest = next((one for one in part.connections if one.text), None)
    if newest is not None:
        yield f"the last failure says: {newest.text}"


def _leaf(part: PastPart) -> Iterator[str]:
    found: Connection | None = next((one for one in part.connections if one.leaf_serial), None)
    if found is None:
        yield "no leaf of it in the connections above"
        return
    kept = {"hit": "was in the worker's cache", "joined": "was being made already"}.get(
        found.leaf_cache, "was made anew"
    )
    member = f", signed by {found.member}" if found.member else ""
    yield f"serial {found.leaf_serial} of the CA '{found.authority}', {kept} at {found.at[11:19]}{member}"


def _hsm(part: HsmPart) -> Iterator[str]:
    if not part.running:
        yield f"not known: {part.problem}"
        return
    yield f"{part.state}: {len(part.in_service)} of {len(part.in_service) + len(part.away)} members in service"
    for name, why in part.away.items():
        yield f"{name}: {why}"
    if not part.in_service:
        yield f"meanwhile (hsm.unavailable): {part.unavailable}"


def _part(label: str, sentences: Iterator[str] | tuple[str, ...]) -> Iterator[str]:
    for number, one in enumerate(sentences):
        yield from _wrapped("" if number else label, one)


def _flush(sentence: str) -> Iterator[str]:
    yield from textwrap.wrap(_shown(sentence), _WIDTH)


def _wrapped(label: str, sentence: str) -> Iterator[str]:
    """A sentence, on lines beside its label."""
    yield from textwrap.wrap(
        _shown(sentence), _WIDTH, initial_indent=label.ljust(_LABEL), subsequent_indent=" " * _LABEL
    )


def _shown(text: str) -> str:
    """What a server or a client said is shown, and does nothing to the terminal; nor is it a screen by itself."""
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return "".join(one if one.isprintable() else "?" for one in cut)
