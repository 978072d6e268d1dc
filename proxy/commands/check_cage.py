"""What `hsmitm check` says of workers as processes: what keeps them from the keys, and how much they carry."""

from __future__ import annotations

import os
from pathlib import Path

from hsm.errors import MisconfiguredError
from proxy.commands.findings import Findings
from proxy.config.file import Config
from proxy.processes import environment, limits, quarters, reach

_FEW = 2000
"""Connections for each worker; a soft limit of 1,024 descriptors, which is usual, carries 480."""


def check_cage(config: Config, findings: Findings) -> None:
    """The cage is tried, as at a start of `hsmitm run`."""
    given = environment.of_worker(os.environ, config.file.run.worker_environment, config.secret_variables)
    try:
        found = quarters.choose(config, given, with_signer=True)
    except MisconfiguredError as error:
        findings.wrong(str(error))
    else:
        (findings.ok if found.strong else findings.warn)(f"workers in 'hsmitm run': {found.words}")
        _check_options(config, found, findings)
    for path in config.file.run.worker_paths:
        if not (config.base / path).is_dir():
            findings.wrong(f"run.worker_paths: there is no directory {config.base / path}")
    officer = config.base / reach.SO_PIN
    if officer.exists():
        findings.warn(
            f"{officer}: the security officer's PIN stands beside the partition, and hsmitm never needs it; keep it "
            "elsewhere, offline"
        )
    _check_descriptors(config, findings)


def _check_options(config: Config, found: quarters.Quarters, findings: Findings) -> None:
    """Files that options of mitmproxy name, which are none of a worker's."""
    places = [Path(one) for one in (*found.cage.reads, *found.cage.writes)]
    for name, value in config.file.mitmproxy.options.items():
        for one in value if isinstance(value, list) else [value]:
            path = Path(str(one).removeprefix("+"))  # as save_stream_file has it: append
            if path.is_absolute() and not any(path.is_relative_to(place) for place in places):
                findings.warn(f"mitmproxy.options.{name}: {path} is out of workers' reach. {found.hint}")


def _check_descriptors(config: Config, findings: Findings) -> None:
    each = limits.connections()
    text = (
        f"open files: the limit allows about {each} connections for each worker, {each * config.workers} for "
        f"{config.workers} workers"
    )
    if each < _FEW:
        findings.warn(f"{text}; raise it: LimitNOFILE= in the unit, or ulimit -Hn before hsmitm is started")
    else:
        findings.ok(text)
