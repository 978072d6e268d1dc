"""`hsmitm explain` as a command, with servers that are there and an hsmitm that is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hsm.errors import MisconfiguredError
from proxy.commands.explain.explain import question
from proxy.commands.explain.report import Question
from proxy.main import app
from tests.integration.harness import OriginCA, OriginThread

_TOML = """
[[hsm.members]]
name = "m1"
module = "/lib/softhsm.so"
token = "t"
pin = {{ file = "pin" }}
[forward.trust]
certificate = "trust.pem"
key = "pkcs11:token=t;object=a;type=private"
[forward.untrust]
certificate = "untrust.pem"
key = "pkcs11:token=t;object=b;type=private"
[proxy]
upstream_ca = "roots.pem"
deny_destinations = {denied}
[policy]
[[policy.rules]]
name = "hr"
from = {{ networks = ["10.1.0.0/16"] }}
to = {{ domains = ["localhost"] }}
action = "bypass"
[[policy.rules]]
name = "outside"
to = {{ domains = [".blocked.test"] }}
action = "block"
"""


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """A configuration of an hsmitm that does not run."""
    path = tmp_path / "hsmitm.toml"
    path.write_text(_TOML.format(denied="[]"))
    return path


def _explained(config: Path, *arguments: str) -> dict[str, dict[str, object]]:
    done = CliRunner().invoke(app, ["explain", *arguments, "--config", str(config), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, dict[str, object]] = json.loads(done.output)
    return found


@pytest.mark.parametrize(
    ("said", "port", "meant"),
    [
        ("www.bank.example", None, Question("www.bank.example", 443)),
        ("WWW.Bank.Example.", None, Question("www.bank.example", 443)),
        ("https://www.bank.example/login?x=1", None, Question("www.bank.example", 443)),
        ("https://user@www.bank.example:8443/", None, Question("www.bank.example", 8443)),
        ("www.bank.example:8443", None, Question("www.bank.example", 8443)),
        ("www.bank.example:8443", 9443, Question("www.bank.example", 9443)),
        ("[2001:db8::1]:8443", None, Question("2001:db8::1", 8443)),
        ("2001:db8::1", None, Question("2001:db8::1", 443)),
        ("bücher.example", None, Question("xn--bcher-kva.example", 443)),
    ],
)
def test_a_host_is_taken_as_people_say_it(said: str, port: int | None, meant: Question) -> None:
    """A name, a URL out of a mail, with or without a port."""
    assert question(said, port, "", "") == meant


@pytest.mark.parametrize(
    ("said", "client"), [("", ""), ("a..b", ""), ("a b", ""), ("x.test", "10.1.2.3.4"), ("x:99999", "")]
)
def test_what_is_no_host_is_said(said: str, client: str) -> None:
    """A sentence, and no traceback."""
    with pytest.raises(MisconfiguredError):
        question(said, None, client, "")


def test_a_good_site_while_hsmitm_does_not_run(configured: Path) -> None:
    """The policy, the server as it is seen now, and that no signer is there to ask."""
    ca = OriginCA()
    (configured.parent / "roots.pem").write_text(ca.pem)
    with OriginThread(ca) as origin:
        found = _explained(configured, "localhost", "--port", str(origin.port), "--from", "10.1.2.3")
        other = _explained(configured, "localhost", "--port", str(origin.port), "--from", "10.2.2.3")
    assert (found["policy"]["action"], found["policy"]["rule"]) == ("bypass", "hr")
    assert found["policy"]["exclusions"] == ["the rule hr excludes it from inspection"]
    assert (found["server"]["wrong"], found["server"]["outcome"]) == ([], "trust")
    assert found["hsm"]["running"] is False
    assert "passed on unread" in str(found["short"])
    assert (other["policy"]["action"], other["policy"]["rule"]) == ("decrypt", "default")
    assert other["policy"]["missed"][0]["rule"] == "hr"  # type: ignore[index]
    assert "nothing is wrong with it" in str(other["short"])


def test_a_server_that_nobody_vouches_for(configured: Path) -> None:
    """What is wrong with its certificate, and what clients see of that."""
    (configured.parent / "roots.pem").write_text(OriginCA().pem)
    with OriginThread(OriginCA()) as origin:
        found = _explained(configured, f"https://localhost:{origin.port}/")
    assert found["server"]["outcome"] == "untrust"
    assert found["server"]["kind"] in ("server-untrusted", "server-incomplete-chain")
    assert "clients are warned" in str(found["short"])


def test_a_blocked_site_says_by_which_rule(configured: Path) -> None:
    """Somebody who may not reach a site hears which rule says so, whether or not the site is there."""
    found = _explained(configured, "www.blocked.test")
    assert found["short"] == "www.blocked.test is blocked: rule 'outside' says block."


def test_a_denied_destination_is_said_first(configured: Path) -> None:
    """The proxy does not connect to this machine, whatever the policy says."""
    configured.write_text(_TOML.format(denied='["loopback"]'))
    found = _explained(configured, "localhost", "--from", "10.1.2.3")
    assert found["policy"]["denied"] == "loopback"
    assert "denied by 'loopback'" in str(found["short"])


def test_people_get_a_screen(configured: Path) -> None:
    """Without --json it is text, and nothing is an error."""
    done = CliRunner().invoke(app, ["explain", "www.blocked.test", "--config", str(configured)])
    assert done.exit_code == 0
    assert "Policy     block, rule 'outside' says block" in done.output
    assert max(map(len, done.output.splitlines())) <= 80
