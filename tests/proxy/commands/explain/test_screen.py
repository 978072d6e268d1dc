"""What `hsmitm explain` prints: one screen of sentences."""

from __future__ import annotations

import pytest

from proxy.commands.explain.report import (
    Connection,
    HsmPart,
    Missed,
    PastPart,
    PolicyPart,
    Question,
    Report,
    ServerPart,
)
from proxy.commands.explain.screen import lines

_FAILED = Connection(
    "2026-12-01T12:00:39Z", "id-1", "10.1.2.3", "failed", "default", "client-distrusts-ca", "client",
    "the client does not trust the CA", "trust", "4711", "hit", "m1",
)  # fmt: skip


def _report(**parts: object) -> Report:
    made: dict[str, object] = {
        "question": Question("www.bank.example", 443, "10.1.2.3", "alice"),
        "short": "www.bank.example is inspected, and nothing is wrong with it from here.",
        "policy": PolicyPart("decrypt", "default", "default", "no rule matches, and the default is decrypt",
                             missed=tuple(Missed(f"r{n}", "to.domains", "another name") for n in range(9)),
                             addresses=("192.0.2.1",)),
        "past": PastPart("log", (_FAILED,) * 5),
        "server": ServerPart("192.0.2.1", "TLSv1.3", "CN=www.bank.example", "CN=CA", "2026-01-01T00:00:00Z",
                             "2027-01-01T00:00:00Z", "ab", (), "trust"),
        "hsm": HsmPart(True, "degraded", ("m1",), {"m2": "no answer"}, "fail"),
    } | parts  # fmt: skip
    return Report(**made)  # type: ignore[arg-type]


def _text(**parts: object) -> str:
    return "\n".join(lines(_report(**parts)))


def test_one_screen_tells_all() -> None:
    """Policy, address, server, the last connections, the leaf and the HSM, in 24 lines of 80 columns and a few more."""
    text = _text()
    for part in (
        "asked for by 10.1.2.3, user alice",
        "Policy     decrypt, no rule matches",
        "not the rule r0: to.domains: another name",
        "nor 5 more rules before it",
        "Exclusion  nothing excludes it",
        "Address    192.0.2.1",
        "by CN=CA",
        "nothing is wrong with it",
        "Last seen  2026-12-01 12:00:39  10.1.2.3  failed: client-distrusts-ca (client)",
        "the last failure says: the client does not trust the CA",
        "serial 4711 of the CA 'trust', was in the worker's cache at 12:00:39,",
        "signed by m1",
        "HSM        degraded: 1 of 2 members in service",
        "m2: no answer",
    ):
        assert part in text, part
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 80


def test_what_is_wrong_with_a_certificate_and_what_follows() -> None:
    """A help desk reads what is wrong, and what the client sees of it."""
    text = _text(server=ServerPart(subject="CN=x", wrong=("it has expired",), outcome="block"))
    assert "WRONG: it has expired\n           the client gets an error page" in text


def test_a_chain_that_the_proxy_completes_is_no_verdict() -> None:
    """What a server leaves out the proxy may fetch: so no client is said to be warned."""
    text = _text(
        server=ServerPart(subject="CN=x", wrong=("a link is missing",), outcome="untrust", note="it is fetched")
    )
    assert "WRONG: a link is missing\n           it is fetched" in text
    assert "is warned" not in text


def test_each_part_that_is_not_known_says_why() -> None:
    """While hsmitm does not run, and nobody answers, the rest is still told."""
    text = _text(
        policy=PolicyPart("block", "r", "default", "rule 'r' says block", "warn", problem="x has no address"),
        server=ServerPart(problem="no connection"),
        past=PastPart(problem="no decryption log is kept"),
        hsm=HsmPart(problem="no signer listens"),
    )
    for part in (
        "only warns",
        "x has no address",
        "Server     no connection",
        "no decryption log",
        "not known: no signer",
    ):
        assert part in text, part
    assert "no leaf of it" in text


@pytest.mark.parametrize("said", ["\x1b[2J", "a\r\nPolicy     bypass", "\u202e", "x" * 100_000])
def test_what_strangers_said_does_nothing_to_the_terminal(said: str) -> None:
    """A certificate's subject with escape sequences, new lines, or without end is shown, and is no screen by itself."""
    text = _text(server=ServerPart(subject=said, outcome="trust"))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\nPolicy     bypass" not in text
    assert len(text) < 4000
