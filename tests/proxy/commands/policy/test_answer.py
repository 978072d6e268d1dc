"""`hsmitm policy test`: the answer, and why not by the other rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.errors import MisconfiguredError
from tests.proxy.commands.policy.drafts import BANK, said, told, written

MONDAY = ("--at", "2026-03-02T12:00Z")
HONEST = ("--host", "www.bank.example", "--from", "10.1.2.3", *MONDAY)


def test_a_bypass_is_explained(tmp_path: Path) -> None:
    """The first words say what becomes of the connection, the next what its client sees."""
    lines = said("test", "--config", str(written(tmp_path)), *HONEST).splitlines()
    assert lines == [
        "bypass: rule 'bank' says bypass",
        "passed on unread: the client sees the server's own certificate",
        "profile: careful",
        "categories: bank",
    ]


@pytest.mark.parametrize(
    ("options", "rule", "why"),
    [
        (("--from", "10.2.0.1"), "default", ("from.networks", "10.2.0.1 is in none of the networks")),
        (("--port", "8443"), "default", ("to.ports", "the port is 8443")),
        (("--at", "2026-03-07T12:00Z"), "default", ("when", "it is sat 13:00 (Europe/Rome)")),
        (("--at", "2026-03-02T20:00+01:00"), "default", ("when", "it is mon 20:00 (Europe/Rome)")),
        (("--host", "www.evil.example"), "default", ("to.categories", "www.evil.example is in none of them")),
        (
            ("--sni", "www.evil.example"),
            "default",
            ("sni", "the client asked for www.bank.example, and its SNI is www.evil.example"),
        ),
    ],
)
def test_each_rule_that_does_not_match_says_why(
    tmp_path: Path, options: tuple[str, ...], rule: str, why: tuple[str, str]
) -> None:
    """An operator who wonders why a site is inspected reads the first field that does not hold."""
    found = told("test", "--config", str(written(tmp_path)), *HONEST, "--address", "203.0.113.1", *options)
    assert found["rule"] == rule
    assert tuple(found["missed"][0][name] for name in ("rule", "field", "why")) == ("bank", *why)


def test_a_host_is_looked_up_where_a_rule_asks_for_its_address(tmp_path: Path) -> None:
    """A rule about networks is answered by what the name resolves to here, or by the address that is given."""
    config = str(written(tmp_path))
    assert told("test", "--config", config, "--host", "localhost")["addresses"][0] in ("127.0.0.1", "::1")
    found = told("test", "--config", config, "--host", "x.example", "--address", "192.0.2.7")
    assert (found["rule"], found["action"], found["addresses"]) == ("lab", "block", ["192.0.2.7"])
    assert told("test", "--config", config, "--host", "192.0.2.7")["rule"] == "lab"
    assert told("test", "--config", config, *HONEST)["addresses"] == []
    through = tmp_path / "through.toml"
    through.write_text(Path(config).read_text() + '\n[proxy]\nmode = "upstream:http://proxy.example:3128"\n')
    assert told("test", "--config", str(through), "--host", "localhost")["addresses"] == [], (
        "the other proxy looks it up"
    )


def test_a_destination_that_is_denied(tmp_path: Path) -> None:
    """What the policy lets through, and the proxy does not connect to, is not said to be inspected without a word."""
    config = str(written(tmp_path))
    found = told("test", "--config", config, "--host", "169.254.169.254", "--port", "80", "--plain")
    assert (found["action"], found["denied"]) == ("decrypt", "link-local")
    assert "denied by 'link-local' of [proxy] deny_destinations" in said(
        "test", "--config", config, "--host", "169.254.169.254"
    )


def test_a_host_that_has_no_address(tmp_path: Path) -> None:
    """A name that does not resolve is no error: the answer says so."""
    found = told("test", "--config", str(written(tmp_path)), "--host", "nosuch.invalid")
    assert found["problem"].startswith("nosuch.invalid has no address: ")


def test_an_sni_that_nobody_has_proved(tmp_path: Path) -> None:
    """Where a client asks for an address and says a name, both answers are given, or the one that is asked for."""
    asked = ("test", "--config", str(written(tmp_path)), "--host", "203.0.113.9", "--sni", "www.bank.example",
             "--from", "10.1.2.3", *MONDAY)  # fmt: skip
    found = told(*asked)
    assert (found["rule"], found["action"]) == ("default", "decrypt")
    assert found["if_proved"] == {"rule": "bank", "action": "bypass"}
    assert "then bypass, by rule 'bank'" in said(*asked)
    assert told(*asked, "--proved")["rule"] == "bank"
    assert told(*asked, "--not-proved")["if_proved"] is None


def test_what_a_profile_demands_of_the_client_is_part_of_the_answer(tmp_path: Path) -> None:
    """A client that asks for one name and says another is blocked by the default profile."""
    found = told("test", "--config", str(written(tmp_path, "")), "--host", "a.example", "--sni", "b.example")
    assert (found["rule"], found["action"]) == ("default", "block")
    assert "sni_mismatch is block" in found["reason"]


def test_a_policy_that_warns(tmp_path: Path) -> None:
    """In warn mode the answer is what would have happened, and says that nothing does."""
    config = str(written(tmp_path, '[policy]\nmode = "warn"\ndefault = "block"'))
    found = told("test", "--config", config, "--host", "x.example")
    assert (found["action"], found["acts"], found["mode"]) == ("block", "decrypt", "warn")
    assert "the policy only warns" in said("test", "--config", config, "--host", "x.example")


def test_plain_http(tmp_path: Path) -> None:
    """A plain request to the bank is inspected, under the rule's name."""
    found = told("test", "--config", str(written(tmp_path)), *HONEST, "--plain")
    assert (found["rule"], found["action"]) == ("bank", "decrypt")


TRANSPARENT = '[proxy]\nmode = "transparent"\n'
INBOUND = """
[[inbound]]
listen = "127.0.0.1:8443"
[[inbound.sites]]
names = ["shop.example"]
certificate = "shop.pem"
key = "pkcs11:object=shop"
upstream = "https://10.0.0.5"
"""


def test_other_modes(tmp_path: Path) -> None:
    """In transparent mode, and at our own sites, the name is the SNI; what is no listener's rule is no listener's."""
    config = str(written(tmp_path, TRANSPARENT + BANK))
    assert told("test", "--config", config, *HONEST)["rule"] == "bank"
    assert told("test", "--config", config, *HONEST, "--address", "203.0.113.9")["if_proved"]["rule"] == "bank"
    sites = written(tmp_path, f'{INBOUND}[policy]\ndefault = "block"\n')
    found = told("test", "--config", str(sites), "--host", "shop.example", "--listener", "127.0.0.1:8443")
    assert found["action"] == "decrypt"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "a/b"), "--host: 'a/b' has the label 'a/b'"),
        (("--host", "x", "--from", "bob"), "--from: 'bob' is no address; write 10.1.2.3"),
        (("--host", "x", "--address", "y"), "--address: 'y' is no address"),
        (("--host", "x", "--at", "noon"), "--at: 'noon' is no time; write 2027-03-02T12:00"),
        (("--host", "x", "--listener", "nowhere"), "--listener: 'nowhere' is no address"),
        (("--host", "x", "--listener", ":9"), "--listener: nobody listens on :9; there are 127.0.0.1:8080"),
    ],
)
def test_what_cannot_be_asked(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """A question that makes no sense is answered with what would."""
    config = written(tmp_path)
    with pytest.raises(MisconfiguredError) as caught:
        told("test", "--config", str(config), *options)
    assert str(caught.value).startswith(said)
