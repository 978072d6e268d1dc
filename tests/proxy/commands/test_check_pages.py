"""`hsmitm check` and the operator's own page."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.commands.check_pages import check_pages
from proxy.commands.findings import Findings
from proxy.config.file import parse

_TOML = b"""
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
[pages]
contact = "the help desk, 4711"
"""


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("{{ id }}{{ sentence }}", "ok     pages.template: page.html shows sentence, id"),
        ("{{ sentence }}", "WRONG  pages.template: {path}: {{{{ id }}}} is missing"),
    ],
)
def test_check_says_what_a_page_shows(tmp_path: Path, page: str, said: str) -> None:
    """An operator sees which values the own page shows, or why it would not be taken."""
    (tmp_path / "page.html").write_text(page)
    lines: list[str] = []
    config = parse(_TOML + b'template = "page.html"\n', tmp_path / "hsmitm.toml")
    findings = Findings(lines.append)
    check_pages(config, findings)
    assert lines[0].startswith(said.format(path=tmp_path / "page.html") if "WRONG" in said else said)
    assert findings.right is said.startswith("ok")


def test_check_says_nothing_of_the_built_in_page(tmp_path: Path) -> None:
    """Where nobody wrote a page there is nothing to look at."""
    lines: list[str] = []
    check_pages(parse(_TOML, tmp_path / "hsmitm.toml"), Findings(lines.append))
    assert lines == []
