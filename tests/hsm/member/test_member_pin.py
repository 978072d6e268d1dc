"""What a member does with its PIN, and what only an operator can mend: a wrong one is tried once, whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from hsm.errors import MisconfiguredError
from hsm.member.settings import MemberSettings
from hsm.member.states import State
from hsm.secrets.refusals import Refusals
from hsm.secrets.settings import PinSource
from tests.hsm.members import copy_of, counted, keys_of, kill, make_group, running, sign, transitions, verifies
from tests.softhsm import PIN, Store
from tests.waiting import until

WRONG_PIN = "wrong-pin-0815"
FINAL_TRY, LOCKED = 0x20000, 0x40000
"""CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED (PKCS#11 v3.0, CK_TOKEN_INFO)."""


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    """The record of refused PINs that the members of this test use."""
    return Refusals(tmp_path / "state")


@pytest.fixture
def wrong(stores: list[Store], tmp_path: Path) -> MemberSettings:
    """A member on the first store whose PIN file holds another PIN."""
    path = tmp_path / "pin"
    path.write_text(WRONG_PIN)
    path.chmod(0o600)
    return stores[0].settings(pin_file=path)


# --- a wrong PIN ------------------------------------------------------------------------------------------------------


async def test_a_wrong_pin_is_tried_once(
    stores: list[Store],
    wrong: MemberSettings,
    refusals: Refusals,
    spawned: list[dict[str, str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong PIN is tried exactly once, whatever is restarted, until the operator gives another one."""
    keys, record = keys_of(stores[0]), refusals.path("m1")
    async with running(wrong, keys=keys, state=record.parent) as member:
        assert (member.state, member.starts) == (State.QUARANTINED, 1)
        assert "CKR_PIN_INCORRECT" in member.reason
        assert record.stat().st_mode & 0o777 == 0o600
        assert transitions(member._peers, "m1") == {"down -> starting": 1, "starting -> quarantined": 1}
    assert len(spawned) == 1
    async with running(wrong, keys=keys, state=record.parent) as member:
        assert member.state is State.QUARANTINED
        assert "refused this PIN before" in member.reason
        assert str(record) in member.reason
    assert len(spawned) == 1
    assert [line.partition(" -> quarantined: ")[0] for line in caplog.messages] == ["member m1: starting"] * 2
    assert WRONG_PIN not in caplog.text + record.read_text()
    (tmp_path / "pin").write_text(PIN)
    async with running(wrong, keys=keys, state=record.parent) as member:
        assert member.state is State.UP
        assert not record.exists()
    assert len(spawned) == 2


async def test_a_reset_brings_it_back(
    stores: list[Store], wrong: MemberSettings, spawned: list[dict[str, str]], tmp_path: Path
) -> None:
    """A member whose PIN was refused is up once the file has the right one and the operator resets it."""
    async with running(wrong, keys=keys_of(stores[0])) as member:
        with pytest.raises(MisconfiguredError, match="refused this PIN before"):
            await member.reset()
        assert (member.state, len(spawned)) == (State.QUARANTINED, 1)
        (tmp_path / "pin").write_text(PIN)
        assert await member.reset() == "it was quarantined and is up again"
        assert (member.state, len(spawned)) == (State.UP, 2)


async def test_a_peer_serves_beside_a_wrong_pin(stores: list[Store], wrong: MemberSettings) -> None:
    """A member whose PIN is wrong costs no request: its peer serves, and nothing waits."""
    second = stores[1].settings("m2")
    async with make_group([wrong, second], keys=keys_of(stores[0]), all_up=False) as group:
        assert [member.state for member in group.members] == [State.QUARANTINED, State.UP]
        for name in group.keys:
            assert verifies(group, await sign(group, name), name)
            assert group.proved_by(name) == ["m2"]
            assert "CKR_PIN_INCORRECT" in group.problems(name)["m1"]
        assert counted(group, "hsmitm_signature_retries_total") == 0


async def test_a_pin_that_was_changed_under_a_member(
    stores: list[Store], wrong: MemberSettings, refusals: Refusals, spawned: list[dict[str, str]], tmp_path: Path
) -> None:
    """A member that was up and whose PIN is no longer right tries it once at its next start, and then waits."""
    (tmp_path / "pin").write_text(PIN)
    async with running(wrong, keys=keys_of(stores[0]), state=refusals.path("m1").parent) as member:
        assert member.state is State.UP
        (tmp_path / "pin").write_text(WRONG_PIN)
        kill(member)
        await until(lambda: "CKR_PIN_INCORRECT" in member.reason, "the PIN is tried")
        assert member.state is State.QUARANTINED
        assert refusals.path("m1").exists()
    assert len(spawned) == 2


async def test_a_damaged_record_of_a_refusal(
    stores: list[Store], refusals: Refusals, spawned: list[dict[str, str]]
) -> None:
    """A record of a refused PIN that was cut off, as by a full disk, may mean this PIN: it waits for an operator."""
    refusals.prepare()
    refusals.path("m1").write_text("abc")
    async with running(stores[0], state=refusals.path("m1").parent) as member:
        assert member.state is State.QUARANTINED
        assert str(refusals.path("m1")) in member.reason
    assert spawned == []


# --- a PIN in danger --------------------------------------------------------------------------------------------------


def set_token_flags(store: Store, flags: int) -> None:
    """Have the token say more of itself: SoftHSM keeps its flags, but never sets these, in its token object.

    There an attribute is its type (CKA_OS_TOKENFLAGS), its kind and its value, each of eight bytes.
    """
    (path,) = store.directory.glob("tokens/*/token.object")
    content = path.read_bytes()
    at = content.index((0x8000534B).to_bytes(8)) + 16
    value = int.from_bytes(content[at : at + 8]) & ~(FINAL_TRY | LOCKED) | flags
    path.write_bytes(content[:at] + value.to_bytes(8) + content[at + 8 :])


@pytest.mark.parametrize(
    ("flag", "reason"),
    [(FINAL_TRY, "one more wrong PIN locks it"), (LOCKED, "is locked")],
    ids=["at its final try", "locked"],
)
async def test_a_pin_in_danger_is_not_tried(stores: list[Store], tmp_path: Path, flag: int, reason: str) -> None:
    """A PIN at its final try, or locked, is not tried; once the operator has cleared that, the same PIN is good."""
    own = copy_of(stores[0], tmp_path / "own")
    set_token_flags(own, flag)
    async with running(own) as member:
        assert member.state is State.QUARANTINED
        assert reason in member.reason
        set_token_flags(own, 0)
        await member.reset()
        assert member.state is State.UP, member.reason


# --- other sources, and no PIN at all ---------------------------------------------------------------------------------


async def test_a_pin_that_was_asked_for(stores: list[Store]) -> None:
    """A PIN that was typed at start is used for every start of the member; without one the operator reads so."""
    settings = structs.replace(stores[0].settings(), pin=PinSource(prompt=True))
    async with running(settings, keys=keys_of(stores[0]), prompted=PIN) as member:
        assert member.state is State.UP
        kill(member)
        await until(lambda: member.starts == 2 and member.state is State.UP, "the member is up again", 5)
        await member.reset()
    async with running(settings, keys=keys_of(stores[0])) as member:
        assert (member.state, member.reason) == (
            State.QUARANTINED,
            "the prompt gives no PIN; an empty one is said by pin = { empty = true }",
        )


async def test_a_missing_pin_file_waits_for_an_operator(
    stores: list[Store], spawned: list[dict[str, str]], tmp_path: Path
) -> None:
    """A member whose PIN file is not there is quarantined without a login, and the file is named."""
    settings = stores[0].settings(pin_file=tmp_path / "missing")
    async with running(settings, keys=keys_of(stores[0])) as member:
        assert member.state is State.QUARANTINED
        assert member.reason == f"cannot read the PIN file {tmp_path / 'missing'}: No such file or directory"
    assert spawned == []


async def test_a_missing_module_waits_for_an_operator(stores: list[Store], tmp_path: Path) -> None:
    """A member whose library is not there is quarantined after one start, with the library's path."""
    path = str(tmp_path / "missing.so")
    settings = structs.replace(stores[0].settings(), module=path)
    async with running(settings, keys=keys_of(stores[0])) as member:
        assert (member.state, member.starts, member.serving) == (State.QUARANTINED, 1, False)
        assert path in member.reason
        assert transitions(member._peers, "m1")["starting -> quarantined"] == 1


async def test_what_a_pin_command_asks_is_away_at_first(stores: list[Store], tmp_path: Path) -> None:
    """A PIN command that fails, as one does that asks a vault before the network is there, is run again by itself."""
    kept = tmp_path / "vault"
    source = PinSource(command=["cat", str(kept)])
    async with running(structs.replace(stores[0].settings(), pin=source), keys=keys_of(stores[0])) as member:
        assert member.state is not State.QUARANTINED
        assert member.last_error == "the PIN command cat ended with status 1"
        kept.write_text(PIN)
        await until(lambda: member.serving, "it is up")
