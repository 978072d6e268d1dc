"""Presenting leaves while the HSM is out of service, by what the operator wants then; the way is `test_forward`'s."""

from __future__ import annotations

import logging
import ssl

import pytest

from hsm.errors import UnavailableError
from hsm.wire.worker import Reported
from tests.addons.forward import test_forward as forward
from tests.addons.forward.arrivals import settled

KNOWN, NEW = "www.example.com", "new.example"
OUTAGE = UnavailableError("no member of the HSM is in service (m1: member is down: gone; m2: member is down: gone)")
REFUSED = "no member of the HSM is in service, and hsm.unavailable is 'fail'"


_AWAY = "cannot be inspected now, and it is not let through: the keys for that are out of reach."


class World(forward._World):
    """A worker that has served one host, and whose signer then tells of an outage."""

    def outage(self, policy: str) -> None:
        """No member is in service; the worker was told, and what the operator wants then."""
        self.signer.error = OUTAGE
        self.availability.hear(Reported(in_service=False, unavailable=policy))

    def back(self, policy: str = "fail", *, told: bool = True) -> None:
        """A member is in service again."""
        self.signer.error = None
        if told:
            self.availability.hear(Reported(in_service=True, unavailable=policy))

    async def connect(self, host: str) -> tuple[int, str]:
        """A CONNECT: status and page of the refusal, (0, "") where there is none."""
        flow = forward._connect(host)
        await settled(self.forward.http_connect(flow))
        return (flow.response.status_code, flow.response.text.partition("\n")[0]) if flow.response else (0, "")

    async def refuses(self, client: forward._Client) -> None:
        """The client gets the alert internal_error."""
        with pytest.raises(ssl.SSLError, match="internal error"):
            await self.serve(client)


@pytest.fixture
async def world() -> World:
    """A worker that has served the host KNOWN."""
    made = World()
    await made.serve(forward._Client())
    return made


# with "fail"


@pytest.mark.parametrize("host", [KNOWN, NEW])
async def test_fail_refuses_everybody(world: World, host: str, caplog: pytest.LogCaptureFixture) -> None:
    """With "fail" neither a host that was visited before nor a new one is served, and the log says why in one line."""
    world.outage("fail")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        await world.refuses(forward._Client(host=host))
    (line,) = caplog.messages
    assert line.startswith(f"no certificate for {host}: no member of the HSM is in service")


async def test_fail_tells_at_the_connect(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """With "fail" a CONNECT for a host that was visited before gets a 502 page, and the log the reason."""
    world.outage("fail")
    with caplog.at_level(logging.WARNING, "hsmitm"):
        status, page = await world.connect(KNOWN)
    assert status == 502
    assert page == f"hsmitm: {KNOWN} {_AWAY}"
    assert caplog.messages == [f"CONNECT {KNOWN} refused: {REFUSED}"]


@pytest.mark.parametrize("highest", ["TLSv1_2", "TLSv1_3"])
async def test_fail_refuses_a_session_that_is_resumed(world: World, highest: str) -> None:
    """With "fail" a client that comes back with its TLS session, for which no certificate is shown, is refused too."""
    first = forward._Client(highest=highest)
    await world.serve(first)
    world.outage("fail")
    await world.refuses(forward._Client(highest=highest, like=first, session=first.tls.session))


async def test_fail_forgets_nothing(world: World) -> None:
    """After the outage hosts that were visited before are served from the cache, without a signature."""
    world.outage("fail")
    await world.refuses(forward._Client())
    world.back()
    assert await world.connect(KNOWN) == (0, "")
    await world.serve(forward._Client())
    assert len(world.signer.mints) == 1


async def test_fail_lets_new_hosts_in_as_soon_as_the_signer_does(world: World) -> None:
    """A new host that the signer mints for is served, although the signer's last word on the service was "out"."""
    world.outage("fail")
    world.back(told=False)
    assert await world.connect(NEW) == (0, "")
    await world.serve(forward._Client(host=NEW))
    await world.serve(forward._Client())


async def test_fail_lets_new_hosts_in_without_a_connect(world: World) -> None:
    """Where there is no CONNECT, as in transparent mode, a new host is served as soon as the signer mints for it."""
    world.outage("fail")
    world.back(told=False)
    await world.serve(forward._Client(host=NEW))


# with "cached-only" and "queue:MS"


@pytest.mark.parametrize("policy", ["cached-only", "queue:2000"])
async def test_known_hosts_go_on(world: World, policy: str) -> None:
    """With "cached-only" and "queue:MS" hosts that were visited before are served without the signer being asked."""
    world.outage(policy)
    assert await world.connect(KNOWN) == (0, "")
    client = forward._Client()
    await world.serve(client)
    assert client.names == [KNOWN]
    assert len(world.signer.mints) == 1


@pytest.mark.parametrize("policy", ["cached-only", "queue:2000"])
async def test_new_hosts_are_for_the_signer_to_refuse(
    world: World, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With "cached-only" and "queue:MS" a new host waits for the signer's word, and the log has its reason."""
    world.outage(policy)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        assert await world.connect(NEW) == (502, f"hsmitm: {NEW} {_AWAY}")
    assert caplog.messages == [f"CONNECT {NEW} refused: {OUTAGE}"]
    await world.refuses(forward._Client(host=NEW))
    world.back(policy, told=False)
    assert await world.connect(NEW) == (0, "")
    await world.serve(forward._Client(host=NEW))


# what changes meanwhile


async def test_the_policy_of_now(world: World) -> None:
    """An operator who changes the policy during an outage is obeyed with the next connection."""
    world.outage("fail")
    await world.refuses(forward._Client())
    world.outage("cached-only")
    await world.serve(forward._Client())
    world.outage("fail")
    await world.refuses(forward._Client())


async def test_a_signer_that_is_away_is_no_outage(world: World) -> None:
    """While the signer is being restarted its last word holds: known hosts are served, with "fail" too."""
    world.signer.error = forward._NO_MEMBER
    assert await world.connect(KNOWN) == (0, "")
    await world.serve(forward._Client())
