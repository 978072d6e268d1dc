"""A client that makes names up: what it may have, what it hears, and that known hosts do not notice. The way is
`test_forward`'s."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest
from mitmproxy import connection, tls

from addons.edge.refusal import Refusals
from addons.forward.forward import Forward
from addons.forward.new_names import NewNames
from hsm.wire.worker import Mint, Reply, Request
from tests.addons.forward import test_forward as forward
from tests.addons.forward.arrivals import settled

KNOWN, BURST = "www.example.com", 3


class _SlowSigner(forward._Signer):
    """An HSM that takes its time for each new leaf, once `slow`."""

    def __init__(self) -> None:
        super().__init__()
        self.may_sign = asyncio.Event()
        self.may_sign.set()
        self.asked = self.most = 0

    async def call(self, body: Request, timeout_s: float) -> Reply:
        if isinstance(body, Mint):
            self.asked += 1
            self.most = max(self.most, self.asked)
            await self.may_sign.wait()
            self.asked -= 1
        return await super().call(body, timeout_s)


class World(forward._World):
    """A worker that has served KNOWN, for clients that may bring a few names more."""

    def __init__(self, burst: int = BURST, cache_entries: int = 100) -> None:
        super().__init__()
        self.signer = _SlowSigner()
        self.forward = Forward(
            self.signer,  # type: ignore[arg-type]
            self.metrics,
            self.availability,
            cache_entries=cache_entries,
            mint_timeout_s=1,
            new_names=NewNames(0.001, burst, Refusals(self.metrics.registry)),
        )

    async def known(self) -> None:
        """KNOWN was asked for more than once."""
        for _ in range(2):
            await self.serve(forward._Client())

    def refused(self) -> float:
        """How many names were refused."""
        found = self.metrics.registry.get_sample_value("hsmitm_edge_refused_total", {"class": "too-many-names"})
        assert found is not None
        return found

    async def connect(self, host: str, client: connection.Client | None = None) -> int:
        """What a CONNECT for `host` is answered with; 0 where it goes on."""
        flow = forward._connect(host)
        flow.client_conn.peername = ("192.0.2.9", 1234)  # who all arrivals are
        flow.client_conn = client or flow.client_conn
        await settled(self.forward.http_connect(flow))
        return flow.response.status_code if flow.response else 0


@pytest.fixture
async def world() -> World:
    """A worker and its one client, which has BURST - 1 names left."""
    made = World()
    await made.known()
    return made


async def test_names_beyond_the_budget_are_refused(world: World) -> None:
    """A client that has used up its new names hears 429 to its CONNECT, or an alert where it began with TLS; a host
    that somebody has asked for before is served to it all the while."""
    for number in range(BURST - 1):
        arrived = world.arrived(client := forward._Client(host=f"new{number}.example"))
        assert await world.connect(f"new{number}.example", arrived.client) == 0
        client.finish(await world.present(arrived))
    assert await world.connect("more.example") == 429
    with pytest.raises(ssl.SSLError, match="internal error"):
        await world.serve(forward._Client(host="more.example"))
    assert world.refused() == 2
    assert [one.names for one in world.signer.mints] == [[KNOWN], ["new0.example"], ["new1.example"]]
    assert await world.connect(KNOWN) == 0
    await world.known()
    assert await world.connect("new0.example") == 0


async def test_who_joins_a_mint_pays_nothing(world: World) -> None:
    """A page's many connections to one new host are one name."""
    world.signer.may_sign.clear()
    arrivals = [world.arrived(forward._Client(host="page.example")) for _ in range(10)]
    starts = [world.forward.tls_start_client(tls.TlsData(one.client, one)) for one in arrivals]
    world.signer.may_sign.set()
    await asyncio.gather(*map(settled, starts))
    assert world.refused() == 0
    await world.serve(forward._Client(host="another.example"))
    assert world.refused() == 0


async def test_one_clients_new_names_are_not_in_front_of_anothers() -> None:
    """Of the hundred new names of a client eight are at the HSM at a time, also when it goes away and comes again; the
    one new name of another client is asked for at once."""
    world = World(burst=10_000)
    world.signer.may_sign.clear()
    flood = _begin(world, [f"made-up{number}.example" for number in range(100)])
    await _settled(lambda: world.signer.asked == 8)
    for one in flood[:50]:
        one.cancel()
    flood += _begin(world, [f"again{number}.example" for number in range(100)])
    (other,) = _begin(world, ["other.example"], "192.0.2.10")
    await _settled(lambda: world.signer.asked == 9)
    world.signer.may_sign.set()
    await other
    await asyncio.gather(*flood, return_exceptions=True)
    assert world.signer.most == 9


async def test_who_waits_too_long_for_its_turn_is_refused() -> None:
    """A client whose names wait behind its own others for longer than a mint may take gets an alert, and no more is
    asked for it."""
    world = World(burst=10_000)
    world.forward._timeout_s = 0.05
    world.signer.may_sign.clear()
    flood = _begin(world, [f"made-up{number}.example" for number in range(20)])
    done, _ = await asyncio.wait(flood, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert done
    assert world.signer.asked == 8
    world.signer.may_sign.set()
    await asyncio.gather(*flood)
    assert len(world.signer.mints) == 8


def _begin(world: World, hosts: list[str], address: str = "192.0.2.9") -> list[asyncio.Future[None]]:
    """Handshakes of one client for these hosts."""
    begun = []
    for host in hosts:
        arrived = world.arrived(forward._Client(host=host))
        arrived.client.peername = (address, 1234)
        begun.append(
            asyncio.ensure_future(settled(world.forward.tls_start_client(tls.TlsData(arrived.client, arrived))))
        )
    return begun


async def _settled(condition: Callable[[], bool]) -> None:
    """Until `condition` holds, and all that is to run has run."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert condition()


async def test_known_hosts_do_not_wait_for_the_hsm() -> None:
    """While an HSM that needs long for each signature is asked for hundreds of made-up names, ten times as many as
    leaves are kept, a known host's handshake begins at once, without a signature."""
    world = World(burst=10_000, cache_entries=10)
    await world.known()
    for number in range(100):
        await world.serve(forward._Client(host=f"made-up{number}.example"))
    world.signer.may_sign.clear()
    waiting = []
    for number in range(50):
        arrived = world.arrived(forward._Client(host=f"slow{number}.example"))
        waiting.append(
            asyncio.ensure_future(settled(world.forward.tls_start_client(tls.TlsData(arrived.client, arrived))))
        )
    await asyncio.sleep(0)
    minted = len(world.signer.mints)
    arrived = world.arrived(client := forward._Client())
    data = tls.TlsData(arrived.client, arrived)
    assert world.forward.tls_start_client(data) is None, "it waits"
    client.finish(data.ssl_conn)
    assert len(world.signer.mints) == minted
    world.signer.may_sign.set()
    await asyncio.gather(*waiting)


async def test_leaves_of_strangers_servers_have_a_small_place_of_their_own() -> None:
    """Names whose servers do not verify push out no leaf of a server that does, and are kept in a tenth of the
    places."""
    world = World(burst=10_000, cache_entries=40)
    await world.serve(forward._Client())
    for number in range(60):
        arrived = world.arrived(forward._Client(host=f"bad{number}.example"))
        world.forward._facts[arrived.client.id].verified = False
        await world.present(arrived)
    assert world.forward._leaves == 1 + 4
    assert len(world.signer.mints) == 61
    await world.serve(forward._Client())
    assert len(world.signer.mints) == 61
