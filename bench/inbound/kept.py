"""What an inbound connection carries once it is there, and what it occupies when it carries nothing.

No HSM is asked: these are the figures of the data path, by the load generator that the forward measurement has.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from bench.inbound.contenders import Contender
from bench.rig.server import Idle, Phase, Row, Server, Turn
from bench.rig.site import host
from bench.rig.tunnel import Route
from bench.rig.tunnel_load import Generator, Job, Kind

_PHASES: tuple[tuple[Phase, int, str], ...] = (("kept", 16, "/"), ("body", 2, "/body"))
"""With how many clients at a time, and what they ask for."""


class Kept(Struct):
    """Requests on kept connections and large answers (`rows`), and idle connections (`idle`), of each server."""

    turns: list[Turn]
    idle: list[Idle]

    @property
    def rows(self) -> list[Row]:
        """Sums of the turns."""
        return Row.sums(self.turns)

    def figures(self, ours: str, peer: str) -> dict[str, float]:
        """Of the server `ours`, and over `peer` where that was measured."""
        figures: dict[str, float] = {}
        for phase, name in (("kept", "keepalive_per_s"), ("body", "body_mb_per_s")):
            found = {one.server: one.per_s for one in self.rows if one.phase == phase}
            figures[name] = found[ours]
            if found.get(peer):
                figures[f"{name.removesuffix('_per_s')}_rate_over_{peer.replace('-', '_')}"] = found[ours] / found[peer]
        for one in self.idle:
            if one.server == ours:
                figures["idle_kb_per_connection"] = one.kb_per_tunnel
        return figures

    @property
    def errors(self) -> list[str]:
        """What went wrong in the turns and on the idle connections."""
        turns = [error for one in self.turns for error in one.errors]
        return turns + [error for one in self.idle for error in one.errors]

    @property
    def failed(self) -> int:
        """How many requests and connections failed."""
        return sum(one.failed for one in self.turns) + sum(one.failed for one in self.idle)


async def idle(contenders: list[Contender], ca: Path, connections: int, tell: Callable[[str], None]) -> list[Idle]:
    """What `connections` that are open and do nothing occupy, of each server. Before anything else: memory that a load
    has left free would be used first."""
    found = []
    for one in _servers(contenders, ca):
        tell(f"{one.name}, idle connections")
        found.append(await one.idle(_job(one, "idle", connections, 0.0, "/")))
    return found


async def measure(
    contenders: list[Contender], ca: Path, *, seconds: float, rounds: int, seed: int, tell: Callable[[str], None]
) -> list[Turn]:
    """Requests and large answers: each server in turn, `rounds` times in an order that `seed` gives."""
    servers, chance, turns = _servers(contenders, ca), random.Random(seed), []  # noqa: S311
    for phase, clients, path in _PHASES:
        for _ in range(rounds):
            for one in chance.sample(servers, len(servers)):
                tell(f"{one.name}, {phase}")
                turns.append(await one.turn(phase, [Generator(_job(one, "kept", clients, seconds, path))], []))
    return turns


def _servers(contenders: list[Contender], ca: Path) -> list[Server]:
    return [
        Server(one.name, Route(one.address, 443, str(ca), connect=False, names_host=False), one.pids)
        for one in contenders
    ]


def _job(server: Server, kind: Kind, clients: int, seconds: float, path: str) -> Job:
    # One host: the number that a job puts into names has no place in this one.
    name = f"{host('p256')}%.0s"
    return Job(kind=kind, route=server.route, clients=clients, seconds=seconds, host=name, first=0, count=1, path=path)
