"""[policy], [profiles.NAME] and [[upstream.accept]] of hsmitm.toml: what is refused names file, rule and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from addons.policy.settings import Profile
from hsm.errors import MisconfiguredError
from proxy.config import file, worker
from tests.proxy.config.test_worker import EXAMPLE

RULE = '[[policy.rules]]\nname = "one"\naction = "block"\n'
PIN = '[[upstream.accept]]\nhost = "nas.example"\nreason = "x"\nexpires = 2099-01-01\n'


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('[policy]\ndefault = "deny"', "policy.default: invalid enum value 'deny'; one of decrypt, bypass, block"),
        ("[policy]\ndefalt = 1", "policy.defalt: unknown field; did you mean 'default'?"),
        ("[policy]\nrules = [5]", "policy.rules[0]: expected `object`, got `int`"),
        ('[[policy.rules]]\nname = "one"', "policy.rules[0] 'one': action: this field is required"),
        ('[[policy.rules]]\naction = "block"', "policy.rules[0].name: this field is required"),
        (RULE.replace("one", "a b"), "policy.rules[0] 'a b': name: a name has letters, digits"),
        (RULE + 'form = { users = ["a"] }', "policy.rules[0] 'one': form: unknown field; did you mean 'from'?"),
        (RULE + 'from = { user = ["a"] }', "policy.rules[0] 'one': from.user: unknown field; did you mean 'users'?"),
        (RULE + 'to = { domain = ["a"] }', "policy.rules[0] 'one': to.domain: unknown field; did you mean 'domains'?"),
        (RULE + "to = { domains = [5] }", "policy.rules[0] 'one': to.domains[0]: expected `str | object`, got `int`"),
        (RULE + "to = { domains = [{ s = 1 }] }", "policy.rules[0] 'one': to.domains[0]: s: unknown field"),
        (
            RULE + 'expires = "2027-01-01"',
            "policy.rules[0] 'one': expires: expected `date | null`, got `str`; write a ",
        ),
        (RULE + 'to = { domains = ["1.2.3.4"] }', "policy.rules[0] 'one': to.domains: '1.2.3.4' is an address"),
        (RULE + 'listener = "127.0.0.1:1"', "policy.rules[0] 'one': listener: nobody listens on 127.0.0.1:1; there a"),
        (RULE + 'listener = "here"', "policy.rules[0] 'one': listener: 'here' is no address; write host:port"),
        (RULE + RULE.replace("one", "two"), "policy.rules[1] 'two': it can never match, because the rule 'one'"),
        ("[policy.categories]\na = ['x.example']\nb = [5]", "policy.categories.b[0]: expected `str | object`"),
        (
            '[profiles.a]\n[profiles.b]\nexpired = "no"',
            "profiles.b.expired: invalid enum value 'no'; one of block, unt",
        ),
        ("[profiles.a]\n[profiles.b]\nexpird = 1", "profiles.b.expird: unknown field; did you mean 'expired'?"),
        ("[profiles.b]\nmin_rsa = 512", "profiles.b.min_rsa: expected `int` >= 1024"),
        ('[profiles.b]\nversions = "1.3-1.2"', "profiles.b.versions: '1.3-1.2' are none"),
        (PIN, "upstream.accept[0].spki_sha256: this field is required"),
        (PIN + 'spki_sha256 = "AB"', "upstream.accept[0].spki_sha256: the SHA-256 of a public key (SubjectPublicKeyIn"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, written: str, said: str) -> None:
    """Whoever reads the file, the supervisor or a worker, says the same: the file, the rule or profile, the field."""
    path = tmp_path / "hsmitm.toml"
    path.write_text(EXAMPLE + written)
    for load in (file.load, worker.load):
        with pytest.raises(MisconfiguredError) as caught:
            load(path)
        assert str(caught.value).startswith(f"hsmitm.toml: {said}")


def test_a_file_without_a_policy_decrypts_everything(tmp_path: Path) -> None:
    """What ran before there was a policy runs on as it did."""
    path = tmp_path / "hsmitm.toml"
    path.write_text(EXAMPLE)
    found = worker.load(path).policy
    assert (found.default, found.mode, found.no_sni, found.rules) == ("decrypt", "enforce", "decrypt", ())
    assert found.profiles == {"default": Profile()}


def test_supervisor_and_workers_have_the_same_policy(tmp_path: Path) -> None:
    """What was checked is what decides."""
    path = tmp_path / "hsmitm.toml"
    path.write_text(EXAMPLE + RULE + 'listener = "0.0.0.0:443"\n[profiles.b]\nexpired = "allow"\n')
    whole, part = file.load(path).file.compiled(), worker.load(path).policy
    assert whole.version == part.version
    assert [one.rule.listener for one in part.rules] == ["0.0.0.0:443"]


@pytest.mark.parametrize(("listen", "rule"), [("*:3128", ":3128"), ("[::1]:3128", "[::1]:3128"), (":3128", "*:3128")])
def test_listeners_are_compared_as_addresses(tmp_path: Path, listen: str, rule: str) -> None:
    """A listener may be written in a rule in another of its ways."""
    path = tmp_path / "hsmitm.toml"
    path.write_text(
        EXAMPLE.replace('listen = "127.0.0.1:3128"', f'listen = "{listen}"') + RULE + f'listener = "{rule}"'
    )
    assert worker.load(path).policy.rules[0].rule.listener in (":3128", "[::1]:3128")


def test_a_draft_may_be_a_policy_alone(tmp_path: Path) -> None:
    """Whoever tries a policy out writes that and nothing else; rules about listeners are taken as they are."""
    path = tmp_path / "draft.toml"
    path.write_text(RULE + 'listener = "127.0.0.1:8443"')
    assert worker.load(path).policy.rules[0].rule.listener == "127.0.0.1:8443"
