"""The policy's commands beside a running hsmitm: what `policy test` says happens, and the log can be replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, Reply, System, hsmitm
from tests.waiting import wait_until

RULES = """
[policy.categories]
bank = [".bank.test"]
[[policy.rules]]
name = "guest"
action = "block"
from = { networks = ["127.0.0.2"] }
to = { domains = [".intern.test"] }
[[policy.rules]]
name = "bank"
action = "bypass"
to = { categories = ["bank"] }
[[policy.rules]]
name = "games"
action = "block"
to = { domains = ["games.test"] }
[[policy.rules]]
name = "never"
action = "block"
to = { domains = ["never.test"] }
[[policy.rules]]
name = "old"
action = "block"
expires = 2020-01-01
to = { domains = ["www.test"] }
"""
VISITS = [
    ("www.bank.test", ()),
    ("games.test", ()),
    ("www.intern.test", ()),
    ("www.intern.test", ("--interface", "127.0.0.2")),
    ("www.test", ()),
]


@pytest.fixture(scope="module")
def origin_ca() -> OriginCA:
    """The CA of the internet."""
    return OriginCA()


@pytest.fixture(scope="module")
def origin(origin_ca: OriginCA) -> Iterator[OriginThread]:
    """The internet."""
    with OriginThread(origin_ca) as running:
        yield running


@pytest.fixture(scope="module")
def running(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An hsmitm with these rules, two workers and a decryption log."""
    made = System.make(tmp_path_factory.mktemp("policy") / "s", upstream_ca=origin_ca.pem, workers="2")
    (made.directory / "log").mkdir()
    made.edit(file='"log/decryption.jsonl"')
    made.toml.write_text(made.toml.read_text() + RULES)
    with made as system:
        yield system


def asked(system: System, *arguments: str) -> Any:
    """What `hsmitm policy ... --json` says."""
    done = hsmitm("policy", *arguments, "--config", str(system.toml), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def visit(system: System, origin: OriginThread, host: str, *options: str) -> Reply:
    """One request of a client that trusts anybody."""
    return system.curl(f"https://{host}:{origin.port}/", "--insecure", *options)


def records(system: System) -> list[Any]:
    """The decryption log."""
    path = system.directory / "log/decryption.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_is_said_is_what_happens(running: System, origin: OriginThread) -> None:
    """Each connection lands on the rule that `policy test` names, and the log has it."""
    said = []
    for host, options in VISITS:
        client = options[1] if options else "127.0.0.1"
        found = asked(running, "test", "--host", host, "--port", str(origin.port), "--from", client)
        said.append((host, found["rule"], found["action"]))
    for host, options in VISITS:
        visit(running, origin, host, *options)
    wait_until(lambda: len(records(running)) >= len(VISITS), "each connection has its record")
    seen = [(one["hsmitm"]["host"], one["hsmitm"]["rule"], one["hsmitm"]["action"]) for one in records(running)]
    assert sorted(seen) == sorted(said)
    assert {rule for _, rule, _ in said} == {"bank", "games", "guest", "default"}


def test_hits_are_those_of_all_workers(running: System, origin: OriginThread) -> None:
    """Rules that nobody needed come first, then the others with their counts."""
    if not records(running):
        test_what_is_said_is_what_happens(running, origin)

    def counted() -> dict[str, int]:
        return {one["rule"]: one["count"] for one in asked(running, "hits")["rules"]}

    wanted: dict[str, int] = {}
    for one in records(running):
        wanted[one["hsmitm"]["rule"]] = wanted.get(one["hsmitm"]["rule"], 0) + 1
    wait_until(lambda: {rule: count for rule, count in counted().items() if count} == wanted, "workers report", 20)
    assert list(counted())[:2] == ["never", "old"]


def test_the_log_is_replayed(running: System, origin: OriginThread, tmp_path: Path) -> None:
    """The policy in force changes nothing of what it has done; a draft changes exactly what it says."""
    if not records(running):
        test_what_is_said_is_what_happens(running, origin)
    log = str(running.directory / "log/decryption.jsonl")
    found = asked(running, "replay")
    assert (found["changed"], found["renamed"], found["connections"]) == (0, 0, len(records(running)))
    draft = tmp_path / "draft.toml"
    draft.write_text(RULES.replace('action = "bypass"', 'action = "block"'))
    done = hsmitm("policy", "replay", "--log", log, "--config", str(draft), "--json")
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(done.stdout)["groups"]
    assert {one["host"] for one in group["connections"]} == {"www.bank.test"}


def test_what_is_wrong_is_said_in_a_sentence(running: System, tmp_path: Path) -> None:
    """A draft with a mistake is refused with file, rule and field, by every command."""
    draft = tmp_path / "draft.toml"
    draft.write_text(RULES.replace('domains = ["never.test"]', 'domains = ["10.0.0.1"]'))
    for command in (["show"], ["test", "--host", "x.test"], ["hits"], ["replay", "--log", "x"]):
        done = hsmitm("policy", *command, "--config", str(draft))
        assert (done.returncode, done.stderr) == (
            78,
            "hsmitm: draft.toml: policy.rules[3] 'never': to.domains: '10.0.0.1' is an address; write it under "
            "networks\n",
        )
