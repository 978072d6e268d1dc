"""Any code of the PKCS#11 standard, and vendors' own, out of a signature."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm import codes, lifecycle
from hsm import member as member_module
from hsm.codes import Kind
from hsm.errors import RefusedError
from hsm.failover import Failover
from hsm.lifecycle import State
from tests.faults.rig import Rig, make_rig, verifies
from tests.hsm.members import MESSAGE, sign
from tests.softhsm import Store
from tests.waiting import until

CODES = [*codes.NAMES, 0x80000001, 0xCE000001]
RESTARTED = (Kind.PROCESS, Kind.PLACE, Kind.PIN)
"""The login is gone, or the installation is wrong: a new process tells, with the one login that it costs."""
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
    """What a code leads to. Healed inside the member: nothing, for anybody else. Otherwise the member is asked for a
    test signature, or restarted and asked for one, and a peer is asked, unless the request itself is wrong."""
    kind = codes.kind(code)
    restarted, healed = kind in RESTARTED, kind is Kind.SESSION or code == codes.SESSION_COUNT
    return {
        "logins": int(restarted),
        "starts": int(restarted),
        "attempts that failed at m1": int(not healed),
        "attempts that failed at m2": 0,
        "attempts after a failed one": int(not healed and kind is not Kind.REQUEST),
        "tests that m1 signed": int(not healed),
        "tests that m1 failed": 0,
    }


async def _ask(rig: Rig, code: int) -> None:
    """One request: signed, whatever m1 says, unless the request itself is wrong."""
    if codes.kind(code) is Kind.REQUEST:
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
            lambda: member.state is State.UP and _counts(rig)["tests that m1 signed"] >= tests,
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
    monkeypatch.setattr(lifecycle, "BACKOFF_MAX_S", 0.001)
    monkeypatch.setattr(member_module, "_ASKED_TEST_EVERY_S", 0.0)
    quiet = Failover(keep_alive_s=60)
    async with make_rig(tmp_path, partitions[:2], failover=quiet, sessions=SESSIONS) as rig:
        wrong = [told for code in CODES if (told := await _wrong_after(rig, rule, code))]
        assert wrong == []
        assert rig.path("m2") == ["starting", "up"]
