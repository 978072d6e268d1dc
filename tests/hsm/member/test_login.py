"""A member's login over real processes: how often a PIN is tried for each answer, and where there is none at all.

C_Login is counted at the module, over every process that a test starts. A new group on the same state directory is a
new signer.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bench.rig.faulty_module import FaultyModule
from hsm.errors import MisconfiguredError
from hsm.member.settings import MemberSettings
from hsm.member.starter import START_FLOOR_S
from hsm.member.states import State
from hsm.secrets.attempt import Attempt
from hsm.secrets.refusals import Refusals
from tests.hsm.members import keys_of, make_group, running
from tests.softhsm import MODULE, Store
from tests.waiting import until

COUNT_LOW = "C_GetTokenInfo flags 0x10000"
ANSWERS = [
    0x02, 0x05, 0x06, 0x07, 0x30, 0x31, 0x32, 0x50, 0x54, 0xA0, 0xA1, 0xA2, 0xB0, 0xB1, 0xB3, 0xB8, 0xE0, 0x101,
    0x103, 0x104, 0x190, 0x1B8, 0x200, 0x201, 0x80000123,
]  # fmt: skip
"""Return codes of C_Login that are no success, of every kind; beside those that name no PIN."""
OF_NO_PIN = [0xA3, 0xA4, 0x102]


@pytest.fixture
def hsm(tmp_path: Path, softhsm_module: str) -> FaultyModule:
    """An HSM that fails as it is told."""
    return FaultyModule(tmp_path / "hsm")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where signers, one after another, remember PINs."""
    return tmp_path / "state"


@pytest.fixture
def settings(hsm: FaultyModule, stores: list[Store]) -> MemberSettings:
    """A member on that HSM, whose PIN is right."""
    environment = stores[0].environment | hsm.environment(MODULE)
    return structs.replace(stores[0].settings(), module=str(hsm.path), environment=environment)


# --- an answer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ANSWERS, ids=[f"{code:#x}" for code in ANSWERS])
async def test_a_pin_is_tried_once_whatever_the_answer(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store], code: int
) -> None:
    """A PIN that the token does not accept costs one try, in whatever words, over all restarts of the signer."""
    hsm.rules(f"C_Login rv {code:#x}")
    for start in range(3):
        async with running(settings, keys=keys_of(stores[0]), state=state) as member:
            assert (member.state, member.starts) == (State.QUARANTINED, 1), member.reason
            assert start or f"0x{code:x}" in member.reason
            assert hsm.calls("C_Login") == 1


@pytest.mark.parametrize("code", OF_NO_PIN, ids=[f"{code:#x}" for code in OF_NO_PIN])
async def test_what_is_said_of_any_pin_is_not_held_against_this_one(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store], code: int
) -> None:
    """A PIN that is locked, expired or not set stops the member after one try; once the officer has acted it is good,
    and nothing has to be removed."""
    async with running(settings, keys=keys_of(stores[0]), state=state) as member:
        hsm.rules(f"C_Login rv {code:#x}")
        member._standing.lose("for the test")
        await until(lambda: member.state is State.QUARANTINED, "the member waits for an operator")
        assert hsm.calls("C_Login") == 2
        assert list(state.iterdir()) == []
        hsm.clear()
        await member.reset()
        assert (member.state, hsm.calls("C_Login")) == (State.UP, 3)


async def test_an_operator_has_a_pin_tried_again(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store]
) -> None:
    """After an answer that names no PIN, a reset of that member has it tried once more, even by the next signer and
    when the HSM is away at first; a reset of all members does not, and the right answer ends it."""
    keys = keys_of(stores[0])
    hsm.rules("C_Login rv 0x30")
    async with make_group([settings], keys=keys, state=state, all_up=False) as group:
        assert "run 'hsmitm hsm reset m1'" in group.members[0].reason
    async with make_group([settings], keys=keys, state=state, all_up=False) as group:
        (line,) = await group.reset(None)
        assert "1 login with this PIN had no answer that says whether it is right (CKR_DEVICE_ERROR" in line
        assert hsm.calls("C_Login") == 1
        with pytest.raises(MisconfiguredError, match="CKR_DEVICE_ERROR"):
            await group.reset("m1")
        assert hsm.calls("C_Login") == 2
        hsm.rules("C_OpenSession rv 0x30 n=1")
        member = group.members[0]
        member._succession._was_up = True  # so it is tried again by itself, as after an outage
        resetting = asyncio.create_task(group.reset("m1"))
        await until(lambda: member.state is State.UP, "the member is up")
        await asyncio.gather(resetting, return_exceptions=True)
        assert hsm.calls("C_Login") == 3
        assert list(state.iterdir()) == []


