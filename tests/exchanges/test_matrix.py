"""Each kind of exchange arrives by every way as it does directly: its bytes, their order, trailers, ends, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.exchanges.comparison import Recording, lateness_s, said
from tests.exchanges.kinds import KINDS, Kind
from tests.exchanges.scene import FORWARD, WAYS, Scene
from tests.exchanges.ways import Way, connected, record
from tests.waiting import pause

pytestmark = pytest.mark.alone

_LATE_S = 0.05
_APART_S = 0.03
_TRIES = 5
"""Of an exchange that came late: this machine may have had something else to do."""
_ELSE = {
    ("across", "http/1.1"): {"broken_answer"},
    ("across", "h2"): {"broken_answer"},
}
"""Kinds whose connections end otherwise: across versions a server that ends its stream is left, and the other way
round."""
_HTTP = [(way, version) for way in (*WAYS, "across", "scripted") for version in ("http/1.1", "h2")]
"""`across`: explicit, with the other version of HTTP behind us. `scripted`: explicit, with a script that looks on."""
_WHOLE = {"slow", "expectation", "refused_expectation"}
"""Kinds whose messages a script gets whole: they have a length."""
_OWN = [*((way, "raw") for way in FORWARD), *((way, "x-raw") for way in WAYS)]
"""Protocols that are not HTTP: without TLS, which passes where the operator said so, and within it."""
_OTHER = {"http/1.1": "h2", "h2": "http/1.1"}


async def _played(
    scene: Scene, way: Way, trust: Path, version: str, served: str, kinds: list[Kind]
) -> dict[str, Recording]:
    """The exchanges of these kinds, side by side on connections that were made before: in the client's version of HTTP,
    and the server's."""
    port = scene.servers.ports[served]
    ends = [await connected(way, port, version, trust) for _ in kinds]

    async def play(number: int, kind: Kind) -> Recording:
        await pause(number * _APART_S)  # large ones would take the time of those that begin with them
        return await record(ends[number], scene.servers, kind)

    made = await asyncio.gather(*(play(number, kind) for number, kind in enumerate(kinds)))
    return {kind.name: one for kind, one in zip(kinds, made, strict=True)}


@pytest.mark.parametrize(("way", "version"), [*_HTTP, *_OWN])
def test_what_arrives_is_what_arrives_directly(scene: Scene, way: str, version: str) -> None:
    """At both ends, to the byte and to fifty milliseconds, whatever the way and the version of HTTP."""
    scene.through(way)  # may be one that needs root
    served = _OTHER[version] if way == "across" else version
    kinds = [one for one in KINDS.values() if {version, served} <= set(one.versions)]
    if way == "scripted":
        kinds = [one for one in kinds if one.name not in _WHOLE]
    otherwise = _ELSE.get((way, version), set())
    late: dict[str, float] = {}
    for _ in range(_TRIES):
        direct = scene.place.run(_played(scene, *scene.through("direct"), version, version, kinds))
        if served != version:
            other = scene.place.run(_played(scene, *scene.through("direct"), served, served, kinds))
            direct = {name: one.with_server(other[name]) for name, one in direct.items()}
        arrived = scene.place.run(_played(scene, *scene.through(way), version, served, kinds))
        differences = [
            f"{name}: {difference}"
            for name in direct
            for difference in _differences(
                direct[name], arrived[name],
                closing=KINDS[name].closing and name not in otherwise, across=way == "across",
            )
        ]  # fmt: skip
        assert not differences, "\n".join(differences)
        late = {name: lateness_s(direct[name], arrived[name]) for name in direct}
        kinds = [one for one in kinds if late[one.name] > _LATE_S]
        if not kinds:
            return
    pytest.fail(f"later than directly, in seconds: {late}")


def _differences(direct: Recording, way: Recording, **compared: bool) -> list[str]:
    found = []
    for who, mine, theirs in (("client", direct.client, way.client), ("server", direct.server, way.server)):
        wanted, got = said(mine, **compared), said(theirs, **compared)
        if wanted != got:
            found.append(f"the {who} sees\n    {_short(got)}\n  and directly\n    {_short(wanted)}")
    return found


def _short(seen: object) -> str:
    return "\n    ".join(repr(one)[:200] for one in seen)  # type: ignore[attr-defined]
