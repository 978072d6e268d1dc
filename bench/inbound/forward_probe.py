"""Requests at a steady pace on one kept-alive connection through the proxy: a process of its own, `python -m
bench.inbound.forward_probe`.

It is what a user inside sees while the same worker is busy with inbound handshakes. Blocking sockets in a process that
does nothing else: what it measures is not its own event loop. A latency counts from the time when the request was due,
so that a request held up behind a slow one is slow as well.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import sys
import time

import msgspec
from msgspec import Struct

_LIMIT_S = 30.0


class Route(Struct, frozen=True):
    """`rate` requests each second for `seconds`, through `proxy` to `host`:`port`, whose leaf is `ca`'s."""

    proxy: str
    host: str
    port: int
    ca: str
    rate: float
    seconds: float


class Probed(Struct, frozen=True):
    """Milliseconds from when each request was due to the last byte of its answer."""

    latencies_ms: list[float]
    errors: list[str]


async def probe(route: Route) -> Probed:
    """Run the process and wait for its result."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "bench.inbound.forward_probe", msgspec.json.encode(route).decode(),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return msgspec.json.decode(out, type=Probed)


def _requests(route: Route) -> Probed:
    proxy, _, proxy_port = route.proxy.rpartition(":")
    tls = ssl.create_default_context(cafile=route.ca)
    connection = http.client.HTTPSConnection(proxy, int(proxy_port), context=tls, timeout=_LIMIT_S)
    connection.set_tunnel(route.host, route.port)
    latencies_ms: list[float] = []
    try:
        _exchange(connection)  # the tunnel, both handshakes and the leaf are not what is measured
        begin = time.monotonic()
        for number in range(int(route.rate * route.seconds)):
            due = begin + number / route.rate
            time.sleep(max(0.0, due - time.monotonic()))
            _exchange(connection)
            latencies_ms.append(1000 * (time.monotonic() - due))
    except (OSError, http.client.HTTPException) as error:
        return Probed(latencies_ms, [f"forward request {len(latencies_ms)}: {type(error).__name__}: {error}"])
    finally:
        connection.close()
    return Probed(latencies_ms, [])


def _exchange(connection: http.client.HTTPSConnection) -> None:
    connection.request("GET", "/")
    answer = connection.getresponse()
    if answer.status != 200 or b"says hello" not in answer.read():
        raise http.client.HTTPException(f"not the origin's answer: {answer.status}")


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_requests(msgspec.json.decode(sys.argv[1], type=Route))))
