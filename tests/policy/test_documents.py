"""docs/policy.md: each worked example is a policy that hsmitm takes, and does what its table says."""

from __future__ import annotations

import datetime as dt
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proxy.commands.check_policy import check_policy
from proxy.commands.findings import Findings
from proxy.config.file import parse
from proxy.main import app

_DOCUMENT = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
_MINIMAL = """
[[hsm.members]]
name = "m1"
module = "/lib/softhsm.so"
token = "t"
pin = { file = "pin" }
[forward.trust]
certificate = "trust.pem"
key = "pkcs11:token=t;object=a;type=private"
[forward.untrust]
certificate = "untrust.pem"
key = "pkcs11:token=t;object=b;type=private"
"""
_ROW = re.compile(r"^\| `(?P<asked>[^`]+)` \| (?P<action>\w+) \| (?P<rule>[\w.-]+) \|$", re.MULTILINE)


def _examples() -> Iterator[tuple[str, str, str]]:
    """Title, configuration, and what stands below it, of each worked example."""
    whole = _DOCUMENT.partition("## Six worked examples")[2].partition("\n## ")[0]
    for part in whole.split("\n### ")[1:]:
        title, _, text = part.partition("\n")
        toml = re.search(r"(?ms)^```toml\n(.*?)^```", text)
        assert toml is not None, title
        yield title, toml[1], text[toml.end() :]


_EXAMPLES = list(_examples())
_CLAIMS = [
    pytest.param(toml, row["asked"], row["action"], row["rule"], id=f"{title}: {row['asked']}")
    for title, toml, below in _EXAMPLES
    for row in _ROW.finditer(below)
]


def test_there_are_six_examples_with_claims() -> None:
    """HR and finance, medical, a pinned app, a broken internal site, a guest network, an agent sandbox."""
    assert [title for title, _, _ in _EXAMPLES] == [
        "HR and finance", "Medical", "A pinned app", "A broken internal site", "A guest network", "An agent sandbox",
    ]  # fmt: skip
    for title, _, below in _EXAMPLES:
        rows = [line for line in below.splitlines() if line.startswith("| `")]
        assert len(rows) >= 3, title
        assert len(rows) == len(_ROW.findall(below)), f"{title}: a row that no test reads"


@pytest.mark.parametrize(("title", "toml"), [(title, toml) for title, toml, _ in _EXAMPLES])
def test_an_example_is_taken_as_it_stands(title: str, toml: str, tmp_path: Path) -> None:
    """Copied into hsmitm.toml it is right: `check` has nothing against it, today or on the day it was written for."""
    lines: list[str] = []
    findings = Findings(lines.append)
    check_policy(parse((_MINIMAL + toml).encode(), tmp_path / "hsmitm.toml"), findings)
    assert findings.right, (title, lines)


@pytest.mark.parametrize(("toml", "asked", "action", "rule"), _CLAIMS)
def test_the_table_is_what_policy_test_says(toml: str, asked: str, action: str, rule: str, tmp_path: Path) -> None:
    """Each row: what an administrator who runs that command reads."""
    path = tmp_path / "hsmitm.toml"
    path.write_text(_MINIMAL + toml)
    arguments = shlex.split(asked)
    if "--at" not in arguments:
        arguments += ["--at", dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC).isoformat()]
    if "--address" not in arguments:  # no name is looked up
        arguments += ["--address", "203.0.113.7"] if not re.search(r"--host [\d.]+ ", asked) else []
    done = CliRunner().invoke(app, ["policy", "test", *arguments, "--config", str(path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["action"], found["rule"]) == (action, rule), found


def test_the_accepted_site_is_accepted_by_its_key_alone(tmp_path: Path) -> None:
    """The broken internal site's exception is in force until its day, and for one key."""
    toml = next(toml for title, toml, _ in _EXAMPLES if title == "A broken internal site")
    (accept,) = parse((_MINIMAL + toml).encode(), tmp_path / "hsmitm.toml").file.upstream.accept
    assert accept.host == "nas.corp.example"
    assert accept.expires > dt.date(2027, 1, 1)


def test_the_pages_that_the_document_shows_can_be_configured(tmp_path: Path) -> None:
    """[pages] of the document is taken, and names each placeholder that there is."""
    from addons.pages.template import PLACEHOLDERS  # noqa: PLC0415

    toml = _DOCUMENT.partition("## What a client sees")[2]
    block = re.search(r"(?ms)^```toml\n(.*?)^```", toml)
    assert block is not None
    assert parse((_MINIMAL + block[1]).encode(), tmp_path / "hsmitm.toml").file.pages.template == "page.html"
    assert set(re.findall(r"\{\{ (\w+) \}\}", toml)) == set(PLACEHOLDERS)
