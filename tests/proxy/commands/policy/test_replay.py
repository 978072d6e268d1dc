"""`hsmitm policy replay`: exactly the connections of the past that would be decided otherwise."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from addons.policy.decision import decide
from addons.policy.demands import demanded
from addons.policy.rules import Compiled
from addons.records import record
from addons.records.facts import Facts, Verification
from addons.records.translation import to_record
from hsm.errors import MisconfiguredError
from proxy.commands.policy.replay import replay
from proxy.config.worker import load
from tests.addons.policy.making import MONDAY, facts, greeted
from tests.addons.records import examples
from tests.proxy.commands.policy.drafts import BANK, said, told, written

NOW = BANK
DRAFT = BANK.replace('action = "bypass"', 'action = "block"').replace('profile = "careful"\n', "")


def decided(asked: Facts, policy: Compiled) -> bytes:
    """The line of the log that a worker with this policy writes of it."""
    asked.decision = demanded(asked, decide(asked, policy), Compiled.profile(policy, "default"))
    asked.policy_version = policy.version
    return record.line(to_record(asked, asked.began + 3, worker=1))


def visits() -> list[Facts]:
    """Some connections of each kind."""
    return [
        greeted("www.bank.example", addresses=("203.0.113.9",)),
        greeted("www.shop.example", addresses=("203.0.113.8",)),
        greeted("www.shop.example", addresses=("192.0.2.8",)),
        greeted("www.bank.example", "evil.example", addresses=("203.0.113.9",)),
        greeted("www.bank.example", client_ip="10.9.9.9", addresses=("203.0.113.9",)),
        greeted("www.bank.example", at=MONDAY + dt.timedelta(days=5), addresses=("203.0.113.9",)),
        facts("www.bank.example", plain=True, addresses=("203.0.113.9",)),
        facts("www.bank.example"),
        greeted("203.0.113.9", "www.bank.example", sni_proved=True),
        greeted("203.0.113.9", "www.bank.example", sni_proved=False),
    ]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of these, as the policy of BANK decided them."""
    config = written(tmp_path, NOW)
    policy = load(config).policy
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(decided(one, policy) for one in visits()))
    return path


def test_the_same_policy_decides_all_alike(log: Path, tmp_path: Path) -> None:
    """Whoever replays the policy in force reads that nothing would change."""
    found = told("replay", "--log", str(log), "--config", str(written(tmp_path, NOW)))
    assert (found["connections"], found["changed"], found["renamed"], found["groups"]) == (10, 0, 0, [])


def test_a_draft_shows_exactly_what_it_changes(log: Path, tmp_path: Path) -> None:
    """A draft that blocks the bank changes those that went there, and not the lie that was blocked before."""
    found = told("replay", "--log", str(log), "--config", str(written(tmp_path, DRAFT)))
    (group,) = found["groups"]
    assert (group["rule"], group["action"], group["count"]) == ("bank", "block", 5)
    assert [(one["host"], one["was"]["action"]) for one in group["connections"]] == [
        ("www.bank.example", "bypass"),
        ("www.bank.example", "decrypt"),
        ("www.bank.example", "decrypt"),
        ("203.0.113.9", "bypass"),
        ("203.0.113.9", "decrypt"),
    ]
    text = said("replay", "--log", str(log), "--config", str(written(tmp_path, DRAFT)))
    before = "2 bypass by rule 'bank', 1 decrypt by rule 'bank', 2 decrypt by the default"
    assert text.startswith(f"rule 'bank': block (5 connections)\n  before: {before}\n")
    assert text.endswith("5 of 10 connections would be decided otherwise; 1 fare alike by another rule\n")


def test_a_rule_of_another_name_changes_nothing(log: Path, tmp_path: Path) -> None:
    """A rule that is called otherwise decides alike: it is counted, and no connection is shown."""
    draft = NOW.replace('name = "lab"', 'name = "laboratory"')
    found = told("replay", "--log", str(log), "--config", str(written(tmp_path, draft)))
    assert (found["changed"], found["renamed"]) == (0, 1)


def test_another_profile_is_a_change(log: Path, tmp_path: Path) -> None:
    """What is demanded of the server is part of what becomes of a connection."""
    draft = NOW.replace('profile = "careful"\n', "")
    found = told("replay", "--log", str(log), "--config", str(written(tmp_path, draft)))
    changes = [one for group in found["groups"] for one in group["connections"]]
    assert [(one["was"]["profile"], one["now"]["profile"]) for one in changes] == [("careful", "default")] * 3


