"""What connections may hold up, over a transport that is looked at. Real ones: tests/hsm/signer/test_taken_over.py."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from hsm.wire import pressure
from hsm.wire.pressure import Intake, Pressure
from tests.waiting import until


class Transport:
    """As much of one as is used."""

    def __init__(self) -> None:
        self.reading, self.waiting = True, 0

    def set_write_buffer_limits(self, high: int) -> None:
        """Nobody writes here."""
        assert high == pressure.UNREAD_HIGH

    def pause_reading(self) -> None:
        """asyncio's warns of a second one."""
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        """asyncio's warns of a second one."""
        assert not self.reading
        self.reading = True

    def get_write_buffer_size(self) -> int:
        """Bytes that nobody took."""
        return self.waiting


def make(intake: Intake | None = None) -> tuple[Pressure, Transport, list[tuple[str, str]]]:
    """A connection, its transport, and why it was ended."""
    transport, ends = Transport(), list[tuple[str, str]]()
    made = Pressure(cast(Any, transport), intake or Intake(), lambda bound, what: ends.append((bound, what)))
    return made, transport, ends


async def test_reading_stops_while_there_is_a_reason() -> None:
    """Nothing is read while answers wait or others have their turn, and it is again when both are over."""
    one, transport, ends = make()
    one.hold("turn")
    one.fill()
    one.release("turn")
    assert not transport.reading
    one.drain()
    assert transport.reading
    one.release("turn")
    assert (transport.reading, ends) == (True, [])
    one.close()


async def test_answers_that_wait_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that takes no answers has some time; one that takes them in time has it anew."""
    monkeypatch.setattr(pressure, "UNREAD_S", 0.05)
    one, transport, ends = make()
    transport.waiting = 300_000
    one.fill()
    one.drain()
    one.fill()
    await until(lambda: ends, "it is ended")
    assert ends == [("unread answers", "300000 bytes of answers that it has not taken for 0.05 s")]
    assert not transport.reading


async def test_too_many_answers() -> None:
    """Answers to what was read before are bounded as well."""
    one, transport, ends = make()
    transport.waiting = pressure.UNREAD_MOST
    one.note_write()
    assert ends == []
    transport.waiting += 1
    one.note_write()
    one.note_write()
    assert [bound for bound, _ in ends] == ["unread answers"]


async def test_a_half_frame_while_we_do_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that is not whole because we do not read is nobody's fault; each frame has its own time."""
    monkeypatch.setattr(pressure, "HALF_FRAME_S", 0.05)
    one, _, ends = make()
    one.fill()
    one.note_half(10, 1)
    begun = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > begun + 0.15, "its time has passed, thrice")
    assert ends == []
    one.drain()
    one.note_half(0, 2)
    one.note_half(10, 2)
    one.note_half(20, 2)
    await until(lambda: ends, "it is ended")
    assert ends == [("half frame", "a frame that is not whole 0.05 s after it began")]


async def test_the_oldest_half_frame_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where half frames of all connections are too much, the one that began first ends, however much it has."""
    monkeypatch.setattr(pressure, "HALF_FRAMES_MOST", 100)
    intake = Intake()
    (old, _, old_ends), (young, _, young_ends), (third, _, third_ends) = (make(intake) for _ in range(3))
    old.note_half(1, 0)
    young.note_half(60, 0)
    third.note_half(30, 0)
    assert [old_ends, young_ends, third_ends] == [[], [], []]
    old.note_half(11, 0)
    assert [bound for bound, _ in old_ends] == ["half frames of all"]
    third.note_half(50, 0)
    assert [bound for bound, _ in young_ends] == ["half frames of all"]
    assert third_ends == []
    assert intake._sum == 50
    for one in (old, young, third):
        one.close()
    assert (intake._sum, len(intake._held)) == (0, 0)
