"""Host names without a name server: programs that are started with this environment find all of .test on loopback."""

from __future__ import annotations

from pathlib import Path

from bench.rig.faulty_module import build

_SOURCE = Path(__file__).with_name("loopback_names.c")


def resolving(directory: Path) -> dict[str, str]:
    """The environment; its library is compiled into `directory`. Raises MisconfiguredError where gcc is missing."""
    return {"LD_PRELOAD": str(build(directory, _SOURCE))}
