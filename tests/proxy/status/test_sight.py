"""What becomes of the page while the signer is busy, away, or another one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.status import sight
from tests.proxy.status.served import asked, page_at, speaking
from tests.waiting import until


async def test_many_monitors_are_one_question(tmp_path: Path) -> None:
    """However many ask for the page, and how often, the signer is asked once a second."""
    async with speaking(tmp_path / "s") as spoken, page_at(tmp_path / "s") as port:
        answers = await asyncio.gather(*(asked(port, "/metrics") for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        assert spoken.asked == 1
        await until(lambda: spoken.asked == 1, "one question")


async def test_an_answer_is_no_older_than_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor reads what is so now, but for a moment."""
    monkeypatch.setattr(sight, "FRESH_S", 0.0)
    async with speaking(tmp_path / "s") as spoken, page_at(tmp_path / "s") as port:
        for number in range(1, 4):
            assert await asked(port, "/healthz") == (200, "ok\n")
            assert spoken.asked == number
        assert len(spoken.channels) == 1


async def test_a_signer_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signer that does not answer makes the page say so within its time, and be right again when it does."""
    monkeypatch.setattr(sight, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(sight, "FRESH_S", 0.0)
    async with speaking(tmp_path / "s") as spoken, page_at(tmp_path / "s") as port:
        spoken.answering.clear()
        for path in ("/readyz", "/healthz", "/metrics"):
            assert await asked(port, path) == (503, "the signer has not answered within 0.2 s\n")
        spoken.answering.set()
        assert await asked(port, "/readyz") == (200, "ready\n")


async def test_no_signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a signer the page says that there is none, and where it looked; it finds one that comes later."""
    monkeypatch.setattr(sight, "FRESH_S", 0.0)
    async with page_at(tmp_path / "s") as port:
        status, text = await asked(port, "/readyz")
        assert (status, text) == (
            503,
            f"the signer is not there (cannot connect to {tmp_path}/s: No such file or directory)\n",
        )
        async with speaking(tmp_path / "s"):
            assert await asked(port, "/readyz") == (200, "ready\n")


async def test_a_signer_that_was_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new signer is asked as the old one was: no restart of the page, no answer of before."""
    monkeypatch.setattr(sight, "FRESH_S", 0.0)
    async with page_at(tmp_path / "s") as port:
        for _ in range(2):
            async with speaking(tmp_path / "s"):
                assert await asked(port, "/readyz") == (200, "ready\n")
            (tmp_path / "s").unlink(missing_ok=True)
            assert (await asked(port, "/readyz"))[0] == 503


async def test_a_monitor_that_leaves_takes_no_answer_along(tmp_path: Path) -> None:
    """A monitor that gives up does not spoil the answer that others wait for."""
    async with speaking(tmp_path / "s") as spoken, page_at(tmp_path / "s") as port:
        spoken.answering.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: spoken.asked == 1, "the signer is asked")
        waiting = asyncio.create_task(asked(port, "/readyz"))
        writer.transport.abort()
        spoken.answering.set()
        assert await waiting == (200, "ready\n")
        assert spoken.asked == 1
