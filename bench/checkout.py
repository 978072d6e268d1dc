"""What a checkout of the sources has and an installed hsmitm has not: the rig with its module that makes HSMs fail, and
the measurements that stand on it.

The one door from what is installed to that module. Whoever needs one of them is told so in a sentence where it is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hsm.errors import MisconfiguredError

if TYPE_CHECKING:
    from bench.rig.faulty_module import FaultyModule

_LATENCY = "--hsm-latency-ms"


def here() -> bool:
    """Whether this is a checkout."""
    return find_spec("bench.rig") is not None


def needed(what: str = _LATENCY, command: str = "...") -> str:
    """The sentence: `what` needs a checkout, and is run as `./dev bench command` there."""
    return (
        f"{what} needs a checkout of hsmitm's sources (there: ./dev bench {command}); "
        "the rig that it uses is not installed with hsmitm"
    )


def require(command: str) -> None:
    """Raise MisconfiguredError where `command` is run and this is no checkout."""
    if not here():
        raise MisconfiguredError(needed(f"bench {command}", command))


def require_for_latency(latencies_ms: Iterable[float]) -> None:
    """Raise MisconfiguredError where one of `latencies_ms` is not 0 and this is no checkout: nothing else delays."""
    if any(latencies_ms) and not here():
        raise MisconfiguredError(needed())


def faulty_module(directory: Path) -> FaultyModule:
    """A module that can be told to answer late, with its files in `directory`.

    Raises MisconfiguredError where there is no C compiler; `require_for_latency` was asked before.
    """
    from bench.rig.faulty_module import FaultyModule  # noqa: PLC0415  # not installed with hsmitm

    return FaultyModule(directory)
