"""ApacheBench (`ab`) as the closed-loop load: so many clients, each opening connection after connection.

Each request is a new TCP connection, a full handshake (ab keeps no session and so offers none), one GET and the close.
ab, and not one of its peers: wrk and h2load are made for connections that are kept, openssl s_time has one client, and
asyncio with the standard library's ssl costs more than nginx itself. ab is one thread in C: whether it was fast enough
is measured (`generator_s`), not believed.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import tempfile
from pathlib import Path

from msgspec import Struct

from bench.report.processes import children_s
from bench.rig import plain_origin
from hsm.errors import MisconfiguredError

_MOST_ERRORS = 5
_STUCK_S = 60.0
"""ab's own limit for one answer is half of it (-s): a run that is stuck ends."""


class Load(Struct, frozen=True):
    """What one run of ab met: `requests` that got their answer, and those that `failed`. `latencies_ms` are whole
    milliseconds from a connection's begin to its end, those of failed ones among them; `generator_s` is ab's own CPU
    time."""

    requests: int
    seconds: float
    generator_s: float
    latencies_ms: list[float]
    failed: int
    errors: list[str]


def require() -> None:
    """Raises MisconfiguredError where ab is not installed."""
    if shutil.which("ab") is None:
        raise MisconfiguredError("the load generator is missing: apt-get install apache2-utils (it has ab)")


async def run(address: str, host: str, *, clients: int, requests: int, tls: str, limit_s: float) -> Load:
    """`requests` connections to `address`, whose SNI and Host are `host`, from `clients` at a time.

    `tls` is "1.2" or "1.3". A number and no time limit: ab's clock then stops at the last answer, and a server that
    answers 64 clients in one burst a second is not measured by where in it the time ran out. Longer than `limit_s`
    (and what a stuck answer takes) it does not run.
    """
    with tempfile.NamedTemporaryFile(prefix="ab-") as samples:
        before = children_s()  # nothing else ends meanwhile
        process = await asyncio.create_subprocess_exec(
            "ab", "-q", "-r", "-s", f"{_STUCK_S / 2:.0f}", "-f", f"TLS{tls}", "-c", str(clients), "-n", str(requests),
            "-H", f"Host: {host}", "-g", samples.name, f"https://{address}/",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        stopped = asyncio.get_running_loop().call_later(limit_s + _STUCK_S, process.send_signal, signal.SIGINT)
        out, err = await process.communicate()
        stopped.cancel()
        return _parsed(out.decode(), err.decode(), Path(samples.name), requests, children_s() - before)


def _parsed(out: str, err: str, samples: Path, wanted: int, generator_s: float) -> Load:
    seconds = re.search(r"^Time taken for tests:\s+([\d.]+)", out, re.M)
    if seconds is None:
        raise MisconfiguredError(f"ab could not measure: {err.strip() or out.strip()}")
    complete, failed = _count(out, "Complete requests"), _count(out, "Failed requests")
    not_2xx, body = _count(out, "Non-2xx responses"), _count(out, "HTML transferred")
    # To ab a connection that is closed without an answer is complete, and a failure only where the first one was not
    # closed, too. So the bytes are counted.
    lost = min(wanted, max(failed, not_2xx, wanted - complete, wanted - body // len(plain_origin.BODY)))
    errors = []
    if lost:
        why = re.search(r"^\s+\((Connect:.*)\)$", out, re.M)
        errors.append(
            f"ab: {lost} of {wanted} failed; answers that are not 2xx: {not_2xx}; {why[1] if why else 'closed'}"
        )
        # OpenSSL's lines begin with a thread's id.
        told = [re.sub("^[0-9A-F]{12,16}:", "", line) for line in err.splitlines()]
        errors += list(dict.fromkeys(line for line in told if line.strip()))[:_MOST_ERRORS]
    # The first line is a header; the columns are start, its second, connect, the rest, total and wait, in ms.
    latencies = [float(line.split("\t")[4]) for line in samples.read_text().splitlines()[1:]]
    return Load(wanted - lost, float(seconds[1]), generator_s, latencies, lost, errors)


def _count(out: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", out, re.M)
    return int(found[1]) if found else 0