async def test_a_hsm_that_is_away_before_the_login_costs_no_try(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store]
) -> None:
    """An HSM that gives no session is asked again by itself, without the PIN, and is up when it comes back."""
    hsm.rules("C_OpenSession rv 0x30")
    async with running(settings, keys=keys_of(stores[0]), state=state) as member:
        await until(lambda: member.starts > 2, "it is started again and again")
        assert (hsm.calls("C_Login"), list(state.iterdir())) == (0, [])
        hsm.clear()
        await until(lambda: member.state is State.UP, "the member is up")
        assert hsm.calls("C_Login") == 1


async def test_a_slow_login_is_waited_for(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store]
) -> None:
    """A login that takes longer than starts usually do is waited for: to end it may cost a try."""
    async with running(settings, keys=keys_of(stores[0]), state=state) as member:
        member._starter._slowest_s = 0.01
        hsm.rules(f"C_Login delay {1000 * START_FLOOR_S + 500:g}")
        member._standing.lose("for the test")
        await until(lambda: member.state is State.UP and member.starts == 2, "the member is up")
        assert hsm.calls("C_Login") == 2


# --- no answer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["crash", "abort", "exit 0", "hang"])
async def test_a_pin_without_an_answer_is_tried_twice(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store], fault: str
) -> None:
    """A module that dies or hangs in the middle of each login gets a PIN twice, over all restarts of the signer; then
    an operator must say."""
    hsm.rules(f"C_Login {fault}")
    brief = structs.replace(settings, start_timeout_s=1.0)
    for _ in range(2):
        async with running(brief, keys=keys_of(stores[0]), state=state) as member:
            await until(lambda: member.state is State.QUARANTINED, "an operator must say", 10)
            assert "not tried again by itself" in member.reason
            assert hsm.calls("C_Login") == 2
    hsm.clear()
    async with make_group([settings], keys=keys_of(stores[0]), state=state, all_up=False) as group:
        assert group.members[0].state is State.QUARANTINED
        await group.reset("m1")
        assert (group.members[0].state, hsm.calls("C_Login")) == (State.UP, 3)


@pytest.mark.parametrize("fault", ["crash", "hang"])
async def test_an_hsm_that_goes_away_in_a_login_comes_back_by_itself(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store], fault: str
) -> None:
    """An HSM that is switched off in the middle of a login needs no operator: it is back after the second."""
    hsm.rules(f"C_Login {fault} n=1")
    brief = structs.replace(settings, start_timeout_s=1.0)
    async with running(brief, keys=keys_of(stores[0]), state=state) as member:
        await until(lambda: member.state is State.UP, "the member is up", 10)
        assert hsm.calls("C_Login") == 2
        assert list(state.iterdir()) == []


async def test_a_token_that_counts_a_wrong_pin_gets_no_second_try(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store]
) -> None:
    """Where the token says after a login without an answer that a wrong PIN was given, that PIN is not tried again,
    also for a reset: it was the wrong one, as far as anybody knows."""
    hsm.rules(COUNT_LOW, "C_Login crash")
    async with make_group([settings], keys=keys_of(stores[0]), state=state, all_up=False) as group:
        member = group.members[0]
        await until(lambda: member.state is State.QUARANTINED, "the PIN is held")
        assert "refused this PIN before" in member.reason
        with pytest.raises(MisconfiguredError, match="refused this PIN before"):
            await group.reset("m1")
        assert hsm.calls("C_Login") == 1


async def test_a_login_that_is_given_up_before_it_is_no_try(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member whose time is over, or that is stopped, while the try is noted has not tried its PIN."""
    begin = Refusals.begin

    def slow(refusals: Refusals, *arguments: Any, **more: Any) -> Attempt:
        time.sleep(1.2)
        return begin(refusals, *arguments, **more)

    monkeypatch.setattr(Refusals, "begin", slow)
    brief = structs.replace(settings, start_timeout_s=1.0)
    async with running(brief, keys=keys_of(stores[0]), state=state) as member:
        await until(lambda: "ended before the login" in member.last_error, "it is given up")
        await until(lambda: member.starts > 1, "it is started again")  # and stopped in the middle of that
    assert (hsm.calls("C_Login"), list(state.iterdir())) == (0, [])


# --- where nothing can be noted ---------------------------------------------------------------------------------------


async def test_no_pin_is_tried_that_cannot_be_noted(
    hsm: FaultyModule, settings: MemberSettings, state: Path, stores: list[Store]
) -> None:
    """Where the state directory cannot be written no PIN is tried; once it can be, the member is up by itself."""
    async with running(settings, keys=keys_of(stores[0]), state=state) as member:
        state.rmdir()
        member._standing.lose("for the test")
        await until(lambda: "cannot be noted" in member.last_error, "the reason is told")
        await until(lambda: member.starts > 3, "it is started again and again")
        assert (hsm.calls("C_Login"), member.state is State.UP) == (1, False)
        state.mkdir()
        await until(lambda: member.state is State.UP, "the member is up")
        assert hsm.calls("C_Login") == 2
