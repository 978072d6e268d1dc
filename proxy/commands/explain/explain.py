"""`hsmitm explain`: every part of the answer, side by side, and the answer in one sentence."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hsm import names
from hsm.errors import MisconfiguredError
from hsm.wire.admin import Status, StatusReport
from proxy.commands.explain.hsm import hsm
from proxy.commands.explain.past import of_page, past
from proxy.commands.explain.policy import policy
from proxy.commands.explain.report import HsmPart, PolicyPart, Question, Report, ServerPart
from proxy.commands.explain.server import server
from proxy.commands.options import STATUS_TIMEOUT_S, ask
from proxy.config.worker import WorkerConfig, load

_HTTPS = 443


def question(host: str, port: int | None, client: str, user: str) -> Question:
    """What is asked about: `host` as a name, an address, a URL that somebody has copied, or with a port behind it.

    Raises MisconfiguredError for what is none of these.
    """
    text = host.strip().partition("://")[2] or host.strip()
    text = text.partition("/")[0].rpartition("@")[2]
    name, colon, digits = text.rpartition(":")
    if colon and digits.isascii() and digits.isdigit() and (":" not in name or name.endswith("]")):
        text, port = name, port or int(digits)
    try:
        client = names.to_ascii(client) if client else ""
        found = names.to_ascii(text)
    except ValueError as error:
        raise MisconfiguredError(f"{error}; write a host, for example: hsmitm explain www.example.com") from None
    if port is not None and not 0 < port < 65536:
        raise MisconfiguredError(f"{port} is no port")
    return Question(found, port or _HTTPS, client, user)


_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""What stands on a page: a UUID (RFC 9562 section 4)."""


def asked_about(config: Path, said: str, port: int | None, client: str, user: str, log: Path | None) -> Question:
    """What is asked about where `said` is a host, or the id on a page: then it is that connection. `log` is another
    decryption log than the configured one. Raises MisconfiguredError."""
    if not _ID.fullmatch(said.strip()):
        return question(said, port, client, user)
    return of_page(log or _log(load(config)), said.strip().lower())


def explain(config: Path, asked: Question, log: Path | None = None) -> Report:
    """Find out all of it. Raises MisconfiguredError for a configuration that cannot be read."""
    settings = load(config)
    at = dt.datetime.now(dt.UTC)
    with ThreadPoolExecutor(3) as at_once:  # a server, name servers and the signer may all take their time
        signer = at_once.submit(hsm, _status(config))
        history = at_once.submit(past, log or _log(settings), asked)
        decided = policy(settings, asked, at)
        seen = ServerPart(problem=decided.problem)  # who is not found is not asked a second time
        if not decided.problem:
            seen = server(
                settings,
                asked,
                settings.policy.profile(decided.profile if decided.mode == "enforce" else "default"),
                at,
            )
        return Report(
            question=asked,
            short=_short(asked, decided, seen, signer.result()),
            policy=decided,
            past=history.result(),
            server=seen,
            hsm=signer.result(),
        )


def _log(settings: WorkerConfig) -> Path | None:
    return settings.decryption_log.path(settings.base)


def _status(config: Path) -> Callable[[], StatusReport]:
    def report() -> StatusReport:
        found = ask(config, Status(), STATUS_TIMEOUT_S)
        assert isinstance(found, StatusReport)
        return found

    return report


def _short(asked: Question, decided: PolicyPart, seen: ServerPart, signer: HsmPart) -> str:
    """The first thing that stands in the way, or that nothing does."""
    acts = decided.action if decided.mode == "enforce" else "decrypt"
    wrong = "; ".join(seen.wrong)
    stories = (
        (decided.denied, f"blocked: its address is denied by '{decided.denied}' of [proxy] deny_destinations"),
        (acts == "block", f"blocked: {decided.reason}"),
        (decided.problem, f"not reached: {decided.problem}"),
        (seen.problem, f"not reached from here: {seen.problem}"),
        (
            seen.outcome == "block" and not seen.note,
            f"refused for its certificate, which its owner has to mend: {wrong}",
        ),
        (acts == "bypass", f"passed on unread: {decided.reason}"),
        (signer.running and not signer.in_service, "not inspected now: no member of the HSM is in service"),
        (seen.note, f"inspected, if its chain can be completed: {wrong}"),
        (seen.outcome == "untrust", f"inspected, and clients are warned of its certificate: {wrong}"),
        (True, "inspected, and nothing is wrong with it from here"),
    )
    return f"{asked.host} is {next(told for holds, told in stories if holds)}."
