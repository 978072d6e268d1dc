"""`hsmitm demo`: the main job on real traffic, and proof of each claim; then it serves until Ctrl-C.

It starts `hsmitm run` as an operator would, a small origin, and curl as the client. Host names of the demo resolve
nowhere, so a four-line script of mitmproxy's own kind sends them to the origin.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import certifi
from cryptography import x509
from rich.console import Console

from hsm.errors import HsmitmError, MisconfiguredError
from hsm.wire.admin import CODEC, Status, StatusReport
from hsm.wire.client import ask
from hsm.wire.run_directory import ADMIN_SOCKET
from proxy.commands.init.init import initialise
from proxy.commands.init.wanted import Wanted
from proxy.commands.options import CONFIG
from proxy.config import edit
from proxy.config.file import Config, load
from proxy.config.operation import ProxySection, StatusSection
from proxy.config.section import Address
from proxy.demo import cage, policy
from proxy.demo.origin import Origin, OriginCA
from proxy.demo.visit import visit

_HOSTS = ("shop.demo.test", "api.demo.test")
_READY_S = 30.0
_WARM_UP, _AGAIN = 30, 4
_ORIGINS = ("127.0.0.0/8",)
"""Where the demo's internet is; its port is another each time."""
_ORIGIN_CA = "origin-ca.pem"
"""Of the servers, for a client that is not inspected."""
_SCRIPT_NAME = "demo_hosts.py"
_SCRIPT = '''"""Sends the demo's host names to the demo's origin."""


def server_connect(data):
    if data.server.address[0].endswith(".demo.test"):
        data.server.address = ("127.0.0.1", data.server.address[1])
'''


async def demo(directory: Path, *, once: bool) -> bool:
    """Whether every part of the proof held. Serves until SIGINT or SIGTERM unless `once`."""
    console = Console(highlight=False, soft_wrap=True)
    if shutil.which("curl") is None:
        raise MisconfiguredError("the demo's client is curl, and it is not installed: apt-get install curl")
    directory = directory.absolute()
    origin_ca = OriginCA()
    config = await _prepare(directory, origin_ca, console)
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave.set)
    async with Origin(origin_ca) as origin:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "proxy.main", "run", "--config", str(config.path), start_new_session=True
        )
        try:
            await _until_ready(config, process)
            held = await _prove(config, origin, console)
            if not once and held:
                _say_how_to_use(config, origin, console)
                ended = asyncio.create_task(process.wait())
                await asyncio.wait([ended, asyncio.create_task(leave.wait())], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if process.returncode is None:
                process.terminate()
            status = await process.wait()
    if status:
        console.print(f"[bold red]FAILED[/] hsmitm ended with status {status}")
    return held and status == 0


async def _prepare(directory: Path, origin_ca: OriginCA, console: Console) -> Config:
    """The demo's directory: made at the first time, used again later."""
    path = directory / CONFIG
    if path.exists() and not (directory / _SCRIPT_NAME).exists():
        raise MisconfiguredError(f"{path} is not the demo's; choose another --dir")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / _ORIGIN_CA).write_text(origin_ca.pem)
    (directory / "roots.pem").write_text(origin_ca.pem + Path(certifi.where()).read_text())
    (directory / _SCRIPT_NAME).write_text(_SCRIPT)
    if not path.exists():
        console.rule("[bold]setting up", align="left")
        proxy_port, status_port = _free_ports()
        wanted = Wanted(
            directory=directory,
            module=None,
            token=None,
            listen=f"127.0.0.1:{proxy_port}",
            status_listen=f"127.0.0.1:{status_port}",
            upstream_ca="roots.pem",
            scripts=(_SCRIPT_NAME,),
            allow_destinations=_ORIGINS,
        )
        await initialise(wanted, console.print, lambda _: True)
    elif "allow_destinations = " not in (text := edit.read(path)):  # made by a version that let clients go anywhere
        edit.write(path, text.replace("\n[proxy]\n", f"\n[proxy]\nallow_destinations = {json.dumps(_ORIGINS)}\n", 1))
    policy.add_to(path)
    return load(path)


def _free_ports() -> list[int]:
    """For the proxy and its status page: the usual ports where they are free, others where not."""
    ports = []
    for usual in (ProxySection().listen, StatusSection().listen):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", Address.parse(usual).port))
            except OSError:
                probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    return ports


async def _until_ready(config: Config, process: asyncio.subprocess.Process) -> None:
    until = time.monotonic() + _READY_S
    while process.returncode is None and time.monotonic() < until:
        try:
            report = await _status(config)
        except HsmitmError:
            report = None
        if report and any(listener.workers == config.workers for listener in report.listeners):
            return
        await asyncio.sleep(0.1)
    raise MisconfiguredError("hsmitm did not begin to serve; the lines above say why")


async def _status(config: Config) -> StatusReport:
    reply = await ask(config.run.socket(ADMIN_SOCKET), CODEC, Status(), 5)
    assert isinstance(reply, StatusReport)
    return reply


