"""Any code of the PKCS#11 standard, and vendors' own, out of a signature."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm import codes
from hsm.errors import RefusedError
from hsm.member import examination, states
from hsm.member.settings import Failover
from hsm.member.states import State
from tests.faults.rig import Rig, make_rig, verifies
from tests.hsm.members import MESSAGE, sign
from tests.softhsm import Store
from tests.waiting import until

RESTARTS = frozenset({
    0x02, 0x03, 0x32, 0xE0, 0xE1, 0x100, 0x101, 0x190, 0x191, 0x1A0, 0x1A1,  # the login or the module's state is gone
    0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x102, 0x1B8,  # the PIN
    0x09, 0x0A, 0xB6, 0xB7, 0xB8, 0xE2, 0x103, 0x104, 0x105, 0x1B6, 0x1B7,  # the installation
})  # fmt: skip
"""A new process tells, with the one login that it costs."""
HEALED = frozenset({0x60, 0x82, 0x90, 0x91, 0xB0, 0xB3, 0x150, 0xB1})
"""Another session of the member signs: nobody else notices."""
PEER = frozenset({0x01, 0x05, 0x06, 0x50, 0x30, 0x120, 0x121, 0x80000001, 0xCE000001}) | codes.FORBIDDEN
"""A peer signs, and the member is asked for a test signature. 0x80000001 and 0xCE000001 are vendors' own; the last
forbid what the member did before."""
BUSY = frozenset({0x31, 0x201})
"""A peer signs, and the member is left in peace for a moment."""
CODES = sorted(RESTARTS | HEALED | PEER | BUSY | codes.NAMES.keys())
"""The request itself is wrong where none of these says otherwise."""
SESSIONS = 3


@contextmanager
def returned(rig: Rig, rule: str, code: int) -> Iterator[None]:
    """The next signature of m1 gives this return code; the next request goes there."""
    with rig.hsm("m1").fault(f"{rule} 0x{code:x} n=1"):
        rig.prefer("m1")
        yield
        assert rig.hsm("m1").fired() == 1, f"{codes.name(code)} was not met"


def _counts(rig: Rig) -> dict[str, int]:
    signed, failed = "hsmitm_signatures_total", "hsmitm_signature_errors_total"
    return {
        "logins": rig.logins("m1"),
        "starts": rig.member("m1").starts,
        "attempts that failed at m1": int(rig.counted(failed, member="m1", purpose="mint")),
        "attempts that failed at m2": int(rig.counted(failed, member="m2")),
        "attempts after a failed one": int(rig.counted("hsmitm_signature_retries_total")),
        "tests that m1 signed": int(rig.counted(signed, member="m1", purpose="test")),
        "tests that m1 failed": int(rig.counted(failed, member="m1", purpose="test")),
    }


def _expected(code: int) -> dict[str, int]:
    restarts, healed, refused = code in RESTARTS, code in HEALED, _refused(code)
    return {
        "logins": int(restarts),
        "starts": int(restarts),
        "attempts that failed at m1": int(not healed),
        "attempts that failed at m2": 0,
        "attempts after a failed one": int(not healed and not refused),
        "tests that m1 signed": int(not healed and code not in BUSY),
        "tests that m1 failed": 0,
    }


def _refused(code: int) -> bool:
    return code not in RESTARTS | HEALED | PEER | BUSY


async def _ask(rig: Rig, code: int) -> None:
    """One request: signed, whatever m1 says, unless the request itself is wrong."""
    if _refused(code):
        with pytest.raises(RefusedError) as refused:
            await sign(rig.group, "untrust")
        assert refused.value.code == code
    else:
        assert verifies(rig.group.keys["untrust"], MESSAGE, await sign(rig.group, "untrust"))


async def _wrong_after(rig: Rig, rule: str, code: int) -> str:
    """What the code led to, where that is not what it should."""
    member, expected = rig.member("m1"), _expected(code)
    before, begun = _counts(rig), rig.now()
    tests = before["tests that m1 signed"] + expected["tests that m1 signed"]
    with returned(rig, rule, code):
        await _ask(rig, code)
        await until(
            lambda: member.state is State.UP and not member.resting and _counts(rig)["tests that m1 signed"] >= tests,
            f"m1 is up and has signed a test after {codes.name(code)}", 3,
        )  # fmt: skip
    rig.prefer("m1")
    assert verifies(rig.group.keys["trust"], MESSAGE, await sign(rig.group, "trust")), "and it serves again"
    found = {name: number - before[name] for name, number in _counts(rig).items()}
    path = ["down", "starting", "up"] if expected["starts"] else []
    if found == expected and rig.path("m1", begun) == path:
        return ""
    different = {name: number for name, number in found.items() if number != expected[name]}
    return f"{codes.name(code)}: {different} {rig.path('m1', begun)}"


@pytest.mark.parametrize("rule", ["C_SignInit rv", "C_Sign rvafter"])
async def test_return_codes(
    partitions: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """F11: Whatever code a signature gives, no client notices unless its own request is wrong.

    That one is refused at once. The member logs in once more at most, and is UP with all its sessions afterwards.
    """
    monkeypatch.setattr(states, "BACKOFF_MAX_S", 0.001)
    monkeypatch.setattr(examination, "ASKED_TEST_EVERY_S", 0.0)
    quiet = Failover(keep_alive_s=60)
    async with make_rig(tmp_path, partitions[:2], failover=quiet, sessions=SESSIONS) as rig:
        wrong = [told for code in CODES if (told := await _wrong_after(rig, rule, code))]
        assert wrong == []
        assert rig.path("m2") == ["starting", "up"]
