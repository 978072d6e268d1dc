"""What real clients say to a server of ours: recorded flights, for the fuzzer to spoil.

Between each client and the server stands a relay that keeps the client's bytes; a flight ends where the server answers.
The clients are the programs that are installed; certificates are not checked, nothing secret is sent.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from hsm.errors import MisconfiguredError

_LIMIT_S = 20.0

_PYTHON = """
import socket, ssl, sys
port, host, version = int(sys.argv[1]), sys.argv[2], ssl.TLSVersion[sys.argv[3]]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.minimum_version = context.maximum_version = version
context.set_alpn_protocols(["http/1.1"])
with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=host) as tls:
    tls.sendall(b"GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" % host.encode())
    while tls.recv(65536): pass
"""
_NODE = """
const [port, servername, version] = process.argv.slice(1);
require("https").get({ host: "127.0.0.1", port, servername, minVersion: version, maxVersion: version,
  rejectUnauthorized: false, agent: false }, (answer) => { answer.resume(); });
"""


class Session(Struct, frozen=True):
    """A client's whole connection: its name, and what it said between the server's answers."""

    client: str
    flights: list[bytes]


def commands(host: str, port: int) -> dict[str, list[str]]:
    """Command lines by name, of clients that ask `host` at `port` for one page; each reads a request from its input or
    makes its own."""
    made = {}
    for version in ("1.2", "1.3"):
        dashed = version.replace(".", "_")
        made[f"openssl {version}"] = [
            "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", host, f"-tls{dashed}",
            "-alpn", "http/1.1", "-status", "-quiet", "-no_ign_eof",
        ]  # fmt: skip
        made[f"gnutls-cli {version}"] = [
            "gnutls-cli", "--insecure", f"--sni-hostname={host}", f"--port={port}",
            f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}", "127.0.0.1",
        ]  # fmt: skip
        made[f"curl {version}"] = [
            "curl", "--silent", "--insecure", "--noproxy", "*", "--max-time", "10", f"--tlsv{version}", "--tls-max",
            version, "--resolve", f"{host}:{port}:127.0.0.1", f"https://{host}:{port}/",
        ]  # fmt: skip
        made[f"python {version}"] = [sys.executable, "-c", _PYTHON, str(port), host, f"TLSv{dashed}"]
        made[f"node {version}"] = ["node", "-e", _NODE, str(port), host, f"TLSv{version}"]
    return made


def missing() -> list[str]:
    """Clients that are not installed."""
    return sorted({command[0] for command in commands("", 0).values() if shutil.which(command[0]) is None})


async def recorded(address: str, hosts: Sequence[str]) -> list[Session]:
    """A session of every installed client and version at `address` ("host:port"), with `hosts` in turn."""
    installed = [name for name, command in commands("", 0).items() if shutil.which(command[0])]
    # Both versions of a client with the same host, the next client's with the next.
    return [await _record(name, hosts[at // 2 % len(hosts)], address) for at, name in enumerate(sorted(installed))]


async def _record(name: str, host: str, address: str) -> Session:
    """Raises MisconfiguredError where the client did not come as far as to send a request."""
    relay = _Relay(address)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *commands(host, port)[name],
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            async with asyncio.timeout(_LIMIT_S):
                await process.communicate(request.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if len(relay.flights) < 2:
        raise MisconfiguredError(f"{name} did not complete a handshake with {host}: there is nothing to spoil")
    return Session(f"{name} {host}", [bytes(one) for one in relay.flights])


class _Relay:
    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._answered = True
        self.flights: list[bytearray] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pass_on(reader, back, from_client=True))
                directions.create_task(self._pass_on(there, writer, from_client=False))
        finally:
            for one in (back, writer):
                one.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if from_client:
                    if self._answered:
                        self.flights.append(bytearray())
                    self.flights[-1] += data
                self._answered = not from_client
                writer.write(data)
            writer.write_eof()
