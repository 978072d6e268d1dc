"""A member process is killed while it has requests to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hsm.errors import MemberLostError
from hsm.member.member import Member
from hsm.wire.member import Sign
from tests.faults.rig import Rig, make_rig, member_killed, module_rules, seem, verifies
from tests.hsm.members import sign
from tests.softhsm import Store
from tests.waiting import until

pytestmark = pytest.mark.alone


@contextmanager
def attempts_noted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dict[bytes | None, float], dict[bytes | None, float]]]:
    """When each message's attempt was lost with its member, and when another attempt was begun elsewhere after it."""
    lost: dict[bytes | None, float] = {}
    again: dict[bytes | None, float] = {}
    sign = Member.sign

    async def noting(member: Member, request: Sign, *more: Any) -> bytes:
        if request.message in lost:
            again.setdefault(request.message, rig.now())
        try:
            return await sign(member, request, *more)
        except MemberLostError:
            lost[request.message] = rig.now()
            raise

    with monkeypatch.context() as patch:
        patch.setattr(Member, "sign", noting)
        yield lost, again


async def test_member_killed_busy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """F2: The requests that a killed member takes with it are asked of its peer within 50 ms; none fails."""
    with attempts_noted(rig, monkeypatch) as (lost, again):
        async with rig.load() as load:
            for name in rig.hsms:
                seem(rig, name, 0.03)  # so that an attempt may take half a second: none is given up before the kill
            with rig.hsm("m1").fault("C_Sign stall"):
                await until(lambda: rig.hsm("m1").fired() > 1, "several requests are in flight")
                begun = rig.now()
                with member_killed(rig, "m1"):
                    await until(lambda: len(lost) > 1, "the requests in flight are known to be lost")
                    ended = min(lost.values())
            await rig.until_path("m1", ["down", "starting", "up"], begun)
            await load.more(60)
    assert ended - begun < 0.2
    assert lost.keys() == again.keys()
    assert max(again[message] - lost[message] for message in lost) < 0.1, "50 ms, and as much for a busy machine"
    assert rig.counted("hsmitm_signature_retries_total", step="next member") == len(lost)
    assert load.slowest_s < 0.3
    assert rig.away_s("m1", begun) < 1
    assert rig.starts() == [2, 1]
    assert rig.logins("m1") == 2


async def test_member_killed_with_many_requests(partitions: list[Store], tmp_path: Path) -> None:
    """F2: However many sessions a member has, all the requests that it takes with it are signed by its peer."""
    async with make_rig(tmp_path, partitions[:2], sessions=128) as rig:
        first, messages = rig.member("m1"), [b"%d" % number for number in range(300)]
        for name in rig.hsms:
            seem(rig, name, 0.03)  # so that an attempt may take half a second
        with module_rules(rig, "m1", "m2", rules=["C_Sign stall"]):
            calls = [asyncio.create_task(sign(rig.group, message=message)) for message in messages]
            await until(lambda: first.in_flight > 120, "many requests are in flight")
            with member_killed(rig, "m1"):
                await until(lambda: not first.in_flight, "all of them are lost")
        ends = await asyncio.gather(*calls, return_exceptions=True)
        key = rig.group.keys["untrust"]
        assert [end for end in ends if isinstance(end, BaseException)] == []
        assert all(verifies(key, one, end) for one, end in zip(messages, ends, strict=True) if isinstance(end, bytes))
