"""One of several addresses: real sockets on loopback, in the worker's event loop."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from addons.edge.connecting import racing
from addons.edge.connecting.resolver import Found
from addons.engine.loop import WorkerLoop

_HERE: Found = (int(socket.AF_INET), ("127.0.0.1", 0))
_THERE: Found = (int(socket.AF_INET6), ("::1", 0, 0, 0))


def _run[T](main: Callable[[], Awaitable[T]]) -> T:
    async def body() -> T:
        return await main()

    with asyncio.Runner(loop_factory=lambda: WorkerLoop(5)) as runner:
        return runner.run(body())


@contextmanager
def _silent(port: int = 0, family: socket.AddressFamily = socket.AF_INET6, host: str = "::1") -> Iterator[int]:
    """A port where the kernel drops every further connection: its queue is full."""
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(0)
        waiting = [socket.socket(family) for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            assert one.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        try:
            yield listener.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("found", [[_HERE], [_THERE, _HERE], [_HERE, _THERE]])
def test_the_address_that_answers_is_connected_to(found: list[Found]) -> None:
    """One address of a host is dead and refuses: the other is connected to, at once, whichever comes first."""

    async def main() -> tuple[str, float]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            began = time.monotonic()
            with await racing.first(found, listener.getsockname()[1]) as made:
                return made.getpeername()[0], time.monotonic() - began

    address, took_s = _run(main)
    assert address == "127.0.0.1"
    assert took_s < racing.HEAD_START_S


def test_an_address_that_says_nothing_costs_a_moment() -> None:
    """A host whose first address does not answer is reached by its second a quarter of a second later, and nothing of
    the first attempt is left."""

    async def main() -> tuple[str, float]:
        with _silent() as port, socket.create_server(("127.0.0.1", port)):
            before, began = _descriptors(), time.monotonic()
            with await racing.first([_THERE, _HERE], port) as made:
                address, took_s = made.getpeername()[0], time.monotonic() - began
            async with asyncio.timeout(5):
                while _descriptors() > before:
                    await asyncio.sleep(0.001)
            return address, took_s

    address, took_s = _run(main)
    assert address == "127.0.0.1"
    assert racing.HEAD_START_S * 0.9 < took_s < 4


def test_many_addresses_that_say_nothing_cost_no_more() -> None:
    """A name with thirty of them is reached by the last one, within two seconds."""
    dead: Found = (int(socket.AF_INET), ("127.0.0.2", 0))

    async def main() -> tuple[str, float]:
        with socket.create_server(("127.0.0.1", 0)) as living:
            port = living.getsockname()[1]
            with _silent(port, socket.AF_INET, "127.0.0.2"):
                began = time.monotonic()
                with await racing.first([*[dead] * 29, _HERE], port) as made:
                    return made.getpeername()[0], time.monotonic() - began

    address, took_s = _run(main)
    assert address == "127.0.0.1"
    assert took_s < 2


def test_not_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers for a name with a thousand addresses does not have a thousand connections made."""
    tried: list[int] = []

    async def attempt(family: int, *_: object) -> socket.socket:
        tried.append(family)
        raise OSError("refused")

    async def main() -> None:
        with pytest.raises(OSError, match="refused"):
            await racing.first([*[_THERE] * 1000, *[_HERE] * 1000], 443)

    monkeypatch.setattr(racing, "_attempt", attempt)
    _run(main)
    assert len(tried) == 32
    assert tried.count(int(socket.AF_INET)) == 16


def test_all_errors_are_told() -> None:
    """A host that refuses at each of its addresses is one sentence that names them."""

    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(OSError, match=rf"127.0.0.1:{port}: Connection refused") as caught:
                await racing.first([_HERE, _THERE], port)
            assert f"[::1]:{port}: Connection refused" in str(caught.value)

    _run(main)


def test_who_gives_up_leaves_no_attempt_behind() -> None:
    """A client that goes away while its server is tried leaves no socket open."""

    async def main() -> None:
        with _silent() as port:
            before = _descriptors()
            for found in ([_THERE], [_THERE, _THERE]):
                trying = asyncio.create_task(racing.first(found, port))
                async with asyncio.timeout(5):
                    while _descriptors() == before:
                        await asyncio.sleep(0.001)
                    trying.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await trying
                    while _descriptors() > before:
                        await asyncio.sleep(0.001)

    _run(main)


def test_the_own_address_is_as_asked() -> None:
    """The address that an operator wants connections to come from is theirs."""

    async def main() -> str:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            made = await racing.first([_HERE], listener.getsockname()[1], ("127.0.0.9", 0))
        with made:
            name: str = made.getsockname()[0]
            return name

    assert _run(main) == "127.0.0.9"


def test_families_take_turns() -> None:
    """With many addresses of one family the other's first one is tried second (RFC 8305)."""
    six = [(int(socket.AF_INET6), (f"2001:db8::{i}", 0, 0, 0)) for i in range(3)]
    four = [(int(socket.AF_INET), (f"192.0.2.{i}", 0)) for i in range(2)]
    assert racing.in_turn([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
