"""Files that a supervisor opens for a worker, over a real line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hsm import reading
from proxy.config.file import Config
from proxy.processes.files import Desk
from proxy.processes.line import Line
from proxy.processes.tally import Tally
from tests.proxy.processes.test_reach import configured

__all__ = ["configured"]


@pytest.fixture
async def ask(configured: Callable[[str], Config]) -> AsyncIterator[Callable[[str], object]]:
    """Ask as a worker does, for a file of the configuration's directory; its text, None where it is refused."""
    config = configured("a.py")
    desk = Desk(config.path)
    line = Line(desk.line("worker 1").detach())

    async def answer(name: str) -> str | None:
        descriptor = await asyncio.to_thread(line.ask, config.base / name)
        if descriptor is None:
            return None
        assert not os.get_inheritable(descriptor)
        with os.fdopen(descriptor) as file:
            return file.read()

    yield answer
    line.close()
    desk.close()


async def test_what_the_configuration_names_now_is_opened(ask: Callable[[str], object], tmp_path: Path) -> None:
    """A worker reads a renewed file, and one that a reload brings, whoever may read it by its mode."""
    (tmp_path / "new").write_text("renewed")
    (tmp_path / "new").chmod(0o600)
    (tmp_path / "new").replace(tmp_path / "roots.pem")
    assert await ask("roots.pem") == "renewed"
    assert "upstream_ca" in await ask("hsmitm.toml")
    (tmp_path / "others.pem").write_text("others")
    assert await ask("others.pem") is None
    toml = tmp_path / "hsmitm.toml"
    toml.write_text(toml.read_text().replace("roots.pem", "others.pem"))
    assert await ask("others.pem") == "others"
    assert await ask("roots.pem") is None


@pytest.mark.parametrize(
    "name", ["pin", "so-pin", "conf", "tokens/t/key", "a.py", "../passwd", "trust.pem", "x" * 5000]
)
async def test_nothing_else_is(ask: Callable[[str], object], name: str) -> None:
    """A worker that is taken over gets no other file by asking, and the line goes on."""
    assert await ask(name) is None
    assert await ask("roots.pem") == "x" or len(name) > 4096


async def test_what_a_link_or_the_configuration_makes_of_a_secret_is_refused(
    ask: Callable[[str], object], tmp_path: Path
) -> None:
    """Roots that are a link to the PIN, a directory, a pipe: no file for a worker."""
    roots = tmp_path / "roots.pem"
    for make in (lambda: roots.symlink_to(tmp_path / "pin"), roots.mkdir, lambda: os.mkfifo(roots)):
        roots.rmdir() if roots.is_dir() and not roots.is_symlink() else roots.unlink()
        make()
        assert await ask("roots.pem") is None


async def test_a_configuration_that_is_wrong_gives_nothing(ask: Callable[[str], object], tmp_path: Path) -> None:
    """While hsmitm.toml cannot be read a worker keeps what it has."""
    (tmp_path / "hsmitm.toml").write_text("[proxi]")
    assert await ask("roots.pem") is None


def test_a_library_reads_a_copy_of_what_we_may_not_open(tmp_path: Path) -> None:
    """OpenSSL opens roots by a path: that of a copy in memory, which is another one when the file is."""
    kept = tmp_path / "kept"
    kept.write_text("first")

    def give(path: Path) -> int | None:
        return os.open(kept, os.O_RDONLY) if path == tmp_path / "hidden" else None

    reading.use(give)
    try:
        first = reading.for_libraries(tmp_path / "hidden")
        assert first.read_text() == "first"
        kept.write_text("second")
        assert reading.for_libraries(tmp_path / "hidden").read_text() == "second"
        assert reading.for_libraries(kept) == kept
        with pytest.raises(FileNotFoundError):
            reading.contents(tmp_path / "other")
    finally:
        reading.use(None)


async def test_the_decryption_log_is_opened_to_append_to(configured: Callable[[str], Config], tmp_path: Path) -> None:
    """It is made where it is not there, not for everybody to read, and never emptied; a link in its place, to whatever,
    and one that the configuration does not name, are refused."""
    config = configured("a.py")
    toml, log = config.path, config.base / "decryption.jsonl"
    desk = Desk(config.path)
    line = Line(desk.line("worker 1").detach())
    assert await asyncio.to_thread(line.ask_for_log) is None
    toml.write_text(toml.read_text() + '\n[decryption_log]\nfile = "decryption.jsonl"\n')
    for text in (b"one\n", b"two\n"):
        descriptor = await asyncio.to_thread(line.ask_for_log)
        assert descriptor is not None
        os.write(descriptor, text)
        os.close(descriptor)
    assert log.read_bytes() == b"one\ntwo\n"
    assert log.stat().st_mode & 0o777 & ~0o640 == 0
    (tmp_path / "other").write_text("other")
    for make in (lambda: log.symlink_to(tmp_path / "other"), log.mkdir, lambda: os.mkfifo(log)):
        log.rmdir() if log.is_dir() and not log.is_symlink() else log.unlink()
        make()
        assert await asyncio.to_thread(line.ask_for_log) is None
    line.close()
    desk.close()


async def test_a_tally_is_a_places_own(configured: Callable[[str], Config]) -> None:
    """The worker that is started in the place of another finds its numbers, and no other does."""
    desk = Desk(configured("a.py").path)

    async def lost(name: str, begun: int) -> int:
        line = Line(desk.line(name).detach())
        found = Tally(await asyncio.to_thread(line.ask_for_tally))
        for _ in range(begun):
            found.begin()
        line.close()
        return found.lost

    assert [await lost("worker 1", 2), await lost("worker 2", 0), await lost("worker 1", 0)] == [0, 0, 2]
    desk.close()
