"""Each kind of exchange arrives by every way as it does directly: its bytes, their order, trailers, ends, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.exchanges.comparison import Recording, lateness_s, said
from tests.exchanges.conftest import Scene
from tests.exchanges.kinds import KINDS, Kind
from tests.exchanges.place import APART
from tests.exchanges.ways import Way, connected, record

pytestmark = pytest.mark.alone

_LATE_S = 0.05
_TRIES = 3
"""Of an exchange that came late: this machine may have had something else to do."""
_PATIENCE = {("inbound", "http/1.1"): {"left_answer"}}
"""At our own sites a client of HTTP/1.1 that ends its direction still gets its answer: its server hears later."""
WAYS = ["explicit", "socks5", "transparent", "inbound"]


async def _played(scene: Scene, way: Way, trust: Path, version: str, kinds: list[Kind]) -> dict[str, Recording]:
    """The exchanges of these kinds, side by side on connections that were made before."""
    port = scene.servers.ports[version]
    ends = [await connected(way, port, version, trust) for _ in kinds]
    made = await asyncio.gather(*(record(end, scene.servers, kind) for end, kind in zip(ends, kinds, strict=True)))
    return {kind.name: one for kind, one in zip(kinds, made, strict=True)}


@pytest.mark.parametrize("version", ["http/1.1", "h2"])
@pytest.mark.parametrize("way", WAYS)
def test_what_arrives_is_what_arrives_directly(scene: Scene, way: str, version: str) -> None:
    """At both ends, to the byte and to fifty milliseconds, whatever the way and the version of HTTP."""
    if way == "transparent" and not APART:
        pytest.skip("a network namespace needs root")
    kinds = [one for one in KINDS.values() if version in one.versions]
    patience = _PATIENCE.get((way, version), set())
    late: dict[str, float] = {}
    for _ in range(_TRIES):
        direct = scene.place.run(_played(scene, *scene.through("direct"), version, kinds))
        arrived = scene.place.run(_played(scene, *scene.through(way), version, kinds))
        differences = [
            f"{name}: {one}"
            for name in direct
            for one in _differences(direct[name], arrived[name], closing=KINDS[name].closing and name not in patience)
        ]
        assert not differences, "\n".join(differences)
        late = {name: lateness_s(direct[name], arrived[name]) for name in direct}
        kinds = [one for one in kinds if late[one.name] > _LATE_S]
        if not kinds:
            return
    pytest.fail(f"later than directly, in seconds: {late}")


def _differences(direct: Recording, way: Recording, *, closing: bool) -> list[str]:
    found = []
    for who, mine, theirs in (("client", direct.client, way.client), ("server", direct.server, way.server)):
        wanted, got = said(mine, closing=closing), said(theirs, closing=closing)
        if wanted != got:
            found.append(f"the {who} sees\n    {_short(got)}\n  and directly\n    {_short(wanted)}")
    return found


def _short(seen: object) -> str:
    return "\n    ".join(repr(one)[:200] for one in seen)  # type: ignore[attr-defined]
