"""`hsmitm policy show`: the policy as it is understood."""

from __future__ import annotations

from pathlib import Path

import msgspec

from addons.policy.settings import Profile
from tests.proxy.commands.policy.drafts import BANK, said, told, written

MORE = """
[[policy.rules]]
name = "old"
action = "block"
expires = 2020-02-29
to = { domains = [".B\u00fccher.example", { suffix = ".co.uk" }], networks = ["10.0.0.0/9", "10.128.0.0/9"] }
[[upstream.accept]]
host = "NAS.example"
spki_sha256 = "00000000000000000000000000000000000000000000000000000000000000ff"
reason = "CHG-1"
expires = 2099-12-31
"""


def test_rules_are_shown_as_they_are_understood(tmp_path: Path) -> None:
    """Names are A-labels, networks are joined, and a rule that is over says so."""
    found = told("show", "--config", str(written(tmp_path, BANK + MORE)))
    bank, _, old = found["rules"]
    assert bank["criteria"] == {
        "from.networks": ["10.1.0.0/16"],
        "to.categories": ["bank"],
        "to.ports": ["443"],
        "when": ["mon-fri, 07:00-19:00 (Europe/Rome)"],
    }
    assert old["criteria"] == {
        "to.domains": [".xn--bcher-kva.example", ".co.uk"],
        "to.networks": ["10.0.0.0/8"],
    }
    assert (bank["over"], old["over"], old["expires"]) == (False, True, "2020-02-29")
    assert found["accepts"][0]["host"] == "nas.example"
    assert found["categories"] == {"bank": [".bank.example"]}
    assert [one.partition(":")[0] for one in found["warnings"]] == ["policy.rules[2] 'old'"]


def test_profiles_are_shown_with_every_value(tmp_path: Path) -> None:
    """The built-in profile has exactly its defaults, and another one those that it does not change."""
    found = told("show", "--config", str(written(tmp_path)))["profiles"]
    values = msgspec.to_builtins(Profile())
    assert found == {"default": values, "careful": values | {"revoked": "allow"}}


def test_the_screen_has_all_of_it(tmp_path: Path) -> None:
    """People read the same as programs."""
    text = said("show", "--config", str(written(tmp_path, BANK + MORE)))
    for part in (
        "1. bank: bypass\n",
        "3. old: block, until 2020-02-29, which is OVER: it no longer matches\n",
        "     to.networks: 10.0.0.0/8\n",
        'profile default (built in)\n     expired = "block"\n',
        'profile careful\n     expired = "block"\n',
        "category bank: .bank.example\n",
        "accepted until 2099-12-31: nas.example with the key 00",
        "what no rule matches: decrypt",
        "warning: policy.rules[2] 'old': expires: 2020-02-29 is over",
    ):
        assert part in text