def test_from_warn_to_enforce(tmp_path: Path) -> None:
    """After some days in warn mode an operator reads what enforcing would change."""
    warns = '[policy]\nmode = "warn"\n' + NOW
    policy = load(written(tmp_path, warns)).policy
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(decided(one, policy) for one in visits()))
    assert told("replay", "--log", str(log), "--config", str(written(tmp_path, warns)))["changed"] == 0
    found = told("replay", "--log", str(log), "--config", str(written(tmp_path, NOW)))
    assert [(one["rule"], one["action"], one["count"]) for one in found["groups"]] == [
        ("bank", "bypass", 2),
        ("lab", "block", 1),
        ("default", "block", 1),
        ("bank", "decrypt", 1),
    ]


def test_what_passed_in_an_outage_is_no_change(tmp_path: Path) -> None:
    """A site that its rule had passed while no member served is decided as ever: it would pass again."""
    text = '[[policy.rules]]\nname = "all"\naction = "decrypt"\nhsm_unavailable = "bypass"'
    policy = load(written(tmp_path, text)).policy
    asked = greeted("www.shop.example")
    asked.decision = structs.replace(decide(asked, policy), action="bypass")
    log = tmp_path / "log.jsonl"
    log.write_bytes(record.line(to_record(asked, asked.began, worker=1)))
    assert replay([log], policy).changed == 0


def test_a_certificate_in_the_log_proves_an_sni(tmp_path: Path) -> None:
    """Where nobody had to prove an SNI, the server's certificate tells; without one the change is said to be open."""
    asked: Any = {"mode": "transparent", "addresses": ("203.0.113.9",)}
    lines = []
    for code in (0, 62, None):
        one = greeted("", "www.bank.example", **asked)
        one.server_leg.verification = None if code is None else Verification(code, 0, "said")
        lines.append(decided(one, load(written(tmp_path, "")).policy))
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(lines))
    found = told("replay", "--log", str(log), "--config", str(written(tmp_path, BANK)))
    assert [(one["was"]["action"], one["now"]["action"], one["open"]) for one in found["groups"][0]["connections"]] == [
        ("decrypt", "bypass", []),
    ]
    assert found["open"] == 1


def test_what_a_client_said_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    """A host with control characters is shown, and that is all."""
    asked = greeted("evil\x1b[2J.example")
    log = tmp_path / "log.jsonl"
    log.write_bytes(decided(asked, load(written(tmp_path, "")).policy))
    text = said("replay", "--log", str(log), "--config", str(written(tmp_path, '[policy]\ndefault = "block"')))
    assert "evil?[2J.example" in text
    assert "\x1b" not in text


def test_what_is_no_record(log: Path, tmp_path: Path) -> None:
    """A line that was cut, and clients that asked for nothing, are counted and passed over."""
    bare = record.line(to_record(examples.bare(), 1_790_000_001.0, worker=1))
    log.write_bytes(log.read_bytes() + bare + b'{"@timestamp": "2026-\n\n')
    text = said("replay", "--log", str(log), "--config", str(written(tmp_path, NOW)))
    assert "1 more had no decision" in text
    assert text.endswith("1 line is no record\n")


@pytest.mark.parametrize(("content", "wrong"), [(None, "cannot read"), (b"no log\n", "there is no record")])
def test_what_is_no_log(tmp_path: Path, content: bytes | None, wrong: str) -> None:
    """A file that is none is an error that names it."""
    path = tmp_path / "some.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MisconfiguredError, match=f"--log: {wrong}"):
        told("replay", "--log", str(path), "--config", str(written(tmp_path)))


def test_the_configured_log_is_replayed(log: Path, tmp_path: Path) -> None:
    """Without --log it is the log that the configuration names."""
    text = f'[decryption_log]\nfile = "{log.name}"\n{NOW}'
    assert told("replay", "--config", str(written(tmp_path, text)))["connections"] == 10
    with pytest.raises(MisconfiguredError, match=r"--log: .*draft.toml has no \[decryption_log\] file"):
        told("replay", "--config", str(written(tmp_path, NOW)))


@pytest.mark.alone
def test_a_hundred_thousand_records_in_ten_seconds(tmp_path: Path) -> None:
    """A day's log of a large site is replayed while an operator watches, and exactly what changes is shown."""
    policy = load(written(tmp_path, NOW)).policy
    log = tmp_path / "log.jsonl"
    kinds = [decided(structs.replace(one, host=one.host.replace("shop", "shop%04d")), policy) for one in visits()]
    with log.open("wb") as file:
        for number in range(10_000):
            file.writelines(one.replace(b"%04d", b"%04d" % number) for one in kinds)
    draft = load(written(tmp_path, DRAFT)).policy
    begun = time.monotonic()
    found = replay([log], draft)
    assert time.monotonic() - begun < 10
    assert (found.connections, found.changed) == (100_000, 50_000)
