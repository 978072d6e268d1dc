"""Ways to log in that SoftHSM does not have, on a module that has them: without a login, with an empty PIN, at a PIN
pad, as another type of user, in read-write sessions; and what other vendors' modules say to a wrong PIN.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from bench.rig.faulty_module import FaultyModule
from bench.rig.quirks_module import QuirksModule
from hsm.errors import MisconfiguredError
from hsm.member.member import Member
from hsm.member.settings import MemberSettings
from hsm.member.states import State
from hsm.secrets.settings import PinSource
from tests.hsm.members import keys_of, make_group, running
from tests.softhsm import MODULE, PIN, Store
from tests.waiting import until

COUNT_LOW, PAD, LOGIN_REQUIRED = 0x10000, 0x100, 0x4
ANOTHER_LIST = "another_list"
"""The module's own function list cannot be reached, as of p11-kit's client."""


@pytest.fixture
def hsm(tmp_path: Path, softhsm_module: str) -> QuirksModule:
    """An HSM of another vendor."""
    return QuirksModule(tmp_path / "hsm")


@pytest.fixture
def on(hsm: QuirksModule, stores: list[Store]) -> Callable[..., MemberSettings]:
    """A member on that HSM, with changes of its settings."""
    plain = stores[0].settings()
    environment = plain.environment | hsm.environment(MODULE)
    return lambda **changes: structs.replace(plain, module=str(hsm.path), environment=environment, **changes)


@pytest.fixture
def wrong(tmp_path: Path) -> PinSource:
    """A PIN that the partition does not know."""
    path = tmp_path / "pin"
    path.write_text("a-wrong-pin\n")
    path.chmod(0o600)
    return PinSource(file=str(path))


def proved(member: Member) -> set[str]:
    """The keys that it proved by signatures."""
    return {name for name in member.found if member.serves(name)}


# --- wrong PINs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reached", ["", ANOTHER_LIST], ids=["own function list", "another one at each call"])
@pytest.mark.parametrize("code", [0xA0, 0x07, 0x30, 0x101, 0x200, 0xB3, 0x80000123], ids=lambda code: f"{code:#x}")
async def test_a_wrong_pin_is_tried_once_in_whatever_words(
    hsm: QuirksModule, on: Callable[..., MemberSettings], wrong: PinSource, tmp_path: Path, stores: list[Store],
    code: int, reached: str,
) -> None:  # fmt: skip
    """A wrong PIN costs one try over restarts of the signer, in whatever words it is refused; the right one is good at
    once."""
    hsm.quirks(f"wrong_pin {code:#x}", *filter(None, [reached]))
    keys = keys_of(stores[0])
    for _ in range(2):
        async with running(on(pin=wrong), keys=keys, state=tmp_path / "state") as member:
            assert (member.state, member.starts) == (State.QUARANTINED, 1), member.reason
            assert hsm.calls("C_Login") == 1
    async with running(on(), keys=keys, state=tmp_path / "state") as member:
        assert (member.state, hsm.calls("C_Login")) == (State.UP, 2)
        assert proved(member) == keys.keys()


@pytest.mark.parametrize("code", [0x05, 0x30, 0x101], ids=lambda code: f"{code:#x}")
async def test_a_token_that_counts_says_that_it_was_the_pin(
    hsm: QuirksModule, on: Callable[..., MemberSettings], wrong: PinSource, stores: list[Store], code: int
) -> None:
    """A wrong PIN in words of a lost device is known as one by the token's count, and no reset tries it again."""
    hsm.quirks(f"wrong_pin {code:#x} flags={COUNT_LOW:#x}")
    async with make_group([on(pin=wrong)], keys=keys_of(stores[0]), all_up=False) as group:
        assert "and the token now counts a wrong PIN" in group.members[0].reason
        with pytest.raises(MisconfiguredError, match="refused this PIN before"):
            await group.reset("m1")
        assert hsm.calls("C_Login") == 1


async def test_a_good_pin_is_tried_on_a_token_that_counts(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store], tmp_path: Path
) -> None:
    """A good PIN is tried on a token that counts somebody else's wrong one, for nothing is open of ours."""
    hsm.quirks(f"token_flags set={COUNT_LOW:#x}")
    async with running(on(), keys=keys_of(stores[0]), state=tmp_path / "state") as member:
        assert (member.state, hsm.calls("C_Login")) == (State.UP, 1)


# --- no PIN, or not the user's ----------------------------------------------------------------------------------------


async def test_a_token_that_needs_no_login(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store]
) -> None:
    """A token whose keys are there without a login, as nShield's accelerator slot, serves without one."""
    hsm.quirks(f"no_login {PIN} 0x54")
    keys = keys_of(stores[0])
    async with running(on(pin=PinSource(none=True)), keys=keys) as member:
        assert (member.state, hsm.calls("C_Login")) == (State.UP, 0), member.reason
        assert proved(member) == keys.keys()
    async with running(on(), keys=keys) as member:
        assert member.state is State.QUARANTINED
        assert "it needs no login: write pin = { none = true }" in member.reason


