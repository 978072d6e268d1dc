"""The status page's process: it meets the network, and asks the signer over a socket on which nothing else can be said.

It reads its own tables of the configuration, loads nothing of the key side and has no secret in its environment. In
`hsmitm run` it is a child of the supervisor. `hsmitm signer` keeps one of its own (`beside`): starting and watching one
child more is little beside its members, and a supervisor for that alone would be one process more to end in order.
Neither can give it another user than their own unless they are root; where `[status] user` names one they leave it to
`hsmitm status-page`, which a unit of that user's starts.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from hsm import reading
from hsm.errors import MisconfiguredError
from proxy.config import status
from proxy.config.status import StatusConfig
from proxy.processes import limits, logs, supervised
from proxy.processes.cage import Cage
from proxy.processes.child import Child
from proxy.processes.line import Line
from proxy.status.hosts import Hosts
from proxy.status.page import Page
from proxy.status.server import StatusServer
from proxy.status.sight import Sight

if TYPE_CHECKING:
    from proxy.processes.files import Desk  # it reads the whole configuration, which the processes never do

logger = logging.getLogger("hsmitm.status")

_STOP_S = 2.0
_NICE = 10
"""Whoever floods the page burns what nobody else wants; a monitor that asks each second finds enough that is left."""


def made(
    config: Path,
    cage: Cage,
    *arguments: str,
    environment: dict[str, str],
    hang_s: float = 0.0,
    desk: Desk | None = None,
) -> Child:
    """The process, not started yet, for the configuration at `config`; the rest is as for a worker."""
    argv = [sys.executable, "-P", "-m", "proxy.processes.status_page", "--config", str(config), *arguments]
    return Child("status page", cage.command(argv), environment, hang_s=hang_s, desk=desk)


@asynccontextmanager
async def beside(config: Path, cage: Cage, environment: dict[str, str], leave: asyncio.Event) -> AsyncIterator[None]:
    """Keep the page running beside a signer that nobody supervises, from its being ready on.

    Raises MisconfiguredError where it cannot boot. Returns early where `leave` is set.
    """
    page = made(config, cage, "--end-with-parent", environment=environment)
    running = asyncio.create_task(page.run())
    try:
        ends: list[asyncio.Future[Any]] = [
            asyncio.create_task(page.ready.wait()), asyncio.create_task(leave.wait()), page.ended_for_good
        ]  # fmt: skip
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for one in ends[:2]:
            one.cancel()
        if page.ended_for_good.done():
            raise MisconfiguredError(f"{page.name} cannot start; the line above says why")
        yield
    finally:
        await page.stop(_STOP_S)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _end_with_parent(leave: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    while await reader.read(1024):
        pass
    leave.set()


async def _serve(config: StatusConfig, arguments: argparse.Namespace) -> None:
    assert config.listen is not None
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    ending = asyncio.create_task(_end_with_parent(leave)) if arguments.end_with_parent else None
    if arguments.supervised and ending is None:
        await supervised.begin(arguments.ready_fd)
    registry = CollectorRegistry()
    logs.count_in(registry)
    sight = Sight(config.signer)
    server = StatusServer(Page(sight, Hosts(config.listen, config.hosts), registry), registry)
    server.serve_at(config.listen)
    os.nice(_NICE)
    supervised.tell_ready(arguments.ready_fd)
    await leave.wait()
    server.stop()
    sight.close()


def run(config: StatusConfig, arguments: argparse.Namespace) -> None:
    """The page in this process, until SIGTERM or SIGINT. Raises MisconfiguredError."""
    if config.listen is None:
        raise MisconfiguredError("status.listen is empty: there is no status page to serve")
    logs.configure(config.log.level, "status")
    limits.no_core()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # its settings are read at start
    asyncio.run(_serve(config, arguments))


def alone(path: Path) -> None:
    """`hsmitm status-page`: as a process that somebody else keeps running. Raises MisconfiguredError."""
    run(status.load(path), _parser().parse_args(["--config", str(path)]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hsmitm status-page")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--supervised", action="store_true")
    parser.add_argument("--end-with-parent", action="store_true")
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--files-fd", type=int)
    return parser


def main() -> int:
    """Entry point: `python -m proxy.processes.status_page`, started by the supervisor or the signer."""
    arguments = _parser().parse_args()
    if arguments.files_fd is not None:
        reading.use(Line(arguments.files_fd).ask)
    try:
        run(status.load(arguments.config), arguments)
    except MisconfiguredError as error:
        logger.error("%s", error)  # noqa: TRY400  # an operator's sentence, no traceback
        return supervised.EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
