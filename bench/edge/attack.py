"""What an attack is: its name, the point behind it, and what is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from bench.edge.scene import Scene

Needs = Literal["", "socks", "passing", "names", "slow hsm", "stalled log", "worker's uid"]


class Attack(Struct, frozen=True):
    """One of the table: `point` is what it stands for, `run` is done in a process of its own, which ends soon after
    the scene is over. `needs` is what the rig must do for it; it has `times` the seconds of others."""

    name: str
    point: str
    run: Callable[[Scene], None]
    needs: Needs = ""
    times: float = 1.0