async def _settled(config: Config, connections: float) -> StatusReport:
    """The status once workers have reported as many connections as were made: they report each second."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        report = await _status(config)
        # A connection is counted when it begins, and its leaf a moment later: a report may fall between the two.
        if report.counters["connections"] >= connections and _lookups(report) >= report.counters["connections"]:
            break
        await asyncio.sleep(0.05)  # another process's doing
    return report


def _lookups(report: StatusReport) -> float:
    return report.counters["cache_hits"] + report.counters["cache_misses"]


async def _prove(config: Config, origin: Origin, console: Console) -> bool:
    """Drive curl through the proxy and check each claim."""
    claims: list[tuple[bool, str]] = []
    base = await _status(config)
    console.rule("[bold]real requests through the proxy", align="left")
    visits = []
    for flag, host in (("--http1.1", _HOSTS[0]), ("--http2", _HOSTS[1]), ("--http1.1", "127.0.0.1")):
        seen = await visit(config, f"https://{host}:{origin.port}/", flag, trusting=_ca(config))
        visits.append(seen)
        console.print(f"{seen.url} -> HTTP/{seen.version} {seen.status}: {seen.text.strip()}")
        console.print(f"    certificate {seen.subject}, signed by {seen.issuer}")
    if not any(one.status == "200" for one in visits):
        console.print("[bold red]FAILED[/] no request was answered; the lines above say why")
        return False
    issuer = x509.load_pem_x509_certificate(_ca(config).read_bytes())
    name = issuer.subject.rfc4514_string().removeprefix("CN=")
    claims += [
        (all(v.status == "200" and "says hello" in v.text for v in visits), "every request was answered by the origin"),
        ({v.version for v in visits} == {"1.1", "2"}, "over HTTP/1.1 and over HTTP/2"),
        (all(name in v.issuer for v in visits), f"every certificate was signed by '{name}'"),
    ]
    made = 3
    while made < _WARM_UP and (await _settled(config, base.counters["connections"] + made)).counters["minted"] < (
        base.counters["minted"] + 2 + config.workers
    ):  # each worker keeps its own leaves, and the kernel chooses the worker: until each has asked for this host once
        await visit(config, f"https://{_HOSTS[0]}:{origin.port}/", "--http1.1", trusting=_ca(config))
        made += 1
    first = await _settled(config, base.counters["connections"] + made)
    for _ in range(_AGAIN):
        await visit(config, f"https://{_HOSTS[0]}:{origin.port}/", "--http1.1", trusting=_ca(config))
    second = await _settled(config, base.counters["connections"] + made + _AGAIN)
    again = second.counters["signatures"] - first.counters["signatures"]
    hits = second.counters["cache_hits"] - first.counters["cache_hits"]
    claims.append(
        (
            again == 0 and hits == _AGAIN,
            f"{_AGAIN} more requests to {_HOSTS[0]} needed {again:.0f} signatures: {hits:.0f} leaves from the cache",
        )
    )
    claims += [*_key_claims(second, config), await cage.kept(config, second)]
    claims += await policy.prove(config, origin, _ca(config), config.base / _ORIGIN_CA, console)
    for member in second.members:
        assert member.partition is not None
        console.print(f"\nThe CA key is on partition '{member.partition.label}', serial number "
                      f"{member.partition.serial}, of {member.module} ({member.module_version})")  # fmt: skip
    signatures = second.counters["signatures"]
    mean = 1000 * second.counters["signature_seconds"] / (signatures + second.counters["test_signatures"])
    console.print(f"The HSM made {signatures:.0f} signatures, {mean:.2f} ms each (mean)\n")
    for held, text in claims:
        console.print(f"{'[green]proved[/]' if held else '[bold red]FAILED[/]'} {text}")
    return all(held for held, _ in claims)


def _key_claims(report: StatusReport, config: Config) -> list[tuple[bool, str]]:
    claims = [
        (
            bool(one.proved) and one.guarded,
            f"the key of '{one.subject.removeprefix('CN=')}' is on the partition: "
            "sensitive, never extractable, proved by a signature",
        )
        for one in report.certificates
    ]
    clear = [
        path.name for path in config.base.rglob("*") if path.is_file() and b"PRIVATE KEY-----" in path.read_bytes()
    ]
    claims.append(
        (
            not clear,
            "no PEM file here holds a private key (SoftHSM keeps its own encrypted, under the PIN)"
            + (f": but {', '.join(clear)} does" if clear else ""),
        )
    )
    return claims


def _ca(config: Config) -> Path:
    """What the demo's client trusts."""
    return config.base / config.file.authorities["trust"].certificate


def _say_how_to_use(config: Config, origin: Origin, console: Console) -> None:
    console.rule("[bold]serving until Ctrl-C", align="left")
    console.print(f"curl --proxy http://{config.listen} --cacert {_ca(config)} https://{_HOSTS[0]}:{origin.port}/")
    console.print(f"{Path(sys.executable).with_name('hsmitm')} status --config {config.path}")
    if config.status_listen:
        console.print(f"curl http://{config.status_listen}/metrics")
