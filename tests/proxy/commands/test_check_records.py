"""What `hsmitm check` says of the decryption log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.commands.check_records import check_records
from proxy.commands.findings import Findings
from proxy.config.file import Config, load
from tests.proxy.processes.test_reach import configured

__all__ = ["configured"]

Said = Callable[[str], list[str]]


@pytest.fixture
def said(configured: Callable[[str], Config], tmp_path: Path) -> Said:
    """The lines for a value of `file`."""
    config = configured("a.py")

    def check(file: str) -> list[str]:
        text = config.path.read_text().partition("\n[decryption_log]")[0]
        config.path.write_text(f'{text}\n[decryption_log]\nfile = "{file}"\n')
        lines: list[str] = []
        check_records(load(config.path), Findings(lines.append))
        return lines

    return check


def test_a_log_that_can_be_written(said: Said, tmp_path: Path) -> None:
    """Off, standard output, a file that is there or will be. Nothing is made by looking."""
    assert said("") == ["ok     decryption_log: off"]
    assert said("stdout") == ["ok     decryption_log: standard output"]
    assert said("new.jsonl")[0].endswith("new.jsonl can be appended to")
    assert not list(tmp_path.glob("**/new.jsonl"))


def test_a_log_that_others_read(said: Said, configured: Callable[[str], Config]) -> None:
    """It says who visited what."""
    path = configured("a.py").base / "log.jsonl"
    path.touch()
    path.chmod(0o644)
    assert [line[:4] for line in said("log.jsonl")] == ["ok  ", "WARN"]
    path.chmod(0o640)
    assert len(said("log.jsonl")) == 1


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("nowhere/log.jsonl", "there is no directory"),
        ("run/log.jsonl", "of which workers get nothing"),
        ("linked.jsonl", "is a symbolic link"),
        ("pipe", "is no regular file"),
    ],
)
def test_a_log_that_cannot_be(said: Said, configured: Callable[[str], Config], file: str, words: str) -> None:
    """Each with what is wrong, before a worker finds out."""
    base = configured("a.py").base
    (base / "linked.jsonl").symlink_to(base / "other")
    os.mkfifo(base / "pipe")
    (line,) = said(file)
    assert line.startswith("WRONG  decryption_log.file: ")
    assert words in line
