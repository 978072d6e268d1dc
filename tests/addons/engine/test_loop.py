"""The worker's event loop: what it adds to the base class, on sockets of this machine."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from addons.engine.loop import WorkerLoop


def _run[T](main: Callable[[], Awaitable[T]], connect_timeout_s: float = 5.0) -> T:
    """Run `main` in a worker's loop, and end the loop."""

    async def body() -> T:
        return await main()

    with asyncio.Runner(loop_factory=lambda: WorkerLoop(connect_timeout_s)) as runner:
        return runner.run(body())


@contextmanager
def _silent_address() -> Iterator[tuple[str, int]]:
    """An address of this machine where the kernel drops every further connection: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            waiting.append(one)
            assert one.connect_ex(address) in (0, errno.EINPROGRESS)
        try:
            yield address
        finally:
            for one in waiting:
                one.close()


async def _serve(name: str, port: int) -> asyncio.Server:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port)


async def _ask(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


def test_two_workers_listen_on_one_port() -> None:
    """All workers accept on the proxy's port, and the kernel spreads the connections."""

    async def main() -> set[str]:
        first = await _serve("first", 0)
        port = first.sockets[0].getsockname()[1]
        second = await _serve("second", port)
        answers = {await _ask(port) for _ in range(64)}
        first.close()
        second.close()
        return answers

    assert _run(main) == {"first", "second"}


def test_a_worker_that_leaves_hands_its_port_to_the_other() -> None:
    """When one worker stops listening every further connection is the other's."""

    async def main() -> set[str]:
        first = await _serve("first", 0)
        port = first.sockets[0].getsockname()[1]
        second = await _serve("second", port)
        first.close()
        await first.wait_closed()
        answers = {await _ask(port) for _ in range(8)}
        second.close()
        return answers

    assert _run(main) == {"second"}


def test_a_server_that_does_not_answer_is_given_up() -> None:
    """A server that neither accepts nor refuses costs the time that was set, not minutes, and ends in a sentence."""

    async def main() -> tuple[BaseException, float]:
        with _silent_address() as address:
            began = time.monotonic()
            with pytest.raises(TimeoutError) as caught:
                await asyncio.open_connection(*address)
            return caught.value, time.monotonic() - began

    error, took_s = _run(main, connect_timeout_s=0.2)
    assert isinstance(error, OSError), "mitmproxy catches OSError alone"
    assert str(error) == "no connection within 0.2 s"
    assert 0.1 < took_s < 5


def test_a_server_that_refuses_is_an_error_at_once() -> None:
    """A refused connection is still the base class's error, before the time is over."""

    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            await asyncio.open_connection(*unused.getsockname())

    with pytest.raises(ConnectionRefusedError):
        _run(main, connect_timeout_s=30)


def test_a_client_that_leaves_while_we_connect_is_no_timeout() -> None:
    """A connection attempt that is cancelled from outside stays a cancellation: mitmproxy tells the two apart."""

    async def main() -> None:
        with _silent_address() as address:
            connecting = asyncio.create_task(asyncio.open_connection(*address))
            await asyncio.sleep(0)
            connecting.cancel()
            await connecting

    with pytest.raises(asyncio.CancelledError):
        _run(main, connect_timeout_s=30)


def test_tasks_begin_at_once_under_mitmproxys_factory() -> None:
    """mitmproxy sets asyncio's eager factory: tasks of every kind then begin before `create_task` returns."""

    async def main() -> list[str]:
        begun: list[str] = []

        async def task(name: str) -> str:
            begun.append(name)
            await asyncio.sleep(0)
            return name

        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        tasks = [loop.create_task(task("by loop")), asyncio.create_task(task("by asyncio"), name="named")]
        assert begun == ["by loop", "by asyncio"]
        async with asyncio.TaskGroup() as group:
            tasks.append(group.create_task(task("by group")))
            assert begun[-1] == "by group"
        assert tasks[1].get_name() == "named"
        return [await one for one in tasks]

    assert _run(main) == ["by loop", "by asyncio", "by group"]


def test_servers_work_under_mitmproxys_factory() -> None:
    """Connections are accepted and made with the eager factory, which uvloop alone would hand a wrong argument."""

    async def main() -> str:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        server = await _serve("served", 0)
        answer = await _ask(server.sockets[0].getsockname()[1])
        server.close()
        return answer

    assert _run(main) == "served"


def test_another_factory_is_left_alone() -> None:
    """A factory that is not asyncio's eager one is set as it is, and None takes it away."""

    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        seen: list[object] = []

        def factory(on: asyncio.AbstractEventLoop, coro: object, **more: object) -> asyncio.Task[None]:
            seen.append(coro)
            return asyncio.Task(coro, loop=on, **more)  # type: ignore[arg-type]

        async def nothing() -> None:
            """Ends at once."""

        loop.set_task_factory(factory)  # type: ignore[arg-type]
        assert loop.get_task_factory() is factory
        await loop.create_task(nothing())
        loop.set_task_factory(None)
        assert loop.get_task_factory() is None
        await loop.create_task(nothing())
        return seen

    assert len(_run(main)) == 1