async def test_an_empty_pin(hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store]) -> None:
    """A token whose PIN is empty is logged in to where the configuration says so."""
    hsm.quirks(f"empty_pin {PIN}")
    keys = keys_of(stores[0])
    async with running(on(pin=PinSource(empty=True)), keys=keys) as member:
        assert (member.state, hsm.calls("C_Login")) == (State.UP, 1), member.reason
        assert proved(member) == keys.keys()


@pytest.mark.parametrize("reached", ["", ANOTHER_LIST], ids=["own function list", "another one at each call"])
async def test_a_pin_pad(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store], tmp_path: Path, reached: str
) -> None:
    """A PIN that is typed at the HSM's own pad brings the member up; where nobody types it right, nobody is asked
    again before a reset, and nothing is remembered of it."""
    hsm.quirks(f"pin_pad {PIN}", *filter(None, [reached]))
    keys, state = keys_of(stores[0]), tmp_path / "state"
    async with make_group([on(pin=PinSource(pad=True))], keys=keys, state=state) as group:
        (member,) = group.members
        assert proved(member) == keys.keys()
        hsm.quirks(f"pin_pad {PIN}", "login 0x50", *filter(None, [reached]))
        member._standing.lose("for the test")
        await until(lambda: member.state is State.QUARANTINED, "nobody typed it")
        assert hsm.calls("C_Login") == 2
    async with make_group([on(pin=PinSource(pad=True))], keys=keys, state=state, all_up=False) as group:
        (member,) = group.members
        assert member.state is State.QUARANTINED
        assert "CKR_FUNCTION_CANCELED" in member.reason
        hsm.quirks(f"pin_pad {PIN}", *filter(None, [reached]))
        await group.reset("m1")
        assert (member.state, hsm.calls("C_Login")) == (State.UP, 4)
        assert list(state.iterdir()) == []


@pytest.mark.parametrize("reached", ["", ANOTHER_LIST], ids=["own function list", "another one at each call"])
async def test_another_type_of_user(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store], tmp_path: Path, reached: str
) -> None:
    """A token that wants a type of user of its vendor's, as Luna's Crypto User, has it; the usual one is told that."""
    hsm.quirks("user_type 0x80000001", *filter(None, [reached]))
    keys, state = keys_of(stores[0]), tmp_path / "state"
    async with running(on(), keys=keys, state=state) as member:
        assert member.state is State.QUARANTINED
        assert "CKR_USER_TYPE_INVALID (0x103)" in member.reason
    async with running(on(user_type=0x80000001), keys=keys, state=state) as member:
        assert (member.state, hsm.calls("C_Login")) == (State.UP, 2), member.reason
        assert proved(member) == keys.keys()


@pytest.mark.parametrize("code", [0x06, 0xB5, 0x07, 0x54, 0xB8], ids=lambda code: f"{code:#x}")
async def test_a_token_that_gives_read_write_sessions_alone(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store], code: int
) -> None:
    """A token that refuses read-only sessions is served by read-write ones, without a word in the configuration."""
    hsm.quirks(f"read_write {code:#x}")
    keys = keys_of(stores[0])
    async with running(on(), keys=keys) as member:
        assert (member.state, member.starts, hsm.calls("C_Login")) == (State.UP, 1, 1), member.reason
        assert proved(member) == keys.keys()


async def test_a_token_that_gives_read_only_sessions_alone(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store], tmp_path: Path
) -> None:
    """A token that is write-protected is served by read-only sessions, whatever was asked for."""
    faulty = FaultyModule(tmp_path / "faulty")
    faulty.rules("C_OpenSession rv 0xe2 n=1")
    environment = stores[0].environment | faulty.environment(MODULE)
    settings = structs.replace(on(read_write=True), module=str(faulty.path), environment=environment)
    async with running(settings, keys=keys_of(stores[0])) as member:
        assert (member.state, member.starts, faulty.calls("C_Login")) == (State.UP, 1, 1), member.reason


async def test_read_write_sessions_are_opened_where_they_are_asked_for(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store]
) -> None:
    """Where the configuration says so no read-only session is opened: no call is wasted on one."""
    hsm.quirks("read_write 0x30")
    keys = keys_of(stores[0])
    async with running(on(read_write=True), keys=keys) as member:
        assert (member.state, member.starts) == (State.UP, 1), member.reason


async def test_a_token_that_needs_a_login_gets_one(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store]
) -> None:
    """A member without a login on a token that needs one waits for an operator, who reads what is missing."""
    async with running(on(pin=PinSource(none=True)), keys=keys_of(stores[0])) as member:
        assert member.state is State.QUARANTINED
        assert "says that it needs a login (CKF_LOGIN_REQUIRED)" in member.reason
        assert hsm.calls("C_Login") == 0


async def test_a_token_without_a_pad_is_told_from_one(
    hsm: QuirksModule, on: Callable[..., MemberSettings], stores: list[Store]
) -> None:
    """A PIN pad that the token does not have is an operator's mistake, found before any login."""
    async with running(on(pin=PinSource(pad=True)), keys=keys_of(stores[0])) as member:
        assert member.state is State.QUARANTINED
        assert "has no PIN pad (CKF_PROTECTED_AUTHENTICATION_PATH); give its PIN" in member.reason
        assert hsm.calls("C_Login") == 0
