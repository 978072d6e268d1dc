"""The decryption log of `hsmitm check`: whether whoever runs this may append to it. Nothing is made: a file of another
user than the one that hsmitm will be started as would be in its way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from proxy.commands.findings import Findings
from proxy.config.file import Config
from proxy.processes import reach

_WIDER = 0o037
"""Bits of a mode beyond rw-r-----."""


def check_records(config: Config, findings: Findings) -> None:
    """Say what is right or wrong with it."""
    path = config.decryption_log
    if path is None:
        where = "standard output" if config.file.decryption_log.file else "off"
        findings.ok(f"decryption_log: {where}")
        return
    problem = _problem(path, config)
    if problem:
        findings.wrong(f"decryption_log.file: {path} {problem}")
        return
    findings.ok(f"decryption_log: {path} can be appended to")
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & _WIDER:
        findings.warn(f"decryption_log.file: {path} says who visited what, and others may read it; 'chmod 640' it")


def _problem(path: Path, config: Config) -> str:
    real = Path(os.path.realpath(path))
    hidden = {Path(os.path.realpath(one)) for one in reach.secrets(config)}
    if hidden & {real, *real.parents}:
        return "is in a directory of which workers get nothing ([run] directory and state); choose another one"
    if path.is_symlink():
        return "is a symbolic link, which is not followed; name the file that it leads to"
    if not path.parent.is_dir():
        return f"cannot be made: there is no directory {path.parent}"
    if not path.exists():
        return "" if os.access(path.parent, os.W_OK | os.X_OK) else f"cannot be made: {path.parent} is not writable"
    if not path.is_file():
        return "is no regular file"
    return "" if os.access(path, os.W_OK) else "is not writable for this user"
