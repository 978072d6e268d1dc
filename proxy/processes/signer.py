"""The signer's process: the service (`hsm.signer.signer`), its signals, and the status page that it keeps where nobody
supervises it. Wiring only.

PINs that a prompt asks for come through here: from the terminal, or from the supervisor's first line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys

from msgspec import structs

from hsm.errors import HsmitmError, MisconfiguredError
from hsm.secrets import pin
from hsm.signer.records import Records
from hsm.signer.signer import Signer
from proxy.config.file import Config, load
from proxy.processes import environment, limits, logs, notify, rights, supervised
from proxy.processes.mint_records import WrittenRecords

logger = logging.getLogger("hsmitm.signer")


def prompt_pins(config: Config) -> dict[str, str]:
    """PINs of the members that want a prompt. Raises MisconfiguredError where there is no terminal to ask on."""
    pins = {}
    for member in config.file.hsm.members:
        if member.pin.prompt:
            if not sys.stdin.isatty():
                raise MisconfiguredError(f"member {member.name}: its PIN comes from a prompt, and there is no terminal")
            pins[member.name] = pin.ask(f"PIN of member {member.name}: ")
    return pins


async def serve(
    config: Config, pins: dict[str, str], records: Records, *, is_child: bool, ready_fd: int | None
) -> None:
    """Run the signer until SIGTERM or SIGINT. Raises MisconfiguredError where it cannot begin."""
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    if is_child:
        first = await supervised.begin(ready_fd)
        pins = json.loads(first) if first else {}
    signer = Signer(config.signer(), pins, lambda: load(config.path, config.workers_as).signer(), records)
    logs.count_in(signer.registry)
    loop.add_signal_handler(signal.SIGHUP, _reload, signer)
    beside = contextlib.AsyncExitStack()
    leaving = asyncio.create_task(leave.wait())
    try:
        opening = asyncio.create_task(signer.open())
        await asyncio.wait([opening, leaving], return_when=asyncio.FIRST_COMPLETED)
        if leave.is_set():
            opening.cancel()
            return
        await opening
        if not is_child and config.status_listen and not config.status_elsewhere:
            # Here, for a supervised signer that was killed is waited for, and comes back sooner without.
            from proxy.processes import quarters, status_page  # noqa: PLC0415

            given = environment.of_worker(os.environ, [], config.secret_variables)
            cage = quarters.of_page(config, given)
            await beside.enter_async_context(status_page.beside(config.path, cage, given, leave))
        if config.status_listen and config.status_elsewhere:
            logger.info("the status page is left to user %s: 'hsmitm status-page'", config.file.status.user)
        logger.info("signer serves at %s", config.run.path)
        supervised.tell_ready(ready_fd)
        await leaving
    finally:
        notify.tell("STOPPING=1")
        leaving.cancel()
        await beside.aclose()
        await signer.close()


_reloads: set[asyncio.Task[None]] = set()


def _reload(signer: Signer) -> None:
    """SIGHUP: the configuration is read again."""

    async def reload() -> None:
        try:
            await signer.reload()
        except HsmitmError as error:
            logger.error("reload: nothing changed: %s", error)  # noqa: TRY400  # an operator's sentence, no traceback

    task = asyncio.create_task(reload())
    _reloads.add(task)
    task.add_done_callback(_reloads.discard)


def run(config: Config, *, is_child: bool = False, ready_fd: int | None = None) -> None:
    """The signer in this process. Raises MisconfiguredError."""
    records = WrittenRecords(logs.configure(config.file.log.level, "signer"))
    limits.no_core()  # PINs pass through here
    limits.raise_descriptors()
    rights.seal()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    if not is_child and os.geteuid() == 0 and config.file.run.worker_user:
        config = structs.replace(config, workers_as=config.file.run.worker_user)
    pins = {} if is_child else prompt_pins(config)
    asyncio.run(serve(config, pins, records, is_child=is_child, ready_fd=ready_fd))
