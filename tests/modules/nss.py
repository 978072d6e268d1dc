"""NSS's softokn, the token of Firefox and of Red Hat's servers: itself, or behind p11-kit's proxy module.

Its C_Initialize wants a string in pReserved that says where the database is; newer ones read it from NSS_LIB_PARAMS.
Before them p11-kit hands it over: x-init-reserved in the module's configuration, on private paths (`private_paths.c`).
"""

from __future__ import annotations

from pathlib import Path

from bench.rig.faulty_module import build
from tests.modules.vendor import Vendor, library, run

_SOURCE = Path(__file__).with_name("private_paths.c")
_PATHS = ("/etc/pkcs11", "/usr/share/p11-kit/modules")


class Nss(Vendor):
    """A certificate database with a password."""

    name = "nss"
    token = "NSS Certificate DB"

    def __init__(self, directory: Path) -> None:
        """Nothing runs, here or later: softokn is a library and a database."""
        super().__init__(directory)
        self._softokn = library("usr/lib/*/libsoftokn3.so", "usr/lib/*/nss/libsoftokn3.so", package="libnss3")
        self._alone = b"NSS_LIB_PARAMS" in Path(self._softokn).read_bytes()

    @property
    def module(self) -> str:
        """softokn, or p11-kit's proxy, which loads it."""
        return self._softokn if self._alone else library("usr/lib/*/p11-kit-proxy.so", package="p11-kit-modules")

    @property
    def environment(self) -> dict[str, str]:
        """Where its database is, or p11-kit's configuration."""
        if self._alone:
            return {"NSS_LIB_PARAMS": f"configdir='sql:{self.directory / 'database'}'"}
        return {
            "LD_PRELOAD": str(build(self.directory, _SOURCE)),
            "PRIVATE_ROOT": str(self.directory / "root"),
            "PRIVATE_PATHS": ":".join(_PATHS),
        }

    def prepare(self) -> None:
        """A database, and where it is needed a configuration of p11-kit with this module alone."""
        database = self.directory / "database"
        database.mkdir()
        run("certutil", "-N", "-d", f"sql:{database}", "-f", self.pin_file)
        if self._alone:
            return
        for path in _PATHS:
            (self.directory / "root" / path.lstrip("/")).mkdir(parents=True)
        reserved = f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
        (self.directory / "root/etc/pkcs11/pkcs11.conf").write_text("user-config: none\n")
        (self.directory / "root/usr/share/p11-kit/modules/nss.module").write_text(
            f"module: {self._softokn}\nx-init-reserved: {reserved}\n"
        )
