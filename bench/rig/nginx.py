"""nginx as a peer: one worker with the sites' keys in PEM files, or on a partition through OpenSSL's PKCS#11 engine.

The engine's C_Sign is called in nginx's event loop, which waits for it: that is what hsmitm is measured against. Both
answer from the same plain origin, with one connection to it for each of a client's, as hsmitm does: nginx's keepalive
to its upstream is off, which is its default.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from bench.report.processes import tree
from bench.rig.port import free_port
from bench.rig.site import Site
from hsm.errors import MisconfiguredError

_READY_S = 20.0
_ENGINES = ("usr/lib/*/engines-3/pkcs11.so", "usr/lib64/engines-3/pkcs11.so", "usr/lib/engines-3/pkcs11.so")
_KEPT = ("PATH", "LANG", "HOME")

_OPENSSL = """openssl_conf = openssl
[openssl]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
dynamic_path = {engine}
MODULE_PATH = {module}
PIN = {pin}
init = 0
"""

_MAIN = """daemon off;
worker_processes 1;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
{engine}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000000;
    {http}
}}
"""

_SERVER = """server {{
        listen {address} ssl;
        server_name {host};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{ proxy_pass {upstream}; }}
    }}
    """


class Token:
    """What the engine needs of an HSM: the module, the PIN, and the environment that the module reads."""

    def __init__(self, module: Path, pin: str, environment: dict[str, str]) -> None:
        self.module, self.pin, self.environment = module, pin, environment


def executable() -> str | None:
    """nginx, also where a user's PATH does not lead."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def engine() -> Path | None:
    """OpenSSL's PKCS#11 engine."""
    return next((path for pattern in _ENGINES for path in Path("/").glob(pattern)), None)


def missing(*, with_engine: bool) -> str:
    """Why nginx cannot be measured here, and what to install; empty where it can be."""
    if executable() is None:
        return "nginx is not installed: apt-get install nginx-light"
    if with_engine and engine() is None:
        return "OpenSSL's PKCS#11 engine is not installed: apt-get install libengine-pkcs11-openssl"
    return ""


def version() -> str:
    """nginx's version and that of its OpenSSL, as `nginx -V` tells them."""
    program = executable()
    assert program is not None
    told = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stderr
    return "; ".join(re.findall(r"nginx/\S+|OpenSSL \S+", told)[:2])


class Nginx:
    """One nginx with one worker. Use it as an async context manager; `address` is where it listens."""

    def __init__(self, directory: Path, sites: list[Site], upstream: str, token: Token | None = None) -> None:
        """`upstream` is a URL. With a `token` the sites' keys are PKCS#11 URIs, without one PEM files."""
        self.directory, self.address = directory, f"127.0.0.1:{free_port()}"
        self._sites, self._upstream, self._token = sites, upstream, token
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pids(self) -> list[int]:
        """Its processes: the master, which idles, and the worker."""
        assert self._process is not None
        return tree(self._process.pid)

    @property
    def user(self) -> str:
        """Started as root, workers would become www-data and could not enter the measurement's directory."""
        return "user root;" if os.geteuid() == 0 else ""

    def _whole(self, http: str, main: str = "") -> str:
        """Its configuration, with these lines in `http` and on top of it."""
        return _MAIN.format(user=self.user, directory=self.directory, engine=main, http=http)

    async def __aenter__(self) -> Self:
        """Start it and wait until it accepts connections. Raises MisconfiguredError with its log where it does not."""
        program = executable()
        assert program is not None
        self.directory.mkdir(mode=0o700)
        configuration = self.directory / "nginx.conf"
        configuration.write_text(self._configuration())
        log = self.directory / "error.log"
        with (self.directory / "output.log").open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                program, "-p", str(self.directory), "-e", str(log), "-c", str(configuration),
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | self._environment(),
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            await self._until_ready(self._process)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Have the master end its worker and itself."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    def log(self) -> str:
        """What it complained of."""
        return "".join(path.read_text() for path in sorted(self.directory.glob("*.log")))

    def _configuration(self) -> str:
        prefix = "engine:pkcs11:" if self._token else ""
        servers = "".join(
            _SERVER.format(address=self.address, host=site.host, certificate=site.certificate,
                           key=f'"{prefix}{site.key}"', upstream=self._upstream)
            for site in self._sites
        )  # fmt: skip
        names = [*self._environment()]
        engine_lines = "\n".join(["ssl_engine pkcs11;", *(f"env {name};" for name in names)]) if self._token else ""
        return self._whole(f"ssl_protocols TLSv1.2 TLSv1.3;\n    {servers}", engine_lines)

    def _environment(self) -> dict[str, str]:
        if self._token is None:
            return {}
        path = self.directory / "openssl.cnf"
        path.touch(mode=0o600)
        path.write_text(_OPENSSL.format(engine=engine(), module=self._token.module, pin=self._token.pin))
        return self._token.environment | {"OPENSSL_CONF": str(path)}

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        until = time.monotonic() + _READY_S
        host, _, port = self.address.rpartition(":")
        while process.returncode is None and time.monotonic() < until:
            # The master listens before it forks the worker: without one, a measurement would begin too early.
            if len(self.pids) > 1:
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    pass
                else:
                    writer.close()
                    return
            await asyncio.sleep(0.05)  # another process's doing
        raise MisconfiguredError(f"nginx did not begin to serve: {self.log()[-2000:]}")
