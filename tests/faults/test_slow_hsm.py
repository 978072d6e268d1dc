"""An HSM that is slow and well: half a second for a signature, or one signature at a time. And one that hangs then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bench.rig.faulty_module import FaultyModule
from hsm.errors import HsmitmError
from hsm.member.settings import Failover
from tests.faults.rig import CROWDED_S, Rig, make_rig, verifies
from tests.hsm.members import sign
from tests.softhsm import Store
from tests.waiting import until

pytestmark = pytest.mark.alone


def slow(rule: str) -> Any:
    """The rule holds from the start on, for the proofs of the members, too."""

    def set_rules(hsms: dict[str, FaultyModule]) -> None:
        for hsm in hsms.values():
            hsm.rules(rule)

    return set_rules


async def ask(rig: Rig, clients: int, each: int) -> list[float]:
    """Clients that ask for one signature after another: how long each took, in seconds. Raises what one got."""
    key, took = rig.group.keys["trust"], []

    async def client(number: int) -> None:
        for turn in range(each):
            message, begun = b"%d %d" % (number, turn), rig.now()
            assert verifies(key, message, await sign(rig.group, "trust", message, timeout_s=5))
            took.append(rig.now() - begun)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return took


def nothing_happened(rig: Rig) -> None:
    """No member was doubted, let alone killed, and no request was tried twice."""
    for name in rig.hsms:
        assert rig.path(name) == ["starting", "up"]
    assert rig.counted("hsmitm_signature_errors_total") == 0
    assert rig.counted("hsmitm_signature_retries_total") == 0


@pytest.mark.parametrize(
    ("rule", "sessions", "clients", "each", "at_best_s"),
    [
        ("C_Sign serial 140", 8, 8, 3, 24 * 0.14),
        ("C_Sign serial 140", 64, 24, 1, 24 * 0.14),
        ("C_Sign serial 250", 2, 8, 2, 16 * 0.25),
        ("C_Sign delay 510", 8, 8, 3, 3 * 0.51),
        ("C_Sign delay 1200", 8, 8, 1, 1.2),
    ],
)
async def test_slow_and_well(
    partitions: list[Store], tmp_path: Path, rule: str, sessions: int, clients: int, each: int, at_best_s: float
) -> None:
    """F44: However slow an HSM is, and whether its sessions help or not, every request is served, as quickly as it
    signs, and its member is not doubted for it."""
    async with make_rig(tmp_path, partitions[:1], sessions=sessions, before=slow(rule)) as rig:
        begun = rig.now()
        took = await ask(rig, clients, each)
        assert len(took) == clients * each
        assert rig.now() - begun < 1.2 * at_best_s + CROWDED_S
        nothing_happened(rig)


async def test_requests_wait_in_the_signer(partitions: list[Store], tmp_path: Path) -> None:
    """F44: A device that works on one request at a time soon has one or two of them, whatever sessions it gives; the
    others wait in the signer, where each worker has its turn."""
    async with make_rig(tmp_path, partitions[:1], sessions=8, before=slow("C_Sign serial 100")) as rig:
        member = rig.member("m1")
        await ask(rig, 8, 2)  # mostly, the start has found it out already
        seen: list[int] = []

        async def watch() -> None:
            while True:
                seen.append(member.in_flight)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await ask(rig, 8, 2)
        watching.cancel()
        assert max(seen) <= 3, "one or two, and a third on a busy machine"
        assert member.slots <= 3
        nothing_happened(rig)


async def test_a_slow_member_with_a_peer(partitions: list[Store], tmp_path: Path) -> None:
    """F44: Two cards share the work, and neither is taken for one that hangs."""
    async with make_rig(tmp_path, partitions[:2], sessions=8, before=slow("C_Sign serial 250")) as rig:
        begun = rig.now()
        await ask(rig, 8, 3)
        assert rig.now() - begun < 0.7 * 24 * 0.25
        nothing_happened(rig)
        assert min(rig.signed_by("m1"), rig.signed_by("m2")) >= 6


@pytest.mark.parametrize(("rule", "longest_s"), [("C_Sign serial 140", 0.5), ("C_Sign delay 510", 3 * 0.51)])
async def test_a_slow_hsm_that_hangs(partitions: list[Store], tmp_path: Path, rule: str, longest_s: float) -> None:
    """F44: An HSM that is slow and then hangs is found, killed and started again: after the time of an attempt, by its
    own pace, and the time of a hang; whoever waits long enough is served by the next process."""
    async with make_rig(tmp_path, partitions[:1], sessions=8, before=slow(rule)) as rig:
        await ask(rig, 8, 2)
        begun = rig.now()
        rig.hsm("m1").rules("C_Sign hang n=8", rule)
        waiting = asyncio.create_task(ask(rig, 1, 1))
        await until(lambda: "down" in rig.path("m1", begun), "it is killed")
        hang_s = max(rig.group.failover.hang_s, longest_s)
        assert rig.now() - begun < longest_s + hang_s + CROWDED_S + 0.2
        rig.hsm("m1").rules(rule)
        await rig.until_up("m1", timeout_s=10)
        assert len(await waiting) == 1
        assert "it hangs" in next(one.reason for one in rig.history.of("m1", begun) if one.after == "down")


async def test_a_member_that_becomes_slow(partitions: list[Store], tmp_path: Path) -> None:
    """F44: An HSM without a peer that slows down to what no attempt had the time for is examined, and not killed; its
    attempts have the time that it needs from then on."""
    async with make_rig(tmp_path, partitions[:1], sessions=8) as rig:
        await ask(rig, 4, 5)
        begun = rig.now()
        rig.hsm("m1").rules("C_Sign delay 700")
        ends: list[HsmitmError | list[float]] = []
        for _ in range(3):
            try:
                ends.append(await ask(rig, 1, 1))
            except* HsmitmError as group:
                ends += [one for one in group.exceptions if isinstance(one, HsmitmError)]
        assert isinstance(ends[-1], list), ends
        assert "down" not in rig.path("m1", begun)
        assert rig.starts() == [1]
        rig.hsm("m1").clear()
        await ask(rig, 1, 10)
        await until(
            lambda: rig.member("m1")._standing.life.pace.alone_s("trust") < 0.1, "it is known to be quick again"
        )


async def test_new_sessions_of_a_slow_member(partitions: list[Store], tmp_path: Path) -> None:
    """F44: A slow HSM has the time for the proofs of new sessions, beside that of a start."""
    settings = {"m1": {"start_timeout_s": 1.0}}
    async with make_rig(tmp_path, partitions[:1], before=slow("C_Sign delay 500"), settings=settings) as rig:
        told = await rig.group.reset("m1")
        assert "new sessions in process" in told[0]


async def test_what_is_of_use_is_told(partitions: list[Store], tmp_path: Path) -> None:
    """F44: The log says once that a member's sessions do not help it, and at what pace it works."""
    failover = Failover(keep_alive_s=0.3)
    async with make_rig(tmp_path, partitions[:1], failover=failover, before=slow("C_Sign serial 200")) as rig:
        await ask(rig, 4, 3)
        pattern = r"m1 works on about \d at a time, \d+ ms each; other requests wait in the signer, whatever its 4"
        await until(lambda: rig.history.said(pattern), "it is told")
        await ask(rig, 4, 2)
        assert len(rig.history.said("works on about")) == 1
