"""The three depths of the signing measurement at one point of it: all open at the same time, so that they take turns.

`raw` calls the module, `member` asks member processes over their sockets, `signer` asks a signer as a worker does. Each
has processes and sessions of its own on the same partitions.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from msgspec import Struct

from bench.report.processes import cpu_s, difference, others_s, tree
from bench.sign.kind import Kind
from bench.sign.player import Load, Opening, Player, Taken, combined
from bench.sign.points import Point
from bench.sign.system import SigningSystem
from bench.sign.target import Target
from hsm.wire.channel import MAX_SERVED

RAW, MEMBER, SIGNER = "raw", "member", "signer"
DEPTHS = (RAW, MEMBER, SIGNER)
_IN_FLIGHT = 2
"""Calls in flight for each session, at the depths with a socket: as many as the signer sends to a member
(`hsm.group.choice.slots`), so that a session has its next one while an answer is on its way."""


class Turn(Struct, frozen=True, kw_only=True):
    """One depth's turn. `rate` is 0 in the closed loop. `cpu_s` is by role: raw, generator, members, signer; `others_s`
    is the CPU time of all processes that have no part in the measurement."""

    point: Point
    kind: str
    depth: str
    rate: float
    seconds: float
    taken: Taken
    cpu_s: dict[str, float]
    others_s: float

    @property
    def per_s(self) -> float:
        """Signatures each second."""
        return self.taken.signed / self.seconds


class Depths:
    """All three at one point. Use it as an async context manager."""

    def __init__(self, directory: Path, target: Target, point: Point, seed: int) -> None:
        """`directory` is for the signer's files, and made; `target` has the point's members or more."""
        self.notes: list[str] = []
        self._directory, self._point, self._seed = directory, point, seed
        self._target = target.first(point.members)
        self._stack = AsyncExitStack()
        self._players: dict[str, list[Player]] = {}
        self._system: SigningSystem

    async def __aenter__(self) -> Self:
        """Start their processes one after another; what was started is stopped where one fails."""
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all processes."""
        await self._stack.aclose()

    async def _open(self) -> None:
        target, sessions = self._target, self._point.sessions
        openings = [target.opening(one, sessions) for one in target.members]
        environments = [one.environment for one in target.members]
        self._players[RAW] = [
            await self._player("bench.sign.raw", Opening(partitions=[opening]), environment)
            for opening, environment in zip(openings, environments, strict=True)
        ]
        members = Opening(partitions=openings, environments=environments)
        self._players[MEMBER] = [await self._player("bench.sign.caller", members)]
        system = SigningSystem(self._directory, target, sessions)
        self._system = await self._stack.enter_async_context(system)
        self._players[SIGNER] = [await self._player("bench.sign.caller", Opening(socket=str(system.socket)))]
        got = min(one.sessions for one in [*self._players[RAW], *self._players[MEMBER]])
        if got < sessions:
            self.notes.append(f"a partition had room for {got} of {sessions} sessions: what is told of them is wrong")

    async def _player(self, module: str, opening: Opening, environment: dict[str, str] | None = None) -> Player:
        player = await Player.start(module, opening, environment)
        self._stack.push_async_callback(player.end)
        return player

    async def turn(self, depth: str, kind: Kind, seconds: float, rate: float = 0.0) -> Turn:
        """Let `depth` sign: as fast as it answers, or `rate` each second."""
        key, players, point = self._target.keys[kind.name], self._players[depth], self._point
        callers = _IN_FLIGHT * point.sessions * point.members if depth != RAW else point.sessions
        load = Load(
            key=key.name, spki=key.spki, scheme=kind.scheme, callers=min(callers, MAX_SERVED), seconds=seconds,
            rate=rate / len(players), seed=self._seed,
        )  # fmt: skip
        roles, everybody = self._roles(depth), tree(os.getpid())[1:]
        before, others = cpu_s(list(roles)), others_s(everybody)
        taken = combined(await asyncio.gather(*(player.turn(load) for player in players)))
        used: dict[str, float] = {}
        for pid, one in difference(before, cpu_s(list(roles))).items():
            used[roles[pid]] = used.get(roles[pid], 0.0) + one
        return Turn(
            point=point, kind=kind.name, depth=depth, rate=rate, seconds=seconds, taken=taken, cpu_s=used,
            others_s=max(0.0, others_s(everybody) - others),  # clocks of different steps
        )  # fmt: skip

    def _roles(self, depth: str) -> dict[int, str]:
        players = [one.pid for one in self._players[depth]]
        if depth == RAW:
            return dict.fromkeys(players, RAW)
        top = self._system.pid if depth == SIGNER else players[0]
        return dict.fromkeys(tree(top), "members") | {top: SIGNER} | dict.fromkeys(players, "generator")
