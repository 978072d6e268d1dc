"""The demo's policy in its configuration: in one that `init` has just written, and in one of a version before."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import toml

from addons.records import record
from addons.records.facts import Facts
from addons.records.translation import to_record
from proxy.demo import policy

_OLD = '[proxy]\nmode = "regular"\n\n[log]\nlevel = "info"\n'
_NEW = '[pages]\ncontact = ""\n\n[decryption_log]\nfile = "decryption.jsonl"\n'


def _written(path: Path, text: str) -> dict[str, object]:
    path.write_text(text)
    policy.add_to(path)
    once = path.read_text()
    policy.add_to(path)
    assert path.read_text() == once, "a second demo changes nothing"
    found: dict[str, object] = toml.decode(once)
    return found


def test_the_demo_has_a_policy_a_log_and_a_contact(tmp_path: Path) -> None:
    """A directory of now, and one of before, get the rules once; what stands in the file stays."""
    for text in (_OLD, _NEW):
        found = _written(tmp_path / "hsmitm.toml", text)
        assert found["decryption_log"] == {"file": "decryption.jsonl"}
        rules = json.loads(json.dumps(found["policy"]))["rules"]
        assert [(one["name"], one["action"]) for one in rules] == [("bank", "bypass"), ("games", "block")]
    assert found["pages"] == {"contact": "the demo's help desk"}


def test_records_that_are_being_written_are_waited_for(tmp_path: Path) -> None:
    """Half a line is no record yet, and what was there before the demo is not of it."""
    made = record.line(to_record(Facts(id="a", began=1.0, began_monotonic=0.0, host="shop.demo.test"), 2.0))
    log = tmp_path / "decryption.jsonl"
    log.write_bytes(made * 3 + made[:50])
    assert len(policy._new(log, len(made))) == 2
    assert policy._new(tmp_path / "none", 0) == []
