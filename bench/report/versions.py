"""Which programs and libraries a measurement ran with, beside the Python packages that every report names."""

from __future__ import annotations

import shutil
import subprocess

_PACKAGES = (
    "nginx",
    "nginx-light",
    "libengine-pkcs11-openssl",
    "apache2-utils",
    "nghttp2-client",
    "nghttp2-server",
    "squid-openssl",
    "sslsplit",
    "softhsm2",
    "libgnutls30",
    "libgnutls30t64",
)


def installed() -> dict[str, str]:
    """Version by package, of the distribution's packages that are measured or measure; empty without dpkg."""
    program = shutil.which("dpkg-query")
    if program is None:
        return {}
    told = subprocess.run(
        [program, "-W", "-f", "${db:Status-Abbrev}${Package} ${Version}\n", *_PACKAGES],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    rows = [line.split() for line in told.splitlines()]
    return {row[1]: row[2] for row in rows if row[0] == "ii"}
