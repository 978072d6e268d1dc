"""What a profile demands of a client's own ClientHello."""

from __future__ import annotations

import time

import pytest

from addons.policy.decision import decide
from addons.policy.demands import demanded, differs, elsewhere
from addons.policy.settings import Profile
from addons.records.facts import Decision, Facts, Mode
from tests.addons.policy.policies import policy, rule


def _facts(host: str = "", sni: str = "", mode: Mode = "explicit", *, ech: bool = False) -> Facts:
    return Facts(
        id="x", began=time.time(), began_monotonic=0.0, mode=mode, host=host, sni=sni, port=443, hello=True, ech=ech
    )


@pytest.mark.parametrize(
    ("host", "sni", "mode", "two_names"),
    [
        ("a.test", "a.test", "explicit", False),
        ("a.test", "A.TEST", "explicit", False),
        ("a.test.", "a.test", "explicit", False),
        ("xn--bcher-kva.test", "bücher.test", "explicit", False),
        ("a.test", "", "explicit", False),
        ("192.0.2.1", "a.test", "explicit", False),
        ("[2001:db8::1]", "a.test", "socks5", False),
        ("", "a.test", "transparent", False),
        ("shop.internal", "a.test", "inbound", False),
        ("a.test", "b.test", "explicit", True),
        ("a.test", "b.test", "socks5", True),
        ("a.test", "b.test", "upstream", True),
        ("a.test", "a.test.evil.test", "explicit", True),
        ("a.test", "a.test:8443", "explicit", False),
    ],
)
def test_two_names(host: str, sni: str, mode: Mode, two_names: bool) -> None:
    """A client that asked for a name says the same in its ClientHello, in whatever spelling; who asked for an address,
    or was redirected, has named nobody; and an SNI that is no host name counts as none."""
    facts = _facts(host, sni, mode)
    assert differs(facts) is two_names
    decided = demanded(facts, Decision("x", "bypass"), Profile())
    assert (decided.action, decided.error) == (("block", "sni-mismatch") if two_names else ("bypass", ""))
    assert demanded(facts, Decision("x", "decrypt"), Profile(sni_mismatch="decrypt")).action == "decrypt"


def test_encrypted_client_hello() -> None:
    """It is decrypted by its outer name, or blocked; what is blocked already has its own reason."""
    facts = _facts("a.test", "a.test", ech=True)
    decrypt = Decision("x", "decrypt", reason="so says the rule")
    assert demanded(facts, decrypt, Profile()) is decrypt
    assert demanded(facts, decrypt, Profile(ech="block")).action == "block"
    assert demanded(facts, Decision("banks", "bypass"), Profile(ech="block")).action == "block", "its name is hidden"
    blocked = Decision("x", "block", reason="so says the rule")
    assert demanded(facts, blocked, Profile(ech="block", sni_mismatch="block")) is blocked
    facts.hello = False
    assert demanded(facts, decrypt, Profile(ech="block")) is decrypt


def test_another_name_on_the_same_connection() -> None:
    """A request for it is judged as a connection to it would be; one for the connection's own name not at all."""
    rules = policy(rule("games", "block", "games.test"), rule("bank", "bypass", "bank.test"))
    ways: list[tuple[str, str, Mode]] = [
        ("a.test", "a.test", "explicit"), ("192.0.2.1", "a.test", "socks5"), ("", "a.test", "transparent"),
    ]  # fmt: skip
    for host, sni, mode in ways:
        facts = _facts(host, sni, mode)
        facts.policy = rules
        assert elsewhere(facts, "A.test") is None
        other = elsewhere(facts, "b.test")
        assert other is not None
        assert (other.acts, other.settled) == ("decrypt", True)
        games = elsewhere(facts, "games.test")
        assert games is not None
        assert games.acts == "block"
        bank = elsewhere(facts, "bank.test")
        assert bank is not None
        assert bank.acts == "bypass" or not bank.settled
        assert (facts.host, facts.sni) == (host, sni)


@pytest.mark.parametrize("sni", ["", "a.test:8443", "..", "10.0.0.1", "a b"])
def test_what_is_no_name_is_none(sni: str) -> None:
    """no_sni is not evaded by an SNI that no certificate could have."""
    decision = decide(_facts("192.0.2.1", sni), policy(no_sni="block"))
    assert (decision.rule, decision.action) == ("no_sni", "block")
