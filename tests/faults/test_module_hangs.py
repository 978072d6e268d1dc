"""Every call of the module hangs, those of a new process too: an HSM behind a network that swallows packets."""

from __future__ import annotations

import pytest
from msgspec import structs

from hsm.member import states
from hsm.member.member import Member
from hsm.member.states import State
from tests.faults.rig import Rig
from tests.hsm.members import leftovers
from tests.waiting import until

CYCLES = 25
FIRST_S, NEXT_S = 1.0, 0.2
"""The first start comes as far as the module on any machine."""


async def test_module_hangs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """F5: A start that hangs is given up and tried again, ever less often, and leaves nothing behind."""
    monkeypatch.setattr(states, "BACKOFF_FIRST_S", 0.005)
    monkeypatch.setattr(states, "BACKOFF_MAX_S", 0.08)
    first = rig.member("m1")
    settings, found, begun_calls = first.settings, [], rig.hsm("m1").calls("C_Initialize")
    async with rig.load() as load:
        allowed, begun = rig.longest_s(), rig.now()
        with rig.hsm("m1").fault("* hang"):
            first._succession.settings = structs.replace(settings, start_timeout_s=FIRST_S)
            for cycle in range(1, CYCLES + 1):
                await _until_given_up(first, cycle)
                first._succession.settings = structs.replace(settings, start_timeout_s=NEXT_S)
                found.append(leftovers())
            first._succession.settings = settings
        await rig.until_up("m1")
        await load.more(60)
    assert load.slowest_s < allowed
    assert found == found[:1] * CYCLES, "no process, no zombie and no descriptor stays"
    starts = [one for one in rig.history.of("m1", begun) if one.after == "starting"]
    gone = [one for one in rig.history.of("m1", begun) if one.after == "down"]
    assert {one.reason for one in gone[1:]} == {f"it did not start within {at_most} s" for at_most in (FIRST_S, NEXT_S)}
    pauses = [start.at - down.at for down, start in zip(gone, starts, strict=True)]
    for number, pause in enumerate(pauses, 1):
        assert pause >= min(0.005 * 2 ** (number - 1), 0.08) * 0.8
    assert rig.hsm("m1").calls("C_Initialize") > begun_calls + 1, "one hung at least; a sound start calls it once"
    assert rig.logins("m1") == 2, "no start came as far as the PIN"
    assert rig.path("m2", begun) == []


async def _until_given_up(member: Member, cycle: int) -> None:
    await until(lambda: member.starts == cycle + 1, f"start {cycle}")
    await until(lambda: member.state is State.DOWN, f"start {cycle} is given up")
