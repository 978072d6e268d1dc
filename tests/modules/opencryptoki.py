"""openCryptoki: a daemon that keeps the slots, shared memory, and a token in files. IBM's way to its own HSMs.

All of its paths are compiled in, so daemon, tools and library are given others by `private_paths.c`: the machine's own
openCryptoki, if it has one, is not touched.
"""

from __future__ import annotations

from pathlib import Path

from bench.rig.faulty_module import build
from bench.rig.port import free_port
from tests.modules.daemon import Daemon
from tests.modules.vendor import Vendor, library, run

_PATHS = (
    "/etc/opencryptoki", "/var/lib/opencryptoki", "/var/run/pkcsslotd", "/run/pkcsslotd", "/run/opencryptoki",
    "/var/run/opencryptoki", "/var/lock/opencryptoki", "/run/lock/opencryptoki", "/var/log/opencryptoki",
)  # fmt: skip
_SOURCE = Path(__file__).with_name("private_paths.c")
_STRENGTH = (
    "version strength-0\n"
    "strength 112 { MOD_EXP = 2048 ECC = 224 SYMMETRIC = 112 digest = 224 signature = 112 }\n"
    "strength 128 { MOD_EXP = 3072 ECC = 256 SYMMETRIC = 128 digest = 256 signature = 128 }\n"
)
_FIRST_SO_PIN = "87654321"


class OpenCryptoki(Vendor):
    """Its software token."""

    name = "opencryptoki"

    def __init__(self, directory: Path) -> None:
        """`directory` has a root of file systems in it."""
        super().__init__(directory)
        self._root = directory / "root"
        self._number = free_port()  # nobody else's, as long as this process runs
        self.daemons = [
            Daemon(
                ["/usr/sbin/pkcsslotd", "-f"], directory / "pkcsslotd.log", self._listens,
                self.environment | {"PRIVATE_DAEMON": "1"},
            )
        ]  # fmt: skip

    @property
    def module(self) -> str:
        """The library that applications load."""
        return library("usr/lib/*/opencryptoki/libopencryptoki.so.0", package="opencryptoki")

    @property
    def environment(self) -> dict[str, str]:
        """Where its files are."""
        return {
            "LD_PRELOAD": str(build(self.directory, _SOURCE)),
            "PRIVATE_ROOT": str(self._root),
            "PRIVATE_PATHS": ":".join(_PATHS),
            "PRIVATE_NUMBER": str(self._number),
            "PRIVATE_USER": "pkcsslotd",
        }

    def _listens(self) -> bool:
        return any(self._root.glob("**/pkcsslotd.socket"))

    def prepare(self) -> None:
        """One slot with its software token."""
        for path in (*_PATHS, "/var/lib/opencryptoki/swtok/TOK_OBJ", "/var/lock/opencryptoki/swtok", "/run"):
            (self._root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        configuration = self._root / "etc/opencryptoki/opencryptoki.conf"
        configuration.write_text("version opencryptoki-3.1\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n")
        strength = configuration.with_name("strength.conf")  # read from 3.17 on, which wants it so guarded
        strength.write_text(_STRENGTH)
        strength.chmod(0o640)
        self.daemons[0].start()
        self._tool("-I", "-S", _FIRST_SO_PIN, text=f"{self.token}\n")
        self._tool("-P", "-S", _FIRST_SO_PIN, "-n", "so-pin-1")
        self._tool("-u", "-S", "so-pin-1", "-n", "first-pi")
        self._tool("-p", "-U", "first-pi", "-n", self.pin)
        self.ec = "(CKM_ECDSA)" in self._tool("-m")  # not before 3.9: Debian 12's has no EC, and nothing that hashes

    def end(self) -> None:
        """Its library leaves shared memory behind."""
        super().end()
        for left in Path("/dev/shm").glob(f"{self._number}-*"):
            left.unlink()

    def revive(self) -> None:
        """A killed daemon leaves its socket behind."""
        for socket in self._root.glob("**/pkcsslotd.socket"):
            socket.unlink()
        super().revive()

    def _tool(self, *arguments: str, text: str = "") -> str:
        return run("pkcsconf", "-c", "0", *arguments, environment=self.environment, text=text)
