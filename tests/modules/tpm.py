"""A TPM: swtpm instead of a chip, tpm2-abrmd as the resource manager on a message bus of its own, tpm2-pkcs11."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.rig.port import free_port
from tests.modules.daemon import Daemon
from tests.modules.vendor import Vendor, library, run

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""


class Tpm(Vendor):
    """One token of a TPM 2.0."""

    name = "tpm"
    token = "tpm"

    def __init__(self, directory: Path) -> None:
        """The bus is in `directory`; the TPM listens on two ports, one after the other."""
        super().__init__(directory)
        self._port = free_port()
        self._bus = directory / "bus"
        bus = directory / "bus.conf"
        bus.write_text(_BUS.format(self._bus))
        state, log = directory / "state", directory / "tpm.log"
        state.mkdir()
        swtpm = [
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "startup-clear",
            "--log", f"file={log}", "--server", f"type=tcp,port={self._port}",
            "--ctrl", f"type=tcp,port={self._port + 1}",
        ]  # fmt: skip
        manager = [
            "tpm2-abrmd", "--session", "--flush-all", "--tcti", f"swtpm:host=127.0.0.1,port={self._port}",
            *(["--allow-root"] if os.geteuid() == 0 else []),
        ]  # fmt: skip
        self.daemons = [
            Daemon(["dbus-daemon", "--nofork", "--nopidfile", f"--config-file={bus}"], log, self._bus.exists),
            Daemon(swtpm, log, self._tpm_listens),
            Daemon(manager, log, self._answers, self.environment),
        ]

    @property
    def module(self) -> str:
        """tpm2-pkcs11."""
        return library("usr/lib/*/pkcs11/libtpm2_pkcs11.so", package="libtpm2-pkcs11-1")

    @property
    def environment(self) -> dict[str, str]:
        """The store of wrapped keys, the resource manager, and the bus that it is found on."""
        return {
            "TPM2_PKCS11_STORE": str(self.directory / "store"),
            "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self._bus}",
        }

    def _tpm_listens(self) -> bool:
        listening = Path("/proc/net/tcp").read_text()
        return all(f":{port:04X} 00000000:0000 0A" in listening for port in (self._port, self._port + 1))

    def _answers(self) -> bool:
        try:
            return bool(self._tool("tpm2_getrandom", "4", "--hex"))
        except AssertionError:
            return False

    def prepare(self) -> None:
        """A primary object, and a token below it."""
        (self.directory / "store").mkdir()
        for daemon in self.daemons:
            daemon.start()
        self._ptool("init")
        self._ptool("addtoken", "--pid", "1", "--label", self.token, "--userpin", self.pin, "--sopin", "so-pin-1")

    def kill(self) -> None:
        """The resource manager: what a TPM's users lose when it crashes."""
        self.daemons[-1].kill()

    def revive(self) -> None:
        """The resource manager again."""
        self.daemons[-1].start()

    def import_rsa(self, private: rsa.RSAPrivateKey, label: str, identifier: bytes) -> None:
        """Wrapped by the TPM with its own tool; C_CreateObject is not for private keys there."""
        key = self.directory / f"{label}.pem"
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        self._ptool(
            "import", "--algorithm", "rsa", "--privkey", str(key), "--label", self.token, "--key-label", label,
            "--userpin", self.pin, "--id", identifier.hex(),
        )  # fmt: skip

    def _ptool(self, action: str, *arguments: str) -> None:
        self._tool("tpm2_ptool", action, "--path", str(self.directory / "store"), *arguments)

    def _tool(self, *command: str) -> str:
        return run(*command, environment=self.environment | {"TPM2TOOLS_TCTI": self.environment["TPM2_PKCS11_TCTI"]})
