"""NSS's softokn, the token of Firefox and of Red Hat's servers, behind p11-kit's proxy module.

Its C_Initialize wants a string in pReserved that says where the database is (NSS before 3.9x wants nothing else, later
ones take NSS_LIB_PARAMS, too). p11-kit hands it over: x-init-reserved in the module's configuration.
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

    @property
    def module(self) -> str:
        """p11-kit's proxy, which loads softokn."""
        return library("usr/lib/*/p11-kit-proxy.so", package="p11-kit-modules")

    @property
    def environment(self) -> dict[str, str]:
        """Where p11-kit's configuration is."""
        return {
            "LD_PRELOAD": str(build(self.directory, _SOURCE)),
            "PRIVATE_ROOT": str(self.directory / "root"),
            "PRIVATE_PATHS": ":".join(_PATHS),
        }

    def prepare(self) -> None:
        """A database, and a configuration of p11-kit with this module alone."""
        database = self.directory / "database"
        database.mkdir()
        run("certutil", "-N", "-d", f"sql:{database}", "-f", self.pin_file)
        for path in _PATHS:
            (self.directory / "root" / path.lstrip("/")).mkdir(parents=True)
        softokn = library("usr/lib/*/libsoftokn3.so", "usr/lib/*/nss/libsoftokn3.so", package="libnss3")
        reserved = f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
        (self.directory / "root/etc/pkcs11/pkcs11.conf").write_text("user-config: none\n")
        (self.directory / "root/usr/share/p11-kit/modules/nss.module").write_text(
            f"module: {softokn}\nx-init-reserved: {reserved}\n"
        )
